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
# Drifts that no longer matter, our own marks. What the loss still falls is what KL(q || p) falls: 1
# nat is 50 switches that move by 0.2 posterior sds each (a Gaussian's d^2 / 2). For losses of
# hundreds of nats, which no budget of steps brings that low, 1 % of them.
NATS, SHARE = 1.0, 0.01
MIXED = 1.1  # R-hat of the two quarters


def svi_convergence(history: Mapping[str, Any]) -> Finding:
    r"""Has the ELBO come to rest: the two halves of the last half of the losses, compared.

    .. math:: d = \bar L_4 - \bar L_3, \quad se^2 = se_3^2 + se_4^2, \quad
              se_q^2 = var(L_q) / ESS(L_q)

    with L_3, L_4 the losses of the third and fourth quarter of the steps and ESS their effective
    number, which accounts for autocorrelation; beside it z = d / se and R-hat with the two quarters
    as chains. A negative drift d is an improvement. There are three verdicts:

    * at rest (good): the 95 % interval d +- 1.96 se lies within 1 nat, or 1 % of the loss where
      that is more, and R-hat <= 1.1. That is a test of equivalence: much noise does not pass it.
    * moving (not good): |z| >= 2 and d is beyond that margin.
    * cannot be told (None): all else. The steps are too few for so much noise.

    It cannot tell whether another start would have ended elsewhere, and a step size that falls to
    zero brings any run to rest. Every restart is judged, the worst one reported. ``history`` is
    ``{"svi": [losses of each restart]}``.

    Raises:
        DirpruneError: too few steps.
    """
    runs = [np.asarray(losses, dtype=float) for losses in history.get("svi", [])]
    if (short := min(map(len, runs), default=0)) < LEAST_STEPS:
        raise DirpruneError(f"expected at least {LEAST_STEPS} steps of SVI, got {short}")
    found = [_compare(losses) for losses in runs]
    # Of those with the worst verdict the one that may have drifted the farthest for its margin.
    worst = max(
        found, key=lambda f: ((True, None, False).index(f["at_rest"]), _reach(f) / f["margin"])
    )
    good, drift, margin = worst["at_rest"], worst["drift"], worst["margin"]
    measured = (
        f"from the third to the fourth quarter of the steps the loss changed by {drift:+.3g} nats "
        f"({100 * worst['relative']:+.1f} %), standard error {worst['se']:.2g}; R-hat is "
        f"{worst['rhat']:.2f}."
    )
    if good:
        text = f"SVI came to rest: {measured}"
    elif good is None:
        text = (
            f"Cannot be told whether SVI came to rest: {measured} The steps are too few for so "
            f"much noise to exclude a drift beyond {margin:,.1f} nats; more epochs would tell."
        )
    elif drift < 0:
        text = f"SVI was still improving: {measured} More epochs would help."
    else:
        text = f"SVI was getting worse: {measured} A smaller lr would help."
    return finding("svi_convergence", {"restarts": found}, text, good)


def _compare(losses: Floats) -> dict[str, Any]:
    """Third against fourth quarter of one restart's losses."""
    quarter = len(losses) // 4
    third, fourth = losses[-2 * quarter : -quarter], losses[-quarter:]
    drift, loss = float(fourth.mean() - third.mean()), float(fourth.mean())
    se = math.hypot(_standard_error(third), _standard_error(fourth))
    found = {
        "z": drift / se if se else math.copysign(1e9, drift) if drift else 0.0,
        "drift": drift,
        "se": se,
        "relative": drift / max(abs(loss), 1e-12),
        "rhat": float(az.rhat(np.stack([third, fourth]), method="rank")) if se else 1.0,
        "loss": loss,
        "margin": max(NATS, SHARE * abs(loss)),
    }
    # Losses that differ by less than the margin are at rest however their ranks have shifted.
    still = float(np.ptp(losses[-2 * quarter :])) <= found["margin"]
    return {**found, "at_rest": _at_rest(found, still)}


def _at_rest(found: Mapping[str, float], still: bool) -> bool | None:
    if _reach(found) <= found["margin"] and (still or found["rhat"] <= MIXED):
        return True
    moving = abs(found["z"]) >= 2 and abs(found["drift"]) > found["margin"]
    return False if moving else None


def _reach(found: Mapping[str, float]) -> float:
    """How far the 95 % interval of the drift reaches from 0, in nats."""
    return abs(found["drift"]) + 1.96 * found["se"]


def _standard_error(values: Floats) -> float:
    """Of the mean of one autocorrelated series."""
    ess = float(az.ess(values[None], method="mean"))
    return float(values.std(ddof=1)) / math.sqrt(ess) if ess > 0 else 0.0
