"""What a method that prunes while it trains leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ...model.decision import Decision
from .layers import KINDS


@dataclass(frozen=True)
class Pruned:
    """A network that was pruned while it trained.

    Attributes:
        network: what is left, in eval mode. Where the method removes units it is physically
            smaller; else it has its full size and cost, and zeros among its weights.
        masked: the same function at the full size: zeros where weights are gone.
        decision: the units that stay; None where the method does not remove units.
        sparsity: layer -> the share of its weights that is removed or zero in ``network``.
        losses: of every step, in nats per image.
        notes: what else the method has to say.
    """

    network: nn.Module
    masked: nn.Module
    decision: Decision | None
    sparsity: Mapping[str, float]
    losses: Sequence[float]
    notes: Mapping[str, Any] = field(default_factory=dict)


def gone_shares(before: nn.Module, after: nn.Module) -> dict[str, float]:
    """Of each convolution and linear layer the share of its weights that is removed or zero."""
    shares = {}
    for name, module in before.named_modules():
        if isinstance(module, KINDS):
            left = int(after.get_parameter(f"{name}.weight").count_nonzero())
            shares[name] = 1 - left / module.weight.numel()
    return shares
