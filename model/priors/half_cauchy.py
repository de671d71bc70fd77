"""A Dirichlet with a heavy-tailed concentration for every unit."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch

from ..sites import Site
from .base import check_positive
from .dirichlet import Dirichlet


@dataclass(frozen=True)
class HalfCauchy:
    r"""Half-Cauchy concentrations, one for each unit: strong sparsity.

    .. math::
        \lambda_{lk} &\sim \text{HalfCauchy}(\text{scale}), \quad k = 1..K_l \\
        s_l &\sim \text{Dirichlet}(\lambda_{l1}, \dots, \lambda_{lK_l})

    :math:`\lambda_l` is a latent site ``"{site}_concentration"`` of event shape (K,). Most units
    get a concentration that lets them vanish, and the heavy tail lets a few hold as much as the
    data ask, as the horseshoe does with normal coefficients.

    The scale is the median. At the default, 0.1, half of the units have a concentration below 0.1,
    and 6 % have one above 1.

    Source of the shape: Carlos Carvalho, Nicholas Polson, James Scott, "The horseshoe estimator for
    sparse signals", 2010, Biometrika 97(2) (no arXiv id).

    Args:
        scale: of the half-Cauchy.

    Raises:
        DirpruneError: the scale is not positive and finite.
    """

    scale: float = 0.1

    def __post_init__(self) -> None:
        check_positive("the scale of a half-Cauchy", self.scale)

    def __call__(self, site: Site) -> Dirichlet:
        scale = torch.full((site.size,), self.scale, dtype=torch.float64)
        concentration = dist.HalfCauchy(scale).to_event(1)
        return Dirichlet(pyro.sample(f"{site.name}_concentration", concentration))
