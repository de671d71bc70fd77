"""How much the optimiser's noise moves the answer."""

from __future__ import annotations

import math

import arviz as az
import numpy as np
import xarray as xr

from ...model.errors import DirpruneError
from .findings import Finding, Floats, finding, group, spread_draws


def restart_agreement(tree: xr.DataTree) -> Finding:
    r"""How far the restarts differ, unit by unit.

    .. math:: d_k = (\max_c \bar s_{ck} - \min_c \bar s_{ck}) / sd(s_k), \quad
              \hat R_k = \sqrt{\hat V_k / W_k}

    with :math:`\bar s_{ck}` the mean switch of unit k in restart c, sd the posterior's within a
    restart, and R-hat ArviZ's rank-normalised one. It tells how much the optimiser's noise moves
    the answer. It cannot tell whether the guide's family holds the posterior: restarts share the
    bias of their family. Threshold: the 95 % quantile of R-hat over units, not its maximum: of
    hundreds of units some pass 1.01 by chance; and with few draws so would most
    (:func:`largest_rhat`). The rank plot in the report shows three of them.

    Raises:
        DirpruneError: fewer than two restarts, or a guide without spread.
    """
    draws = spread_draws(tree, "there is no posterior sd to measure the restarts' difference by")
    ratios = rhats(tree, draws)
    spread = {
        site: np.ptp(s.mean(1), axis=0) / np.maximum(np.sqrt(s.var(1).mean(0)), 1e-300)
        for site, s in draws.items()
    }
    d, r = (np.concatenate(list(values.values())) for values in (spread, ratios))
    worst = max(spread, key=lambda site: float(spread[site].max()))
    restarts = len(next(iter(draws.values())))
    value = {
        "restarts": restarts,
        "difference_median": float(np.median(d)),
        "difference_max": float(d.max()),
        "rhat_median": float(np.median(r)),
        "rhat_95": float(np.quantile(r, 0.95)),
        "rhat_max": float(r.max()),
    }
    limit = largest_rhat(next(iter(draws.values())).shape[1])
    good = value["rhat_95"] <= limit
    verdict = "agree" if good else "differ by more than draws of one guide would"
    text = (
        f"The {restarts} restarts {verdict}: mean switches by {np.median(d):.2f} posterior sds in "
        f"the median and {d.max():.2f} at most (in {worst}); R-hat exceeds {limit:.3g} for "
        f"{100 * (r > limit).mean():.0f} % of the units. This is optimiser noise; agreement is no "
        "evidence against the bias of the guide's family."
    )
    return finding("restart_agreement", value, text, good)


def largest_rhat(draws: int) -> float:
    r"""1.01, and below 300 draws of a restart what chance alone gives a few units in a hundred.

    Of two equal restarts the 95 % quantile of R-hat (split, the larger of bulk and folded) is about
    :math:`\sqrt{1 + 4.3 / n}` for n draws, simulated from n = 50 to 400, and of four less; 6 in
    place of 4.3 leaves room for sites of few units.
    """
    return max(1.01, math.sqrt(1 + 6 / draws))


def rhats(tree: xr.DataTree, draws: dict[str, Floats]) -> dict[str, Floats]:
    """Site -> R-hat of every unit, rank-normalised; 1 for a unit that never moves.

    Raises:
        DirpruneError: one chain, or fewer than four draws.
    """
    chains, number = next(iter(draws.values())).shape[:2]
    if chains < 2:
        raise DirpruneError(
            "R-hat compares at least 2 restarts, got 1: give restarts=2 (--restarts 2)"
        )
    if number < 4:
        raise DirpruneError(f"R-hat takes at least 4 draws of a restart, got {number}")
    found = az.rhat(group(tree, "posterior")[list(draws)], method="rank")
    return {site: np.nan_to_num(found[site].values, nan=1.0) for site in draws}
