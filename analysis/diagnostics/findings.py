"""What all diagnostics share: the form of a finding, thresholds with their sources, draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ...model.errors import DirpruneError
from ..tree import switches

Floats = NDArray[np.float64]
Finding = dict[str, Any]  # value, text, threshold, source, good (None: no verdict)

LEAST_DRAWS = 25  # below, the Pareto tail of ArviZ's PSIS is empty

LIMITS = {  # threshold, and its source
    "elpd": ("none: higher is better", "Vehtari, Gelman, Gabry 2017, Stat. Comput. 27"),
    "svi_convergence": (
        "95 % interval of the drift within 1 nat or 1 % of the loss, our own marks, and R-hat <= "
        "1.1; moving if |z| >= 2 and the drift is beyond",
        "Geweke 1992 (z); Schuirmann 1987, J. Pharmacokinet. Biopharm. 15 (equivalence); Dhaka et "
        "al. 2020, arXiv 2009.00666 (R-hat of iterates)",
    ),
    "restart_agreement": (
        "95 % quantile of R-hat <= 1.01, or sqrt(1 + 6 / draws) where that is more",
        "Vehtari et al. 2021, Bayesian Anal. 16(2) (1.01); for few draws our simulation",
    ),
    "sampler": (
        "R-hat <= 1.01, bulk and tail ESS >= 100 a chain, no divergence",
        "Vehtari et al. 2021, Bayesian Anal. 16(2); Betancourt 2017, arXiv 1701.02434",
    ),
    "importance": (
        "k-hat < 0.7, or 1 - 1 / log10(draws) where that is less",
        "Vehtari et al. 2024, JMLR 25(72); Yao et al. 2018, ICML",
    ),
    "overlap": (
        "above 35 %: weakly identified; above 90 %, our own mark: hardly anything was learned",
        "Garrett & Zeger 2000, Biometrics 56(4) (35 %)",
    ),
    "power_scaling": (
        "sensitivity to the prior < 0.05 in 95 % of the units",
        "Kallioinen, Paananen, Bürkner, Vehtari 2024, Stat. Comput. 34, arXiv 2107.14054",
    ),
    "loo": (
        "Pareto k < 0.7, or 1 - 1 / log10(draws) where that is less, for every image",
        "Magnusson et al. 2019, arXiv 1904.10679; Vehtari et al. 2024, JMLR 25(72)",
    ),
    "reliability": (
        "p >= 0.05 of the calibration error under resampled outcomes",
        "Bröcker & Smith 2007, Weather Forecast. 22; Vaicenavicius et al. 2019, arXiv 1902.06977",
    ),
    "null_control": (
        "no more than 2 standard errors above chance, nor 3 above the same predictions on other "
        "permutations",
        "Ojala & Garriga 2010, JMLR 11; Hoeffding 1951, Ann. Math. Stat. 22 (their moments)",
    ),
}


def finding(name: str, value: Any, text: str, good: bool | None) -> Finding:
    """One diagnostic's result: plain values, which JSON can hold."""
    threshold, source = LIMITS[name]
    return {"value": value, "text": text, "threshold": threshold, "source": source, "good": good}


def not_computed(name: str, why: object) -> Finding:
    """The finding of a diagnostic that has no value."""
    return finding(name, None, f"Not computed: {why}.", None)


def group(tree: xr.DataTree, name: str) -> xr.Dataset:
    """A group of the tree.

    Raises:
        DirpruneError: it is not there.
    """
    if name not in tree.children:
        raise DirpruneError(f"the DataTree has no group {name!r}")
    return tree[name].to_dataset()


def free_draws(tree: xr.DataTree, name: str = "posterior") -> dict[str, Floats]:
    """Site -> [chain, draw, K] of sites with more than one unit; the others' switch is always 1.

    Raises:
        DirpruneError: no such group, or no such site.
    """
    group(tree, name)
    found = {site: s for site, s in switches(tree, name).items() if s.shape[-1] > 1}
    if not found:
        raise DirpruneError("no site has more than one unit: every switch is 1")
    return found


def spread_draws(tree: xr.DataTree, what: str) -> dict[str, Floats]:
    """:func:`free_draws` of a posterior that is no point.

    Raises:
        DirpruneError: the draws of a site are all equal, so that ``what`` has no meaning.
    """
    found = free_draws(tree)
    points = [site for site, s in found.items() if (np.ptp(s, axis=1) == 0).all()]
    if points:
        raise DirpruneError(
            f"the guide is a point mass at {', '.join(points[:3])}"
            f"{' and other sites' if len(points) > 3 else ''} (all draws are equal): {what}"
        )
    return found


def from_sampler(tree: xr.DataTree) -> bool:
    """Are the draws those of NUTS? They have no guide's density."""
    return "sample_stats" in tree.children and "log_q" not in tree["sample_stats"].data_vars


def log_weights(tree: xr.DataTree) -> xr.DataArray:
    """log p(s, y) - log q(s) of every draw, [chain, draw].

    Raises:
        DirpruneError: no guide, a guide without a density, or too few or infinite densities.
    """
    stats = group(tree, "sample_stats")
    if from_sampler(tree):
        raise DirpruneError("NUTS drew from the posterior itself; there is no guide to re-weight")
    if not {"lp", "log_q"} <= set(stats.data_vars):
        raise DirpruneError("the DataTree has no lp and log_q in 'sample_stats'")
    spread_draws(tree, "it has no density to compare with the posterior's")
    log_w: xr.DataArray = (stats["lp"] - stats["log_q"]).transpose("chain", "draw")
    number, finite = log_w.sizes["draw"], bool(np.isfinite(log_w).all())
    if number < LEAST_DRAWS or not finite:
        raise DirpruneError(
            f"k-hat: expected at least {LEAST_DRAWS} draws per restart with finite densities, got "
            f"{number}{'' if finite else ', some not finite'}"
        )
    return log_w


def largest_khat(draws: int) -> float:
    """Up to which k-hat so many draws can be re-weighted (Vehtari et al. 2024, section 3.2.4)."""
    return min(1 - 1 / math.log10(draws), 0.7)


def untied(values: xr.DataArray) -> xr.DataArray:
    """Log densities with ties broken by uniform noise of a billionth of their size.

    A network in float32 gives many draws the same log probability, -0.0 say, and ArviZ fits no
    Pareto tail to equal values ("All tail values are the same").
    """
    size = 1e-9 * (1 + float(abs(values).max()))
    return values + size * np.random.default_rng(0).random(values.shape)


def psis(log_w: xr.DataArray, dims: str | list[str]) -> tuple[xr.DataArray, float]:
    """Pareto-smoothed log weights, normalised over ``dims``, and the largest k-hat.

    Equal weights have k-hat 0: their tail has no shape. NaN where a draw or two hold all the
    weight.
    """
    scale = 1 + float(abs(log_w).max())
    if float(log_w.std(dims).max()) <= 1e-9 * scale:
        size = math.prod(log_w.sizes[d] for d in ([dims] if isinstance(dims, str) else dims))
        return xr.full_like(log_w, -math.log(size)), 0.0
    # ArviZ takes log likelihoods here, that is minus the log weights.
    smooth, k = untied(-log_w).azstats.psislw(dim=dims)
    return smooth, float(k.max(skipna=False))
