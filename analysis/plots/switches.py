"""Switches and concentrations of one site, with intervals, and what stays."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from .style import (
    INK,
    KEPT,
    MARKERS,
    MUTED,
    NARROW,
    REMOVED,
    band,
    new_figure,
    styled,
    unit_limit,
)
from .views import SiteView, intervals


@styled
def switch_figure(view: SiteView) -> Figure:
    """The gain K x s of every unit, its concentration and its inclusion probability.

    Up to 40 units it is a forest plot, a line for each unit; beyond, units lie along the x axis by
    rank and the intervals are bands.
    """
    panels = ["gain"]
    panels += ["concentration"] if view.concentration is not None else []
    panels += ["inclusion"] if view.probability is not None else []
    return _forest(view, panels) if view.size <= NARROW else _ranked(view, panels)


def _forest(view: SiteView, panels: list[str]) -> Figure:
    figure = new_figure(max(2.7, 1.75 + 0.2 * view.size))
    ratios = {"gain": 3.0, "concentration": 1.7, "inclusion": 1.7}
    axes = figure.subplots(
        1, len(panels), sharey=True, squeeze=False, width_ratios=[ratios[p] for p in panels]
    )[0]
    order, rows = view.order, np.arange(view.size)
    colors = [KEPT if view.kept[u] else REMOVED for u in order]
    for ax, panel in zip(axes, panels, strict=True):
        ax.grid(axis="x")
        if panel == "gain":
            low, q1, _, q3, high = intervals(view.gains)[:, order]
            ax.hlines(rows, low, high, colors=colors, lw=1.2)
            ax.hlines(rows, q1, q3, colors=colors, lw=3.6)
            _points(ax, view, view.gains.mean(0)[order], rows)
            ax.axvline(1, color=MUTED, lw=0.9, ls=":")
            ax.set_xlim(left=0)
            ax.set_xlabel("gain K × switch, 50 % and 90 % intervals")
            ax.set_title(f"{unit_limit(view.name)}: gain")
        elif panel == "concentration" and view.concentration is not None:
            for c, values in enumerate(view.concentration):
                ax.scatter(
                    values[order], rows, c=colors, s=18, marker=MARKERS[c % len(MARKERS)], alpha=0.8
                )
            ax.set_xlabel(f"concentration{_per_restart(view)}")
            ax.set_title("Concentration")
            ax.xaxis.set_major_locator(MaxNLocator(5))
        elif view.probability is not None:
            p = view.probability[order]
            ax.hlines(rows, 0, p, colors=colors, lw=1.2)
            _points(ax, view, p, rows)
            ax.axvline(0.5, color=MUTED, lw=0.9, ls=":")
            ax.set_xlim(-0.04, 1.04)
            ax.set_xlabel("share of draws that keep it")
            ax.set_title("Inclusion probability")
        if view.cut is not None and view.cut < view.size:
            ax.axhline(view.cut - 0.5, color=INK, lw=1.1, ls="--")
    axes[0].set_yticks(rows, [str(u) for u in order])
    axes[0].set_ylim(view.size - 0.4, -0.6)
    axes[0].set_ylabel(f"unit, by {view.score_name}")
    for ax in axes[1:]:
        ax.tick_params(axis="y", length=0)
    _legend(figure, view, bands=False)
    return figure


def _ranked(view: SiteView, panels: list[str]) -> Figure:
    heights = {"gain": 2.6, "concentration": 1.9, "inclusion": 1.5}
    figure = new_figure(0.9 + sum(heights[p] for p in panels))
    axes = figure.subplots(
        len(panels), 1, sharex=True, squeeze=False, height_ratios=[heights[p] for p in panels]
    )[:, 0]
    order, rank = view.order, np.arange(1, view.size + 1)
    kept = view.kept[order]
    dots = max(2.0, min(20.0, 2200 / view.size))
    for ax, panel in zip(axes, panels, strict=True):
        ax.grid(axis="y")
        if panel == "gain":
            low, q1, _, q3, high = intervals(view.gains)[:, order]
            mean = view.gains.mean(0)[order]
            band(ax, low, high, kept, 0.22)
            band(ax, q1, q3, kept, 0.4)
            _dots(ax, view, rank, mean, dots)
            ax.axhline(1, color=MUTED, lw=0.9, ls=":")
            ax.set_ylim(bottom=0)
            ax.set_ylabel("gain K × switch")
            ax.set_title(
                f"{unit_limit(view.name)}: gain of {view.size:,} units, 50 % and 90 % intervals"
            )
        elif panel == "concentration" and view.concentration is not None:
            for values in view.concentration:
                _dots(ax, view, rank, values[order], dots)
            ax.set_ylabel("concentration")
            ax.set_title(f"Concentration{_per_restart(view)}")
        elif view.probability is not None:
            _dots(ax, view, rank, view.probability[order], dots)
            ax.axhline(0.5, color=MUTED, lw=0.9, ls=":")
            ax.set_ylim(-0.06, 1.06)
            ax.set_ylabel("probability")
            ax.set_title("Inclusion probability: the share of draws that keep the unit")
        if view.cut is not None and view.cut < view.size:
            ax.axvline(view.cut + 0.5, color=INK, lw=1.1, ls="--")
    axes[-1].set_xlim(0.5 - 0.01 * view.size, view.size + 0.5 + 0.01 * view.size)
    axes[-1].xaxis.set_major_locator(MaxNLocator(10, integer=True, steps=[1, 2, 5, 10]))
    axes[-1].set_xlabel(f"rank by {view.score_name}, best first")
    _legend(figure, view, bands=True)
    return figure


def _points(ax: Axes, view: SiteView, x: np.ndarray, rows: np.ndarray) -> None:
    stay = view.kept[view.order]
    ax.scatter(x[stay], rows[stay], s=30, color=KEPT, zorder=3)
    ax.scatter(x[~stay], rows[~stay], s=30, facecolor="white", edgecolor=REMOVED, lw=1.5, zorder=3)


def _dots(ax: Axes, view: SiteView, rank: np.ndarray, y: np.ndarray, size: float) -> None:
    stay = view.kept[view.order]
    ax.scatter(rank[stay], y[stay], s=size, color=KEPT, lw=0, zorder=3)
    ax.scatter(rank[~stay], y[~stay], s=size, color=REMOVED, lw=0, zorder=3)


def _per_restart(view: SiteView) -> str:
    """What the marks of several restarts are."""
    number = 1 if view.concentration is None else len(view.concentration)
    return "" if number == 1 else ", one mark per restart"


def _legend(figure: Figure, view: SiteView, bands: bool) -> None:
    number = int(view.kept.sum())
    handles = []
    for color, count, label in (
        (KEPT, number, "kept"),
        (REMOVED, view.size - number, "removed"),
    ):
        if count:
            face = color if color == KEPT or bands else "white"
            handles.append(
                Line2D(
                    [], [], color=color, marker="o", ls="", markerfacecolor=face,
                    label=f"{label} ({count:,})",
                )
            )  # fmt: skip
    if view.cut is not None and view.cut < view.size:
        handles.append(Line2D([], [], color=INK, lw=1.1, ls="--", label="the cut"))
    elif view.cut is None:
        why = "no single cut: units differ in what they cost"
        handles.append(Line2D([], [], ls="None", label=why))  # nothing is drawn for it
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
