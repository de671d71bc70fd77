"""Can the posterior be trusted: what each diagnostic says, and what it cannot say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import xarray as xr

from ...model.errors import DirpruneError
from .convergence import svi_convergence
from .elpd import elpd
from .findings import LIMITS, Finding, from_sampler, not_computed
from .importance import importance
from .loo import loo
from .overlap import overlap
from .reliability import reliability
from .restarts import restart_agreement
from .sampler import sampler
from .sensitivity import power_scaling
from .swaps import swap_calibration

__all__ = [
    "LIMITS",
    "Finding",
    "diagnose",
    "elpd",
    "importance",
    "loo",
    "overlap",
    "power_scaling",
    "reliability",
    "restart_agreement",
    "sampler",
    "svi_convergence",
    "swap_calibration",
]


def diagnose(tree: xr.DataTree, history: Mapping[str, Any]) -> dict[str, Finding]:
    """All diagnostics by name, from a run's files alone: ``posterior.nc`` and ``history.json``.

    One that cannot be computed has no value and a text that says why. Each has ``value``, ``text``
    (the verdict), ``threshold``, ``source`` and ``good`` (None: no verdict), all of which JSON can
    hold. Draws of NUTS get "sampler", those of a guide what belongs to guides.

    The null control is not among them: it takes another fit (:mod:`..null_control`).
    """

    def convergence() -> Finding:
        if from_sampler(tree):
            raise DirpruneError("NUTS drew these; there was no SVI")
        return svi_convergence(history)

    tasks: dict[str, Callable[[], Finding]] = {
        "elpd": lambda: elpd(tree),
        "reliability": lambda: reliability(tree),
        "svi_convergence": convergence,
        **(
            {"sampler": lambda: sampler(tree)}
            if from_sampler(tree)
            else {"restart_agreement": lambda: restart_agreement(tree)}
        ),
        "importance": lambda: importance(tree),
        "power_scaling": lambda: power_scaling(tree),
        "overlap": lambda: overlap(tree),
        "loo": lambda: loo(tree),
    }
    out = {}
    for name, task in tasks.items():
        try:
            out[name] = task()
        except DirpruneError as error:
            out[name] = not_computed(name, error)
    return out
