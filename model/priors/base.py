"""What a prior is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import pyro.distributions as dist
from torch import nn

from ..errors import DirpruneError
from ..graph.channels import ChannelGraph
from ..sites import Site

Prior = Callable[[Site], dist.TorchDistribution]


@runtime_checkable
class NetworkPrior(Protocol):
    """A prior that has to see the network before it can say anything about a site."""

    def bind(self, network: nn.Module, graph: ChannelGraph) -> Prior:
        """The prior for the sites of this network."""


PriorSpec = str | float | Prior | NetworkPrior


def check_positive(what: str, value: float) -> None:
    """Refuse a number that is not positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise DirpruneError(f"prior: {what} must be positive and finite, got {value}")
