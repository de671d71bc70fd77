"""Which classes pay for a removal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from ...model.decision import Decision
from .style import KEPT, MUTED, REMOVED, new_figure, styled, unit_limit
from .views import Floats

if TYPE_CHECKING:
    from ..class_effects import ClassEffects

DIVERGING = "PuOr_r"  # colour-blind readers tell its ends apart
RISES, FALLS = "#B35806", "#542788"  # its ends, more or less
MOST_CLASSES = 20  # with a name of their own
LABELLED = 20


@styled
def class_effect_figure(effects: ClassEffects, decision: Decision | None = None) -> Figure:
    """A heat map of units by classes per site, worst removal first, below the joint removal's bars.

    The colour is the rise of the class's mean loss in nats when the unit alone is removed; each
    site has its own scale, since single units of a wide site hardly matter, and the one in a
    hundred that are farthest from zero may lie beyond it. The strip at the left
    of a site has the colours of kept and removed units.

    Args:
        effects: from :func:`~dirprune.analysis.class_effects.class_effects`.
        decision: marks the units that stay; without it there is no strip.
    """
    number = len(effects.loss)
    columns = min(3, number)
    rows = -(-number // columns)
    names = 0.07 * max(map(len, effects.class_names)) if _turned(effects.class_names) else 0.0
    heights = [3.6 + names] * rows
    if effects.joint_accuracy is not None:
        heights.insert(0, 2.1 + names)
    figure = new_figure(sum(heights))
    grid = figure.add_gridspec(len(heights), 6, height_ratios=heights)
    if effects.joint_accuracy is not None:
        _draw_joint([figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])], effects)
    span, first = 6 // columns, len(heights) - rows
    for i, (site, loss) in enumerate(effects.loss.items()):
        row, column = first + i // columns, i % columns * span
        ax = figure.add_subplot(grid[row, column : column + span])
        units = effects.units[site].numpy()
        kept = None
        if decision is not None:
            stay = decision.kept.get(site)
            kept = np.ones(len(units), dtype=bool) if stay is None else np.isin(units, stay)
        _draw_site(ax, site, units, loss.double().numpy(), effects.class_names, kept)
    if decision is not None:
        figure.legend(
            handles=[
                Patch(color=KEPT, label="unit is kept"),
                Patch(color=REMOVED, label="unit is removed"),
            ],
            loc="outside lower center",
            ncols=2,
        )
    return figure


def _draw_joint(axes: Sequence[Axes], effects: ClassEffects) -> None:
    """Bars: what the whole decision costs each class."""
    assert effects.joint_accuracy is not None
    assert effects.joint_loss is not None
    for ax, values, what, unit in (
        (axes[0], effects.joint_accuracy, "fall of each class's accuracy", "points"),
        (axes[1], effects.joint_loss, "rise of each class's mean loss", "nats"),
    ):
        heights = values.double().numpy()
        colours = np.where(heights > 0, RISES, FALLS)
        bars = ax.bar(np.arange(len(heights)), np.nan_to_num(heights), color=colours, width=0.7)
        if len(heights) <= MOST_CLASSES:
            ax.bar_label(bars, _short(heights), fontsize=7.5, padding=1)
        ax.margins(y=0.16)
        ax.axhline(0, color=MUTED, lw=0.8)
        ax.set_xlim(-0.6, len(heights) - 0.4)
        _class_ticks(ax, effects.class_names)
        ax.set_ylabel(unit)
        ax.set_title(f"Decision as a whole: {what}")
        ax.grid(axis="y")


def _draw_site(
    ax: Axes,
    site: str,
    units: np.ndarray,
    loss: Floats,
    names: Sequence[str],
    kept: np.ndarray | None,
) -> None:
    order = np.argsort(-np.nanmean(loss, axis=1), kind="stable")
    values = loss[order]
    size, classes = values.shape
    found = np.abs(values[np.isfinite(values)])
    most = float(np.quantile(found, 0.99)) or float(found.max()) or 1.0
    image = ax.pcolormesh(
        np.arange(classes + 1) - 0.5,
        np.arange(size + 1) + 0.5,
        np.ma.masked_invalid(values),
        cmap=DIVERGING,
        vmin=-most,
        vmax=most,
        rasterized=True,
    )
    ax.set_ylim(size + 0.5, 0.5)
    left = -0.5
    if kept is not None:
        left = -0.5 - 0.06 * classes
        colours = np.where(kept[order], KEPT, REMOVED)
        edges = np.flatnonzero(np.r_[True, colours[1:] != colours[:-1], True])
        for start, end in pairwise(edges.tolist()):
            corner, width = (left, start + 0.5), 0.045 * classes
            ax.add_patch(Rectangle(corner, width, end - start, color=colours[start], lw=0))
    ax.set_xlim(left, classes - 0.5)
    _class_ticks(ax, names)
    if size <= LABELLED:
        ax.set_yticks(np.arange(1, size + 1), [str(unit) for unit in units[order]], fontsize=7.5)
        ax.set_ylabel("unit, worst removal first")
    else:
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        ax.set_ylabel("rank, worst removal first")
    ax.set_title(unit_limit(site))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    bar = ax.figure.colorbar(
        image, ax=ax, location="bottom", aspect=24, shrink=0.9, extend=_extend(values, most)
    )
    bar.ax.xaxis.set_major_locator(MaxNLocator(4))
    bar.set_label("rise of the class's loss (nats)")


def _short(values: Floats) -> list[str]:
    """Numbers with as many decimals as give the largest of them two digits.

    >>> _short(np.array([0.126, -0.00088, np.nan]))
    ['0.13', '0.00', '']
    """
    largest = float(np.nan_to_num(np.abs(values)).max()) or 1.0
    decimals = max(0, 1 - int(np.floor(np.log10(largest))))
    rounded = np.round(values, decimals) + 0.0  # no minus zero
    return ["" if np.isnan(v) else f"{v:.{decimals}f}".replace("-", "−") for v in rounded]


def _extend(values: Floats, most: float) -> str:
    """Which ends of the scale values go beyond."""
    below, above = bool(np.nanmin(values) < -most), bool(np.nanmax(values) > most)
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]


def _class_ticks(ax: Axes, names: Sequence[str]) -> None:
    if len(names) > MOST_CLASSES:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set_xlabel("number of the class")
        return
    labels = [unit_limit(name, 14) for name in names]
    if _turned(names):
        ax.set_xticks(
            range(len(names)), labels, rotation=60, ha="right", rotation_mode="anchor", fontsize=7.5
        )
    else:
        ax.set_xticks(range(len(names)), labels)
        ax.set_xlabel("class")


def _turned(names: Sequence[str]) -> bool:
    """Do names stand askew, since they are too long to stand side by side?"""
    return len(names) <= MOST_CLASSES and max(map(len, names)) * len(names) > 24
