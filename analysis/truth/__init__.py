"""Problems whose posterior is known, and what a guide makes of them.

Each problem is a :class:`~dirprune.model.switched.SwitchedNetwork` with a loader, as a user's own
network is, so that ``fit``, ``posterior``, ``sample`` and every guide apply unchanged::

    from dirprune.analysis.truth import PROBLEMS, examine

    report = examine(PROBLEMS["linear-gaussian"](), "dirichlet", epochs=500)
    report["bias_mean"], report["sd_ratio"], report["elbo_gap"]

``examine`` takes a guide's name, class or factory, so that a new guide is held against the truth
before it has a name.
"""

from collections.abc import Callable

from .conjugate import dirichlet_multinomial
from .digits import digits_mlp
from .linear import linear_gaussian
from .measures import examine, measure, worst
from .problem import Problem
from .references import DirichletReference, DrawsReference, GridReference, Reference

PROBLEMS: dict[str, Callable[[], Problem]] = {
    "dirichlet-multinomial": dirichlet_multinomial,
    "linear-gaussian": linear_gaussian,
    "digits-mlp": digits_mlp,
}

__all__ = [
    "PROBLEMS",
    "DirichletReference",
    "DrawsReference",
    "GridReference",
    "Problem",
    "Reference",
    "digits_mlp",
    "dirichlet_multinomial",
    "examine",
    "linear_gaussian",
    "measure",
    "worst",
]
