"""A problem: a switched network, its data, and its posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...model.switched import SwitchedNetwork
from .references import Reference


@dataclass(frozen=True)
class Problem:
    """A model with a known posterior.

    Attributes:
        name: what reports call it.
        model: the switched network, at temperature 1.
        loader: batches of (inputs, targets), the same in every pass.
        reference: the posterior of the switches.
    """

    name: str
    model: SwitchedNetwork
    loader: Sequence[tuple[Tensor, Tensor]]
    reference: Reference

    @property
    def inputs(self) -> Tensor:
        """All inputs [N, ...]."""
        return torch.cat([inputs for inputs, _ in self.loader])

    @property
    def targets(self) -> Tensor:
        """All targets [N, ...]."""
        return torch.cat([targets for _, targets in self.loader])


def frozen[N: nn.Module](network: N) -> N:
    """The network in float64, in eval mode and without gradients: rounding is no issue then."""
    return network.double().eval().requires_grad_(False)
