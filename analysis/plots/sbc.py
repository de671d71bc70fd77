"""Simulation-based calibration: the ECDF of the ranks against its band."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ..calibration import LIKELIHOOD, Calibration
from ..uniformity import band, ecdf
from .style import GRID, INK, MUTED, SERIES, grid_axes, new_figure, styled, unit_limit


@styled
def sbc_figure(results: Mapping[str, Calibration]) -> Figure:
    """A panel for each guide: ECDF of the ranks less that of uniform ones, a line for each unit.

    The band holds a whole line with 95 % probability if the guide is right. A line that rises first
    and falls then is a U of ranks (over-confident); falls first, a hump (under-confident); one that
    stays below 0 says that the posterior lies too low. Dashed: ranks of the log likelihood.
    """
    columns = min(4, len(results))
    figure = new_figure(0.6 + 2.6 * -(-len(results) // columns))
    axes = grid_axes(figure, len(results), columns)
    furthest = widest = 0.0
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        z, low, high = band(result.simulations)
        ax.fill_between(z, low - z, high - z, step="mid", color=GRID, lw=0)
        ax.axhline(0, color=MUTED, lw=0.8)
        for i, (site, values) in enumerate(result.values().items()):
            likelihood = site == LIKELIHOOD
            for k, column in enumerate(values.T):
                difference = ecdf(column) - z
                furthest = max(furthest, float(np.abs(difference).max()))
                ax.plot(
                    z,
                    difference,
                    color=INK if likelihood else SERIES[i % len(SERIES)],
                    ls="--" if likelihood else "-",
                    lw=1.2,
                    label=None
                    if k
                    else "log likelihood"
                    if likelihood
                    else f"site {unit_limit(site)}",
                )
        ax.set_title(f"{unit_limit(name)}\n{result.summary()['verdict']}")
        ax.set_xlabel("rank of the truth / draws")
        widest = max(widest, float((high - z).max()))
    # A point mass is far off: of it, that it leaves the picture is all there is to see.
    limit = 1.08 * min(max(furthest, widest), 3 * widest)
    for i, ax in enumerate(axes):
        ax.set_ylim(-limit, limit)
        ax.set_xlim(0, 1)
        ax.set_xticks([0, 0.5, 1])
        if i % columns == 0:
            ax.set_ylabel("ECDF − uniform")
        else:
            ax.set_yticklabels([])
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
    return figure
