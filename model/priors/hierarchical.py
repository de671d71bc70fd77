"""A symmetric Dirichlet whose concentration is inferred."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch

from ..sites import Site
from .base import check_positive
from .dirichlet import Dirichlet


@dataclass(frozen=True)
class Hierarchical:
    r"""A Gamma hyper-prior on each site's concentration.

    .. math::
        \alpha_l &\sim \text{Gamma}(\text{shape}, \text{rate}) \\
        s_l &\sim \text{Dirichlet}(\alpha_l, \dots, \alpha_l)

    :math:`\alpha_l` is a scalar latent site ``"{site}_concentration"``: the data of a layer say
    whether few of its units matter or all do.

    The defaults, an exponential of mean 1, are centred on the flat Dirichlet and lean to sparsity:
    :math:`\alpha < 0.1` has 10 % of the probability and :math:`\alpha > 3` has 5 %.

    Args:
        shape: of the Gamma; its mean is shape / rate.
        rate: of the Gamma.

    Raises:
        DirpruneError: shape or rate is not positive and finite.
    """

    shape: float = 1.0
    rate: float = 1.0

    def __post_init__(self) -> None:
        check_positive("the shape of a Gamma", self.shape)
        check_positive("the rate of a Gamma", self.rate)

    def __call__(self, site: Site) -> Dirichlet:
        shape, rate = torch.tensor([self.shape, self.rate], dtype=torch.float64)
        alpha = pyro.sample(f"{site.name}_concentration", dist.Gamma(shape, rate))
        return Dirichlet(alpha.unsqueeze(-1).expand(*alpha.shape, site.size))
