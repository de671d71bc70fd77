"""How far the guide is from the posterior as a whole, and what re-weighting its draws changes."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from ..tree import switches
from .findings import (
    Finding,
    Floats,
    finding,
    free_draws,
    group,
    largest_khat,
    log_weights,
    psis,
)

# Of log w. Concentrations that are all wrong by 10 % give 0.1 sqrt(sum of phi_k + 1/2), to second
# order: 3.8 nats for 570 units of concentration 2.
MANY_NATS = 10.0
MANY_DIMENSIONS = 100
WIDE = (
    ": in hundreds of dimensions small errors of every unit, each of which hardly matters, add up "
    "to it"
)


def importance(tree: xr.DataTree) -> Finding:
    r"""The Pareto k-hat of the draws' importance weights, by ArviZ's PSIS, restart by restart.

    .. math:: \log w_s = \log p(s) + \tau N/n \sum_i \log p(y_i | x_i, s) - \log q(s)

    and sd(log w), which is 0 where the guide is the posterior. Where k-hat is small, the smoothed
    weights turn the guide's draws into the posterior's, and the finding tells how far that moves
    the mean switches, in posterior sds. A small k-hat is strong evidence for the joint posterior. A
    large one says little in hundreds of dimensions: with 570 a 10 % error of the concentrations is
    enough to exceed 0.7, although every marginal is nearly right; and ``lp`` scales n images up to
    all N, so the choice of the n counts as an error of the guide.

    Raises:
        DirpruneError: NUTS draws, a guide without a density (a point), too few draws.
    """
    log_w = log_weights(tree)
    sd = float(log_w.std("draw", ddof=1).max())
    smooth, k = psis(log_w, "draw")
    draws = free_draws(tree)
    dimensions = sum(s.shape[-1] - 1 for s in draws.values()) + _hyper_dimensions(tree)
    number, limit = log_w.sizes["draw"], largest_khat(log_w.sizes["draw"])
    good = k < limit  # ArviZ returns NaN where a draw or two hold all the weight
    size = f"{k:.2f}" if math.isfinite(k) else "beyond measure"
    text = f"The joint k-hat over {dimensions} dimensions is {size}, sd(log w) {sd:.3g} nats: "
    value = {
        "khat": k if math.isfinite(k) else None,
        "sd_log_w": sd,
        "dimensions": dimensions,
        "shift_median": None,
        "shift_max": None,
        "effective_draws": None,
    }
    if good:
        weights = np.exp(smooth.values)
        shift = np.concatenate([mean_shift(s, weights).ravel() for s in draws.values()])
        effective = float((1 / (weights**2).sum(1)).min())
        value["shift_median"], value["shift_max"] = float(np.median(shift)), float(shift.max())
        value["effective_draws"] = effective
        text += (
            "the guide is close to the posterior as a whole. Re-weighted to the posterior (PSIS), "
            f"its mean switches move by {np.median(shift):.2f} posterior sds in the median and "
            f"{shift.max():.2f} at most; {number} draws are then worth {effective:.0f}."
        )
    else:
        text += (
            "draws cannot be re-weighted to the posterior. This is no verdict on single units"
            f"{WIDE if dimensions >= MANY_DIMENSIONS else ''}."
        )
        if sd > MANY_NATS:
            text += _causes(tree)
    return finding("importance", value, text, good)


def _causes(tree: xr.DataTree) -> str:
    """What may be behind a large sd(log w): the weights do not tell which."""
    text = (
        " Here it is more: SVI that has not come to rest, or what the guide's family misses (how "
        "units depend on each other, tails)"
    )
    whole = int(tree.attrs.get("num_data", 0))
    some = int(tree.attrs.get("lp_images", whole))
    if some < whole:
        text += f", or that {some:,} images stand for {whole:,} in the posterior's density"
    return text + "."


def _hyper_dimensions(tree: xr.DataTree) -> int:
    """Of the parameters of hierarchical priors, which the weights are over too."""
    hyper = group(tree, "posterior").drop_vars(switches(tree).keys())
    return sum(math.prod(a.shape) // math.prod(a.shape[:2]) for a in hyper.values())


def mean_shift(draws: Floats, weights: Floats) -> Floats:
    """How far re-weighting moves the means, in sds of the draws: [chain, K].

    ``draws`` are [chain, draw, K], ``weights`` [chain, draw], with sum 1 in every chain.
    """
    moved = np.einsum("cd,cdk->ck", weights, draws) - draws.mean(1)
    return np.abs(moved) / np.maximum(draws.std(1), 1e-300)
