"""Distributions on the simplex that neither torch nor Pyro has.

Densities are with respect to Lebesgue measure on the first K - 1 coordinates, as torch's Dirichlet
has it, so that the densities of all guides and priors can be compared.
"""

from .generalized_dirichlet import GeneralizedDirichlet
from .logistic_normal import LogisticNormal
from .low_rank_logistic_normal import LowRankLogisticNormal

__all__ = ["GeneralizedDirichlet", "LogisticNormal", "LowRankLogisticNormal"]
