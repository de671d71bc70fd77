"""What was removed where: widths, multiply-adds and inclusion probabilities of all sites."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .style import KEPT, MUTED, PALE, PROBABILITY, REMOVED, SERIES, new_figure, styled, unit_limit
from .views import SiteView


@styled
def widths_figure(views: Mapping[str, SiteView], macs: Mapping[str, tuple[float, float]]) -> Figure:
    """Bars of kept and removed units per site, beside its share of multiply-adds before and after.

    Args:
        views: the sites, the first on top.
        macs: from ``share_of_macs``; the empty name is what belongs to no site.
    """
    rows = np.arange(len(views))
    figure = new_figure(1.7 + 0.24 * len(views))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    for row, view in zip(rows, views.values(), strict=True):
        number = int(view.kept.sum())
        share = number / view.size
        left.barh(row, share, color=KEPT, height=0.68)
        left.barh(row, 1 - share, left=share, color=REMOVED, height=0.68, alpha=0.35)
        left.text(1.02, row, f"{number:,} of {view.size:,}", va="center", fontsize=8.5)
        before, after = macs.get(view.name, (0.0, 0.0))
        right.barh(row, 100 * before, color=PALE, height=0.68)
        right.barh(row, 100 * after, color=SERIES[2], height=0.4)
    left.set_yticks(rows, [unit_limit(name) for name in views])
    left.set_ylim(len(views) - 0.4, -0.6)
    left.set_xlim(0, 1.3)
    left.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"])
    left.set_xlabel("units (%)")
    left.set_title("Units of each site")
    right.set_xlim(left=0)
    right.set_xlabel("multiply-adds (% of the original network)")
    right.set_title("Multiply-adds of their layers")
    right.grid(axis="x")
    right.tick_params(axis="y", length=0)
    figure.legend(
        handles=[
            Patch(color=KEPT, label="kept"),
            Patch(color=REMOVED, alpha=0.35, label="removed"),
            Patch(color=PALE, label="multiply-adds before"),
            Patch(color=SERIES[2], label="after"),
        ],
        loc="outside lower center",
        ncols=4,
    )
    return figure


@styled
def inclusion_figure(views: Mapping[str, SiteView]) -> Figure:
    """A strip per site: its units by inclusion probability, highest first; a tick where the cut is.

    A site whose strip is a clean step was decided with certainty; a long fade is where other draws
    of the posterior would have chosen other units.
    """
    shown = [view for view in views.values() if view.probability is not None]
    if not shown:
        raise ValueError("no site has inclusion probabilities")
    figure = new_figure(2.1 + 0.27 * len(shown))
    ax = figure.subplots()
    image = None
    for row, view in enumerate(shown):
        assert view.probability is not None
        strip = np.sort(view.probability)[::-1][None]
        edges = np.linspace(0, 100, view.size + 1)
        image = ax.pcolormesh(
            edges, [row - 0.4, row + 0.4], strip, cmap=PROBABILITY, vmin=0, vmax=1, rasterized=True
        )
        cut = 100 * float(view.kept.mean())
        ax.plot([cut, cut], [row - 0.47, row + 0.47], color="white", lw=3.4, solid_capstyle="butt")
        ax.plot([cut, cut], [row - 0.47, row + 0.47], color=REMOVED, lw=1.8, solid_capstyle="butt")
        least = (np.abs(view.probability - 0.5) < 0.4).sum()
        ax.text(101, row, f"{least:,} of {view.size:,}", va="center", fontsize=8.5)
    ax.text(101, -0.75, "0.1 < p < 0.9", va="bottom", fontsize=8, color=MUTED)
    ax.set_yticks(range(len(shown)), [unit_limit(view.name) for view in shown])
    ax.set_ylim(len(shown) - 0.4, -0.75)
    ax.set_xlim(0, 114)
    ax.set_xticks(range(0, 101, 20))
    ax.set_xlabel("units of the site (%), highest probability first")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title("Inclusion probability; the orange tick is the number kept", pad=16)
    assert image is not None
    inches = float(figure.get_figheight())
    figure.colorbar(
        image, ax=ax, label="probability", location="bottom", shrink=0.4,
        fraction=0.3 / inches, pad=0.15 / inches, aspect=28,
    )  # fmt: skip
    return figure
