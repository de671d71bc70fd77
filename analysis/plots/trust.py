"""Can the posterior be trusted, in pictures: ranks of restarts, calibration, power-scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from scipy.stats import rankdata

from ..uniformity import rank_band
from .style import (
    INK,
    KEPT,
    MUTED,
    PALE,
    REMOVED,
    SERIES,
    grid_axes,
    new_figure,
    styled,
    unit_limit,
)
from .views import Floats

LEVEL = 0.95  # of the bars


@styled
def rank_plot_figure(draws: Mapping[str, Floats], rhat: Mapping[str, Floats]) -> Figure:
    """Do the restarts draw the same: ECDFs of their ranks, less the diagonal, of three units.

    The units are those whose R-hat is the largest, the 95 % quantile and the median over all
    units. Ranks are over the draws of all restarts; where these agree, 95 % of such pictures lie in
    the band everywhere (Säilynoja, Bürkner, Vehtari 2022, arXiv 2103.10522). The draws are taken
    as independent, as a guide's are.

    Args:
        draws: site -> [chain, draw, K], of two restarts or more.
        rhat: site -> [K].
    """
    where = [(site, unit) for site, values in rhat.items() for unit in range(len(values))]
    every = np.concatenate(list(rhat.values()))
    order = np.argsort(every, kind="stable")
    picks = [
        ("largest R-hat", order[-1]),
        ("95 % quantile", order[round(0.95 * (len(order) - 1))]),
        ("median", order[(len(order) - 1) // 2]),
    ]
    figure = new_figure(3.2)
    axes = figure.subplots(1, len(picks), sharey=True)
    ranks = np.empty(math.prod(next(iter(draws.values())).shape[:2]))
    lot = np.random.default_rng(0).permutation(len(ranks))
    for ax, (what, index) in zip(axes, picks, strict=True):
        site, unit = where[index]
        values = draws[site][:, :, unit]
        chains, number = values.shape
        x, low, high = rank_band(number, chains)
        ax.fill_between(x, low - x, high - x, color=PALE, lw=0, alpha=0.8)
        ax.axhline(0, color=MUTED, lw=0.8)
        # Equal draws (switches that underflow) share their ranks by lot.
        ranks[lot] = rankdata(values.ravel()[lot], method="ordinal") / values.size
        for c, each in enumerate(ranks.reshape(values.shape)):
            height = np.searchsorted(np.sort(each), x, side="right") / number - x
            ax.plot(x, height, color=SERIES[c % len(SERIES)], lw=1.5, label=f"restart {c + 1}")
        ax.set_title(f"{what}: {every[index]:.3f}\n{unit_limit(site)}, unit {unit}")
        ax.set_xlabel("rank among all draws, as a share")
        ax.set_xlim(0, 1)
    axes[0].set_ylabel("ECDF − uniform")
    axes[0].legend(loc="lower left", ncols=min(2, chains))
    extent = max(abs(v) for v in axes[0].get_ylim())
    axes[0].set_ylim(-1.3 * extent, 1.3 * extent)
    return figure


@styled
def reliability_figure(
    bins: Mapping[str, tuple[Floats, Floats, Floats]],
) -> Figure:
    """Accuracy against confidence, in bins of equally many images, least confident first.

    The bar is where accuracies lie in 95 % of cases if predictions are calibrated (Bröcker & Smith
    2007); a point below its bar is over-confidence, above it under-confidence.

    Args:
        bins: whose predictions -> confidence [B], accuracy [B], resampled accuracy [R, B].
    """
    figure = new_figure(3.4)
    axes = figure.subplots(1, len(bins), sharey=True, squeeze=False)[0]
    lowest = 1.0
    for ax, (name, (confidence, accuracy, resampled)) in zip(axes, bins.items(), strict=True):
        at = np.arange(1, len(confidence) + 1)
        low, high = np.quantile(resampled, ((1 - LEVEL) / 2, (1 + LEVEL) / 2), axis=0)
        ax.bar(at, high - low, 0.62, low, color=PALE, label="accuracy if calibrated (95 %)")
        ax.hlines(confidence, at - 0.31, at + 0.31, color=INK, lw=1.6, label="mean confidence")
        off = (accuracy < low) | (accuracy > high)
        ax.plot(at[~off], accuracy[~off], "o", color=KEPT, ms=5.5, label="accuracy")
        ax.plot(at[off], accuracy[off], "D", color=REMOVED, ms=6, label="accuracy, outside")
        ax.set_xticks(at, [f"{100 * c:.0f}" if c < 0.995 else f"{100 * c:.1f}" for c in confidence])
        ax.set_xlabel("mean confidence of the bin (%)")
        ax.set_title(name)
        ax.grid(axis="y")
        lowest = min(lowest, float(low.min()), float(accuracy.min()), float(confidence.min()))
    axes[0].set_ylim(max(0.0, lowest - 0.05), 1.02)
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f}"))
    axes[0].set_ylabel("accuracy (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


@styled
def sensitivity_figure(
    sensitivity: Mapping[str, Mapping[str, Floats]], sites: Sequence[str], threshold: float
) -> Figure:
    """Power-scaling sensitivity of every unit, a row for each site; the mark is the median.

    Args:
        sensitivity: "prior" and "likelihood" -> site -> [K]; a part that is all 0 has no panel.
        sites: which to show.
        threshold: above it, the component matters.
    """
    colors = {"prior": SERIES[1], "likelihood": KEPT}
    largest = {c: max(float(v.max()) for v in part.values()) for c, part in sensitivity.items()}
    shown = [c for c in sensitivity if largest[c] > 0] or list(sensitivity)
    top = max(largest.values())
    figure = new_figure(1.3 + 0.42 * len(sites))
    rng = np.random.default_rng(0)
    for ax, what in zip(grid_axes(figure, len(shown), len(shown)), shown, strict=True):
        part, color = sensitivity[what], colors[what]
        for row, site in enumerate(sites):
            values = part[site]
            y = row + rng.uniform(-0.22, 0.22, len(values))
            ax.plot(values, y, "o", color=color, ms=4, alpha=0.55, mew=0, clip_on=False)
            ax.plot(np.median(values), row, "|", color=INK, ms=15, mew=2)
        ax.axvline(threshold, color=REMOVED, lw=1.4, ls="--")
        ax.set_xscale("symlog", linthresh=threshold, linscale=1)
        ax.set_xlim(0, max(1.3 * top, 4 * threshold))
        ticks = [t for t in (0, 0.05, 0.2, 0.5, 1, 2, 5, 10, 20) if t <= max(1.3 * top, 0.2)]
        ax.xaxis.set_major_locator(FixedLocator(ticks))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        ax.set_yticks(range(len(sites)), [unit_limit(site) for site in sites])
        ax.set_ylim(len(sites) - 0.5, -0.5)
        ax.set_xlabel("sensitivity")
        ax.set_title(f"To the {what}")
    return figure
