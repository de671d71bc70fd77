"""Methods side by side: accuracy against what is left, and against what the choice took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from .compare import dashes, mark
from .style import GRID, INK, MUTED, compact, new_figure, styled, unit_limit

LABEL = 40  # characters of a method in a legend


@dataclass(frozen=True)
class Point:
    """One method at one budget.

    Attributes:
        macs: the share of the multiply-adds that is left, in the mean over seeds.
        percent: accuracy of every seed.
    """

    macs: float
    percent: Sequence[float]


@styled
def accuracy_macs_figure(
    methods: Mapping[str, Sequence[Point]], original: float, title: str
) -> Figure:
    """Accuracy against the share of multiply-adds that is left: a line a method.

    A line is the mean over seeds, a dot one seed, a band the mean ± their standard deviation.

    Args:
        methods: name -> its points, one for each budget.
        original: percent of the unpruned networks, in the mean.
        title: protocol and compensation.
    """
    figure = new_figure(4.6 + 0.2 * _legend_rows(methods))
    ax = figure.subplots()
    ax.axhline(original, color=INK, lw=1.0, ls="--")
    pale = 0.12 if len(methods) <= 6 else 0.05  # many bands lie over each other
    for i, points in enumerate(methods.values()):
        color, marker = mark(i)
        ordered = sorted(points, key=lambda p: p.macs)
        x = np.array([100 * p.macs for p in ordered])
        mean = np.array([np.mean(p.percent) for p in ordered])
        sd = np.array([_sd(p.percent) for p in ordered])
        ax.fill_between(x, mean - sd, mean + sd, color=color, alpha=pale, lw=0)
        ax.plot(x, mean, color=color, marker=marker, ms=5, lw=1.6, ls=dashes(i))
        for at, point in zip(x, ordered, strict=True):
            shown = np.full(len(point.percent), at)
            ax.scatter(shown, point.percent, s=7, color=color, alpha=0.5, lw=0)
    ax.grid(axis="y")
    ax.set_ylim(top=min(101.0, ax.get_ylim()[1]))
    # On a logarithmic axis: at equal shares of every layer's units they fall by the square.
    shares = [100 * p.macs for points in methods.values() for p in points]
    ax.set_xscale("log")
    ax.set_xlim(min(shares) / 1.15, max(shares) * 1.15)
    rounded = [step * 10.0**k for k in range(-3, 3) for step in (1, 2, 5)]
    ticks = [t for t in rounded if min(shares) / 1.15 <= t <= max(shares) * 1.15]
    ticks = ticks if len(ticks) > 1 else sorted({min(shares), max(shares)})
    ax.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("multiply-adds left (%)")
    ax.set_ylabel("accuracy (% of test images)")
    ax.set_title(title)
    extra = Line2D([], [], color=INK, lw=1.0, ls="--", label="unpruned network")
    _legend(figure, methods, extra)
    return figure


@dataclass(frozen=True)
class Cost:
    """One method over all budgets.

    Attributes:
        forwards: passes that a choice takes, in the mean.
        percent: by seed, accuracy in the mean over budgets.
    """

    forwards: float
    percent: Sequence[float]


@styled
def accuracy_cost_figure(methods: Mapping[str, Cost], title: str) -> Figure:
    """Accuracy, in the mean over budgets, against the passes that a choice took.

    A mark is the mean over seeds, a bar ± their standard deviation. What looks at no image stands
    to the left of the logarithmic axis. The grey line joins what no cheaper method beats.

    Args:
        methods: name -> cost and accuracy.
        title: protocol, compensation and budgets.
    """
    figure = new_figure(4.4 + 0.2 * _legend_rows(methods))
    ax = figure.subplots()
    positive = [c.forwards for c in methods.values() if c.forwards > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 10.0)
    nothing = low / (10 ** (0.12 * max(2.0, math.log10(high / low) + 1)))
    places = {name: cost.forwards or nothing for name, cost in methods.items()}
    front: list[tuple[float, float]] = []
    for name in sorted(methods, key=lambda n: (places[n], -np.mean(methods[n].percent))):
        mean = float(np.mean(methods[name].percent))
        if not front or mean > front[-1][1]:
            front.append((places[name], mean))
    ax.step(*zip(*front, strict=True), where="post", color=GRID, lw=3, zorder=1)
    free = [name for name, cost in methods.items() if not cost.forwards]
    for i, (name, cost) in enumerate(methods.items()):
        color, marker = mark(i)
        # Beside each other, or marks of equal cost would hide each other.
        shift = 1.0
        if name in free:
            shift = (nothing / low) ** (0.35 * ((free.index(name) + 0.5) / len(free) - 0.5))
        x, mean = places[name] * shift, float(np.mean(cost.percent))
        ax.errorbar(
            x,
            mean,
            yerr=_sd(cost.percent),
            color=color,
            marker=marker,
            ms=8,
            capsize=3,
            lw=1.2,
            zorder=3,
        )
    ax.set_xscale("log")
    left = nothing**1.5 / low**0.5 if free else low / 2
    ax.set_xlim(left, 2 * high)
    _cost_axis(ax, nothing if free else None, low)
    ax.grid(axis="y")
    ax.set_xlabel("passes of single images through the network (a backward one counts as two)")
    ax.set_ylabel("accuracy (% of test images)")
    ax.set_title(title)
    extra = Line2D([], [], color=GRID, lw=3, label="no cheaper one is better")
    _legend(figure, methods, extra)
    return figure


def _cost_axis(ax: Axes, nothing: float | None, low: float) -> None:
    """Powers of ten, and a place for what looks at no image."""
    first, last = math.ceil(math.log10(low)), math.floor(math.log10(ax.get_xlim()[1]))
    ticks = [10.0**k for k in range(first, last + 1)] or [low]
    if nothing is not None:
        ticks = [nothing, *(t for t in ticks if t > 1.5 * nothing)]
        ax.axvline(math.sqrt(nothing * low), color=MUTED, lw=0.9, ls=":")
    ax.set_xticks(ticks, ["none" if t == nothing else compact(t) for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def _sd(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _columns(names: Sequence[str]) -> int:
    """As many as have room for the longest name."""
    longest = max(len(unit_limit(name, LABEL)) for name in names)
    return max(1, min(5, 130 // (longest + 8)))


def _legend_rows(methods: Mapping[str, object]) -> int:
    return -(-(len(methods) + 1) // _columns(list(methods)))


def _legend(figure: Figure, methods: Mapping[str, object], extra: Line2D) -> None:
    handles = [
        Line2D(
            [], [], color=mark(i)[0], marker=mark(i)[1], ls=dashes(i), lw=2,
            label=unit_limit(name, LABEL),
        )
        for i, name in enumerate(methods)
    ]  # fmt: skip
    figure.legend(
        handles=[*handles, extra], loc="outside lower center", ncols=_columns(list(methods))
    )
