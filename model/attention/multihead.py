"""``nn.MultiheadAttention`` with fewer heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .widths import widths


class SlimMultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention whose heads together are narrower than the stream.

    Parameters, arguments and results are those of ``nn.MultiheadAttention``. Of the heads there are
    ``num_heads`` left; the scores keep their scale 1 / sqrt(head_dim), whatever is left of a head's
    features.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention.forward``; ``is_causal`` is a hint beside ``attn_mask``."""
        batched = query.dim() == 3
        inputs = [x if batched else x.unsqueeze(0) for x in (query, key, value)]
        if batched and not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, weight, bias in zip(inputs, self._weights(), self._biases(), strict=True)
        )
        mask = self._mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
            scores = F.softmax(scores if mask is None else scores + mask, -1)
            scores = F.dropout(scores, dropout)
            out = scores @ v
            weights = scores.mean(1) if average_attn_weights else scores
        else:
            scale = self.head_dim**-0.5
            out = F.scaled_dot_product_attention(q, k, v, mask, dropout, scale=scale)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            return out.squeeze(0), None if weights is None else weights.squeeze(0)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _weights(self) -> tuple[Tensor, ...]:
        if self.in_proj_weight is not None:
            return self.in_proj_weight.split(widths(self.in_proj_weight, self.out_proj))
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _biases(self) -> tuple[Tensor | None, ...]:
        if self.in_proj_bias is None:
            return (None,) * 3
        return self.in_proj_bias.split(widths(self.in_proj_bias, self.out_proj))

    def _mask(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, q: Tensor
    ) -> Tensor | None:
        """One mask to be added to the scores [B, heads, T, S], of either or both."""
        added = None
        if attn_mask is not None:
            added = _as_float(attn_mask, q)
            if added.dim() == 3:  # [B * heads, T, S]
                added = added.unflatten(0, (len(q), -1))
        if key_padding_mask is not None:
            padding = _as_float(key_padding_mask, q).view(len(q), 1, 1, -1)
            added = padding if added is None else added + padding
        return added


def _as_float(mask: Tensor, like: Tensor) -> Tensor:
    """True, in a mask of booleans, means that the key is not looked at."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))


def slim(module: Any) -> None:
    """Let an ``nn.MultiheadAttention`` take its sizes from its parameters, in place."""
    module.__class__ = SlimMultiheadAttention
    # TransformerEncoderLayer's fast path reads the heads' size from the stream's width; it asks for
    # this flag first.
    module._qkv_same_embed_dim = False
