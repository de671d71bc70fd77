"""How sure the ranking is: the probability that a unit is among the k best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import NARROW, PROBABILITY, REMOVED, grid_axes, new_figure, styled, unit_limit
from .views import Floats, SiteView

BINS = 40
LABELLED = 20


def rank_probability(draws: Floats, order: np.ndarray) -> Floats:
    """P(unit is among the k best), [units in ``order``, k = 1 .. K], over draws [S, K].

    >>> rank_probability(np.array([[3.0, 1.0], [1.0, 3.0]]), np.array([0, 1])).tolist()
    [[0.5, 1.0], [0.5, 1.0]]
    """
    number, size = draws.shape
    best_first = np.argsort(-draws, axis=1, kind="stable")
    rank = np.empty_like(best_first)
    np.put_along_axis(rank, best_first, np.arange(size)[None], axis=1)
    counts = np.zeros((size, size))
    for row in rank:
        counts[np.arange(size), row] += 1
    return np.asarray(np.cumsum(counts[order], axis=1) / number)


@styled
def rank_figure(views: Sequence[SiteView]) -> Figure:
    """A heat map per site; a certain ranking is a sharp diagonal, an uncertain one a blur.

    Ranks are those of the removal cost, or of the gain where no cost is stored. Sites of more than
    40 units are averaged over 40 bins of neighbouring ranks.
    """
    columns = min(3, len(views))
    rows = -(-len(views) // columns)
    figure = new_figure(0.4 + 3.3 * rows)
    axes = grid_axes(figure, len(views), columns)
    image = None
    for i, (ax, view) in enumerate(zip(axes, views, strict=True)):
        draws = view.gains if view.cost is None else view.cost
        order = np.lexsort((-np.arange(view.size), -draws.mean(0)))
        p = rank_probability(draws, order)
        edges = np.arange(view.size + 1)
        if view.size > NARROW:
            edges = np.linspace(0, view.size, BINS + 1).round().astype(int)
            p = np.add.reduceat(p, edges[:-1], axis=0) / np.diff(edges)[:, None]
            p = p[:, edges[1:] - 1]
        image = ax.pcolormesh(
            edges + 0.5, edges + 0.5, p, cmap=PROBABILITY, vmin=0, vmax=1, rasterized=True
        )
        number = int(view.kept.sum())
        if number < view.size:
            ax.axvline(number + 0.5, color="white", lw=3)
            ax.axvline(number + 0.5, color=REMOVED, lw=1.6)
        ax.set_ylim(view.size + 0.5, 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        ax.set_xlabel("k")
        if view.size <= LABELLED:
            ax.set_yticks(np.arange(1, view.size + 1), [str(u) for u in order], fontsize=7.5)
        else:
            ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        what = "unit, best first" if view.size <= LABELLED else "rank of the unit"
        ax.set_ylabel(what if i % columns == 0 or view.size <= LABELLED else "rank")
        ax.set_title(f"{unit_limit(view.name)}\n{number:,} of {view.size:,} kept")
        ax.spines[:].set_visible(False)
    assert image is not None
    figure.colorbar(image, ax=axes, label="P(among the k best)", fraction=0.025, aspect=30)
    return figure
