"""Did NUTS explore the posterior."""

from __future__ import annotations

import arviz as az
import numpy as np
import xarray as xr

from ...model.errors import DirpruneError
from ..tree import switches
from .findings import Finding, finding, free_draws, from_sampler, group

ESS_PER_CHAIN = 100


def sampler(tree: xr.DataTree) -> Finding:
    """Effective sample sizes of bulk and tail, R-hat and divergences of NUTS draws.

    R-hat near 1 tells that the chains agree, the effective sample sizes how many independent draws
    the means (bulk) and the 5 % and 95 % quantiles (tail) rest on, divergences that the sampler met
    regions it could not enter. All can be good while every chain misses the same part of the
    posterior. Thresholds: R-hat <= 1.01, both ESS >= 100 for each chain, no divergence.

    Raises:
        DirpruneError: the draws are a guide's, or fewer than four.
    """
    if not from_sampler(tree):
        raise DirpruneError("the draws are a guide's, which are independent")
    posterior = group(tree, "posterior").drop_vars(switches(tree).keys() - free_draws(tree).keys())
    chains, number = posterior.sizes["chain"], posterior.sizes["draw"]
    if number < 4:
        raise DirpruneError(f"expected at least 4 draws of a chain, got {number}")
    bulk = _flat(az.ess(posterior, method="bulk"))
    tail = _flat(az.ess(posterior, method="tail"))
    rhat = _flat(az.rhat(posterior, method="rank")) if chains > 1 else None
    stats = group(tree, "sample_stats")
    kept = int(stats["diverging"].sum()) if "diverging" in stats else 0
    divergent = int(tree.attrs.get("divergences", kept))  # draws that were left out count too
    largest = None if rhat is None else float(np.nan_to_num(rhat, nan=1.0).max())
    least = float(min(bulk.min(), tail.min()))
    mixed = largest is not None and largest <= 1.01
    good = mixed and least >= ESS_PER_CHAIN * chains and divergent == 0
    value = {
        "chains": chains,
        "draws": number,
        "ess_bulk_min": float(bulk.min()),
        "ess_tail_min": float(tail.min()),
        "rhat_max": largest,
        "divergences": divergent,
    }
    compared = "one chain has no R-hat" if largest is None else f"R-hat is at most {largest:.3f}"
    text = (
        f"NUTS {'explored the posterior well' if good else 'cannot be trusted yet'}: of "
        f"{chains * number:,} draws the worst unit has {bulk.min():,.0f} effective ones for its "
        f"mean and {tail.min():,.0f} for its tails; {compared}; {divergent} draws diverged."
    )
    if not good:
        text += " More draws, a longer warm-up, or (for R-hat) a second chain would help."
    return finding("sampler", value, text, good)


def _flat(found: xr.Dataset) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.concatenate([np.ravel(found[name].values) for name in found.data_vars])
