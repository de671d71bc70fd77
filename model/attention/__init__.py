"""Attention with fewer heads than its width asks for.

torch's and torchvision's attention modules take the size of a head from the width of the stream,
``C // num_heads``, which no longer holds once heads are removed. The classes here have the same
parameters under the same names, and take the widths of queries, keys and values from these. A
pruned network's attention modules become instances of them, which are still instances of the
original class.
"""

from __future__ import annotations

from typing import Any

from ..resizing import register_resizer


@register_resizer("torch.nn.modules.activation.MultiheadAttention")
def _multihead(module: Any) -> None:
    from .multihead import slim

    slim(module)


@register_resizer("torchvision.models.swin_transformer.ShiftedWindowAttention")
def _windowed(module: Any) -> None:
    from .windowed import slim  # imports torchvision, which costs a second

    slim(module)


@register_resizer("torchvision.models.maxvit.RelativePositionalMultiHeadAttention")
def _grid(module: Any) -> None:
    from .grid import slim

    slim(module)
