"""The symmetric Dirichlet of a given total."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..sites import Site
from .base import check_positive
from .dirichlet import Dirichlet


@dataclass(frozen=True)
class AlphaOverK:
    r""":math:`s_l \sim \text{Dirichlet}(\alpha / K_l, \dots, \alpha / K_l)`.

    The total is :math:`\alpha` whatever the width, so that the number of units that matter does not
    grow with it: for large K the switch is a draw from a Dirichlet process.

    Source: Hemant Ishwaran, Mahmoud Zarepour, "Exact and approximate sum representations for the
    Dirichlet process", 2002, Canadian Journal of Statistics 30(2) (no arXiv id).

    Args:
        alpha: the sum of a site's concentrations; by default 1.

    Raises:
        DirpruneError: alpha is not positive and finite.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_positive("a concentration", self.alpha)

    def __call__(self, site: Site) -> Dirichlet:
        return Dirichlet(torch.full((site.size,), self.alpha / site.size, dtype=torch.float64))
