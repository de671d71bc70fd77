"""MaxViT's attention over windows and grids, with fewer heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention

from .widths import widths


class SlimRelativePositionalMultiHeadAttention(RelativePositionalMultiHeadAttention):
    """Attention within each group of tokens, whose heads are together narrower than the stream."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, groups, tokens, C] -> the same shape."""
        parts = self.to_qkv(x).split(widths(self.to_qkv.weight, self.merge), -1)
        # [B, groups, heads, tokens, features of a head]
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)).transpose(-3, -2) for part in parts)
        scores = q @ (k * self.scale_factor).transpose(-2, -1)
        scores = F.softmax(scores + self.get_relative_positional_bias(), -1)
        merged: Tensor = self.merge((scores @ v).transpose(-3, -2).flatten(-2))
        return merged


def slim(module: Any) -> None:
    """Let the module take its sizes from its parameters, in place."""
    module.__class__ = SlimRelativePositionalMultiHeadAttention
