"""Accuracy against budget: what was predicted, and what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

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

if TYPE_CHECKING:
    from ..decision.predicted_accuracy import Checked


@styled
def predicted_accuracy_figure(panels: Mapping[str, Sequence[Checked]]) -> Figure:
    """Predicted intervals and the accuracy on new images over budgets, a panel for each network.

    The bar is the interval of the network that was decided on. Behind it, pale, stands the interval
    of the networks that single posterior draws would have decided on: where it is long, much hangs
    on the choice of the units. A diamond is an accuracy outside of its bar.

    Args:
        panels: title -> what
            :func:`~dirprune.analysis.decision.predicted_accuracy.check_predictions` found.
    """
    rows = -(-len(panels) // 3)
    figure = new_figure(0.9 + 3.0 * rows)
    axes = grid_axes(figure, len(panels))
    for ax, (title, checked) in zip(axes, panels.items(), strict=True):
        at = np.arange(len(checked))
        names = [",".join(_aim(k, v) for k, v in c.budget.items()) for c in checked]
        masks = [c.predicted.other_masks for c in checked]
        for x, other in zip(at, masks, strict=True):
            if other is not None:
                ax.bar(x, other.high - other.low, 0.62, other.low, color=PALE, alpha=0.6)
        network = [c.predicted.network for c in checked]
        low, high = (np.array([getattr(n, end) for n in network]) for end in ("low", "high"))
        ax.bar(at, high - low, 0.34, low, color=SERIES[4])
        ax.hlines([n.mean for n in network], at - 0.17, at + 0.17, color=INK, lw=1.4)
        happened = np.array([c.happened for c in checked])
        off = np.array([c.happened not in c.predicted.network for c in checked], dtype=bool)
        ax.plot(at[~off], happened[~off], "o", color=KEPT, ms=5)
        ax.plot(at[off], happened[off], "D", color=REMOVED, ms=5.5)
        shown = np.array([*low, *happened, *(m.low for m in masks if m is not None)])
        ax.set_ylim(max(0.0, float(shown.min()) - 3), 101)
        ax.set_xticks(at, names, rotation=30, ha="right", rotation_mode="anchor")
        ax.grid(axis="y")
        ax.set_title(f"{unit_limit(title)}: {len(at) - int(off.sum())} of {len(at)} inside")
    first = next(iter(panels.values()))[0].predicted
    axes[0].set_ylabel("accuracy (%)")
    new = "ever so many" if first.new_images is None else f"{first.new_images:,}"
    every = [c.predicted.other_masks for checked in panels.values() for c in checked]
    note = "" if not any(every) else "; grey: for masks of single posterior draws"
    figure.supxlabel(
        f"blue: {100 * first.level:.0f} % interval for {new} new images, from {first.images:,} "
        f"held-out ones, line: its mean{note}; points: what happened",
        fontsize=8.5, color=MUTED,
    )  # fmt: skip
    return figure


def _aim(what: str, value: Any) -> str:
    """A budget or widths, as a label.

    >>> _aim("macs", 0.5), _aim("widths", "uniform"), _aim("widths", {"conv1": 3})
    ('macs=0.5', 'uniform widths', 'given widths')
    """
    if what == "widths":
        return f"{value if isinstance(value, str) else 'given'} widths"
    return f"{what}={value:g}"
