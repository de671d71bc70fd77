"""Swin's attention within shifted windows, with fewer heads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

from .widths import widths


class _Slim(ShiftedWindowAttention):
    """Attention within shifted windows, whose heads are together narrower than the stream.

    The scores keep their scale 1 / sqrt(head_dim), whatever is left of a head's features.

    Source: Ze Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted
    Windows", 2021, arXiv 2103.14030.
    """

    head_dim: int

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, C] -> the same shape."""
        _, height, width, _ = x.shape
        windows, shift = self.window_size, list(self.shift_size)
        x = F.pad(x, (0, 0, 0, -width % windows[1], 0, -height % windows[0]))
        padded = x.shape[1:3]
        for axis in range(2):
            if windows[axis] >= padded[axis]:
                shift[axis] = 0  # the window sees everything as it is
        if any(shift):
            x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
        counts = [size // window for size, window in zip(padded, windows, strict=True)]
        tiled = x.unflatten(2, (counts[1], windows[1])).unflatten(1, (counts[0], windows[0]))
        tokens = tiled.transpose(2, 3).flatten(3, 4).flatten(0, 2)  # [B * windows, tokens, C]

        tokens = self._attend(tokens, _mask(padded, windows, shift, x) if any(shift) else None)

        tiled = tokens.unflatten(1, tuple(windows)).unflatten(0, (-1, *counts)).transpose(2, 3)
        x = tiled.flatten(3, 4).flatten(1, 2)
        if any(shift):
            x = torch.roll(x, (shift[0], shift[1]), (1, 2))
        return x[:, :height, :width].contiguous()

    def _attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x [B * windows, tokens, C]; mask [windows, tokens, tokens]."""
        parts = F.linear(x, self.qkv.weight, self._bias()).split(self._widths(), -1)
        q, k, v = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        scores = self._scores(q, k) + self.get_relative_position_bias()
        if mask is not None:
            by_window = scores.unflatten(0, (-1, len(mask))) + mask.unsqueeze(1)
            scores = by_window.flatten(0, 1)
        scores = F.dropout(F.softmax(scores, -1), self.attention_dropout, self.training)
        out = self.proj((scores @ v).transpose(1, 2).flatten(2))
        return F.dropout(out, self.dropout, self.training)

    def _widths(self) -> list[int]:
        return widths(self.qkv.weight, self.proj)

    def _bias(self) -> Tensor | None:
        return self.qkv.bias

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q * self.head_dim**-0.5 @ k.transpose(-2, -1)


class SlimShiftedWindowAttention(_Slim):
    """Swin's."""


class SlimShiftedWindowAttentionV2(_Slim, ShiftedWindowAttentionV2):
    """Swin V2's: cosines between queries and keys, with a learned scale for each head.

    Source: Ze Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", 2021, arXiv
    2111.09883.
    """

    def _bias(self) -> Tensor | None:
        if self.qkv.bias is None:
            return None
        q, k, v = self.qkv.bias.split(self._widths())
        return torch.cat([q, torch.zeros_like(k), v])  # keys have none

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        cosines = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        return cosines * self.logit_scale.clamp(max=math.log(100.0)).exp()


def _mask(size: torch.Size, windows: list[int], shift: list[int], x: Tensor) -> Tensor:
    """-100 between tokens [windows, tokens, tokens] that the shift brought into one window."""
    region = x.new_zeros(tuple(size))
    count = 0
    for rows in _slices(windows[0], shift[0]):
        for columns in _slices(windows[1], shift[1]):
            region[rows, columns] = count
            count += 1
    tiled = region.unflatten(1, (-1, windows[1])).unflatten(0, (-1, windows[0]))
    tokens = tiled.transpose(1, 2).flatten(2, 3).flatten(0, 1)
    apart = tokens.unsqueeze(1) != tokens.unsqueeze(2)
    return torch.where(apart, -100.0, 0.0).to(x.dtype)


def _slices(window: int, shift: int) -> tuple[slice, ...]:
    # With a shift of 0 the last is the whole axis, and what the others wrote is overwritten.
    return slice(0, -window), slice(-window, -shift), slice(-shift, None)


def slim(module: Any) -> None:
    """Let the module take its sizes from its parameters, in place."""
    if not isinstance(module, _Slim):
        module.head_dim = module.proj.weight.shape[0] // module.num_heads
        second = isinstance(module, ShiftedWindowAttentionV2)
        module.__class__ = SlimShiftedWindowAttentionV2 if second else SlimShiftedWindowAttention
