"""Has the optimiser come to rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import arviz as az
import numpy as np

from ...model.errors import DirpruneError
from .findings import Finding, Floats, finding

LEAST_STEPS = 32  # below, the late losses have no autocorrelation to speak of


def svi_convergence(history: Mapping[str, Any]) -> Finding:
    r"""Has the ELBO come to rest: the two halves of the last half of the losses, compared.

    .. math:: z = (\bar L_3 - \bar L_4) / \sqrt{se_3^2 + se_4^2}, \quad se^2 = var(L) / ESS(L)

    with L_3, L_4 the losses of the third and fourth quarter of the steps and ESS their effective
    number, which accounts for autocorrelation; beside it R-hat with the two quarters as chains, and
    the drift in nats. It tells whether the loss still falls, or rises again. It cannot tell whether
    another start would have ended elsewhere, and a step size that falls to zero brings any run to
    rest. Threshold, for every restart: |z| < 2, or R-hat < 1.1 with a drift below 1 %. ``history``
    is ``{"svi": [losses of each restart]}``.

    Raises:
        DirpruneError: too few steps.
    """
    runs = [np.asarray(losses, dtype=float) for losses in history.get("svi", [])]
    if (short := min(map(len, runs), default=0)) < LEAST_STEPS:
        raise DirpruneError(f"expected at least {LEAST_STEPS} steps of SVI, got {short}")
    found = []
    for losses in runs:
        quarter = len(losses) // 4
        third, fourth = losses[-2 * quarter : -quarter], losses[-quarter:]
        drift, loss = float(third.mean() - fourth.mean()), float(fourth.mean())
        error = math.hypot(_standard_error(third), _standard_error(fourth))
        z = drift / error if error else math.copysign(1e9, drift) if drift else 0.0
        rhat = float(az.rhat(np.stack([third, fourth]), method="rank")) if error else 1.0
        relative = drift / max(abs(loss), 1e-12)
        found.append({"z": z, "drift": drift, "relative": relative, "rhat": rhat, "loss": loss})
    # Of those that move the one with the largest z, not one that is at rest for its small drift.
    worst = max(found, key=lambda f: (not _at_rest(f), abs(f["z"])))
    good = _at_rest(worst)
    verdict, advice = "was still improving", " More epochs would help."
    if worst["z"] < 0:
        verdict, advice = "was getting worse", " A smaller lr would help."
    text = (
        f"SVI {'came to rest' if good else verdict}: from the third to the fourth "
        f"quarter of the steps the loss changed by {-worst['drift']:+.3g} nats "
        f"({-100 * worst['relative']:+.1f} %, {abs(worst['z']):.1f} standard errors), R-hat is "
        f"{worst['rhat']:.2f}.{'' if good else advice}"
    )
    return finding("svi_convergence", {"restarts": found}, text, good)


def _at_rest(found: Mapping[str, float]) -> bool:
    return abs(found["z"]) < 2 or (found["rhat"] < 1.1 and abs(found["relative"]) < 0.01)


def _standard_error(values: Floats) -> float:
    """Of the mean of one autocorrelated series."""
    ess = float(az.ess(values[None], method="mean"))
    return float(values.std(ddof=1)) / math.sqrt(ess) if ess > 0 else 0.0
