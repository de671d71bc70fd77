"""Priors of the switches, one a file.

A prior is a callable from a :class:`~dirprune.model.sites.Site` to a Pyro distribution on the
simplex of its units. To write another::

    def rising(site: Site) -> Dirichlet:
        return Dirichlet(torch.arange(1, site.size + 1, dtype=torch.float64))

It may draw hyper-parameters of its own. Their names begin with the site's, and have no dot after
it: Pyro's AutoNormal cannot keep both "conv1" and "conv1.alpha"::

    def wide(site: Site) -> Dirichlet:
        alpha = pyro.sample(f"{site.name}_concentration", dist.LogNormal(0.0, 3.0))
        return Dirichlet(alpha.unsqueeze(-1).expand(*alpha.shape, site.size))

The same code then runs under plates, where ``alpha`` is [P] instead of a scalar: hence the
``unsqueeze``. A prior that reads the network has a method ``bind(network, graph) -> prior``, which
:class:`~dirprune.model.switched.SwitchedNetwork` calls. To give a prior a name, add one line to
``PRIORS`` in ``names.py``.

Concentrations are float64: with small ones, float32 draws of a Dirichlet sit at the clamp (43 % of
the components at concentration 0.01; in float64 0.07 %), and alpha/K is small by construction.
"""

from .alpha_over_k import AlphaOverK
from .base import NetworkPrior, Prior, PriorSpec
from .bn_scale import BatchNormScale
from .bound import BoundPrior
from .check import check_on_simplex, check_prior
from .dirichlet import Dirichlet
from .half_cauchy import HalfCauchy
from .hierarchical import Hierarchical
from .names import PRIORS, PriorFamily, make_prior
from .symmetric import Symmetric
from .weight_norm import WeightNorm

__all__ = [
    "PRIORS",
    "AlphaOverK",
    "BatchNormScale",
    "BoundPrior",
    "Dirichlet",
    "HalfCauchy",
    "Hierarchical",
    "NetworkPrior",
    "Prior",
    "PriorFamily",
    "PriorSpec",
    "Symmetric",
    "WeightNorm",
    "check_on_simplex",
    "check_prior",
    "make_prior",
]
