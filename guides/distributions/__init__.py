"""Distributions that neither torch nor Pyro has: on the simplex, and on an interval.

Densities on the simplex are with respect to Lebesgue measure on the first K - 1 coordinates, as
torch's Dirichlet has it, so that the densities of all guides and priors can be compared.
"""

from .generalized_dirichlet import GeneralizedDirichlet
from .logistic_normal import LogisticNormal
from .low_rank_logistic_normal import LowRankLogisticNormal
from .truncated_log_normal import TruncatedLogNormal
from .truncated_log_uniform import TruncatedLogUniform

__all__ = [
    "GeneralizedDirichlet",
    "LogisticNormal",
    "LowRankLogisticNormal",
    "TruncatedLogNormal",
    "TruncatedLogUniform",
]
