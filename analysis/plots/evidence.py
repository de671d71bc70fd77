"""The removal cost of every unit under posterior draws, and the cut."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from .style import INK, KEPT, NARROW, REMOVED, band, grid_axes, new_figure, styled, unit_limit
from .views import SiteView, intervals

LABELLED = 16  # up to so many units a panel names each


@styled
def evidence_figure(views: Sequence[SiteView]) -> Figure:
    """A panel per site: mean removal cost by rank, 50 % and 90 % intervals, on a log axis.

    A mean is drawn as a dot; it can lie above the 90 % interval, since the cost's draws are skewed.
    Costs below a millionth of the site's largest are drawn there.
    """
    shown = [view for view in views if view.cost is not None]
    if not shown:
        raise ValueError("no site has draws of its removal cost")
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(0.7 + 2.85 * rows)
    axes = grid_axes(figure, len(shown), columns)
    for i, (ax, view) in enumerate(zip(axes, shown, strict=True)):
        assert view.cost is not None
        mean = view.cost.mean(0)
        floor = max(float(mean.max()) * 1e-6, 1e-300)
        order = np.lexsort((-np.arange(view.size), -mean))
        rank = np.arange(1, view.size + 1)
        low, q1, _, q3, high = np.maximum(intervals(view.cost)[:, order], floor)
        kept = view.kept[order]
        if view.size > NARROW:
            band(ax, low, high, kept, 0.28)
            band(ax, q1, q3, kept, 0.5)
        for stay, color in ((True, KEPT), (False, REMOVED)):
            where = kept == stay
            if view.size <= NARROW:
                ax.vlines(rank[where], low[where], high[where], color=color, alpha=0.5, lw=1.1)
                ax.vlines(rank[where], q1[where], q3[where], color=color, alpha=0.6, lw=3)
            dots = np.maximum(mean[order], floor)[where]
            ax.scatter(
                rank[where],
                dots,
                s=max(1.5, min(22.0, 900 / view.size)),
                color=color,
                lw=0,
                zorder=3,
            )
        number = int(kept.sum())
        if number < view.size and bool(kept[:number].all()):
            ax.axvline(number + 0.5, color=INK, lw=1.1, ls="--")
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(numticks=6))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.grid(axis="y")
        ax.set_xlim(0.4 - 0.01 * view.size, view.size + 0.6 + 0.01 * view.size)
        if view.size <= LABELLED:
            ax.set_xticks(rank, [str(u) for u in order], fontsize=7.5)
            ax.set_xlabel("unit, highest cost first")
        else:
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
            ax.set_xlabel("rank, highest cost first")
        if i % columns == 0:
            ax.set_ylabel("removal cost (nats)")
        ax.set_title(f"{unit_limit(view.name)}\n{number:,} of {view.size:,} kept")
    handles = [
        Line2D([], [], color=KEPT, marker="o", lw=3, alpha=0.8, label="kept"),
        Line2D([], [], color=REMOVED, marker="o", lw=3, alpha=0.8, label="removed"),
        Line2D([], [], color=INK, lw=1.1, ls="--", label="the cut, where one rank parts them"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
