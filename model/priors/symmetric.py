"""The symmetric Dirichlet."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..sites import Site
from .base import check_positive
from .dirichlet import Dirichlet


@dataclass(frozen=True)
class Symmetric:
    r""":math:`s_l \sim \text{Dirichlet}(\alpha, \dots, \alpha)`.

    :math:`\alpha < 1` prefers few units, 1 (the default) is flat, :math:`> 1` prefers all.

    Args:
        alpha: the concentration of every unit.

    Raises:
        DirpruneError: alpha is not positive and finite.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_positive("a concentration", self.alpha)

    def __call__(self, site: Site) -> Dirichlet:
        return Dirichlet(torch.full((site.size,), self.alpha, dtype=torch.float64))
