"""Guides: one class, one file. ``GUIDES`` has the names that ``fit`` and ``--guide`` take."""

from __future__ import annotations

from .base import SwitchGuide
from .dirichlet import AutoDirichlet
from .elbo import check_elbo, elbo_for
from .families import GUIDES, Family, check_options, make_guide
from .generalized_dirichlet import AutoGeneralizedDirichlet
from .log_normal import AutoLogNormal
from .logistic_normal import AutoLogisticNormal
from .low_rank import AutoLowRankLogisticNormal

__all__ = [
    "GUIDES",
    "AutoDirichlet",
    "AutoGeneralizedDirichlet",
    "AutoLogNormal",
    "AutoLogisticNormal",
    "AutoLowRankLogisticNormal",
    "Family",
    "SwitchGuide",
    "check_elbo",
    "check_options",
    "elbo_for",
    "make_guide",
]
