"""What priors believe: units that hold the mass, and the accuracy of draws."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..prior_predictive import HeldOut, PriorPredictive
from .style import GRID, INK, MARKERS, MUTED, SERIES, new_figure, styled, unit_limit

MOST_SITES = 16
BINS = np.linspace(0, 100, 41)


@styled
def prior_figure(found: Mapping[str, PriorPredictive]) -> Figure:
    """Priors side by side, name -> what :func:`.prior_predictive.prior_predictive` found.

    Left, for every site, the share of its units that hold 95 % of the mass: mean and 5-95 % of the
    draws. Right, where there are predictions, the accuracies of single draws as a histogram, with
    that of their mixture and of the network itself. Of more than 16 sites evenly spread ones are
    shown.
    """
    sizes = next(iter(found.values())).sizes
    names = list(sizes)
    if len(names) > MOST_SITES:
        names = [names[round(i)] for i in np.linspace(0, len(names) - 1, MOST_SITES)]
    held_out = {
        name: one.held_out
        for name, one in found.items()
        if one.held_out is not None and one.held_out.accuracies is not None
    }
    rows = max(len(names) * (0.16 * len(found) + 0.14), 0.55 * len(held_out), 1.6)
    figure = new_figure(rows + 1.2)
    if held_out:
        left, right = figure.subplots(1, 2, width_ratios=[1.2, 1.0])
        _accuracies(right, held_out)
    else:
        left = figure.subplots()
    _units(left, found, names)
    handles = [h for ax in (left, *figure.axes[1:]) for h in ax.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))
    return figure


def _units(ax: Axes, found: Mapping[str, PriorPredictive], names: list[str]) -> None:
    step = 0.8 / len(found)
    for i, (prior, one) in enumerate(found.items()):
        y = np.arange(len(names)) + (i - (len(found) - 1) / 2) * step
        spread = [one.units[name] for name in names]
        share = np.array([100 / one.sizes[name] for name in names])
        mean = share * [s.mean for s in spread]
        low, high = share * [s.low for s in spread], share * [s.high for s in spread]
        color = SERIES[i % len(SERIES)]
        # The seventh prior has the colour of the first, and another marker.
        marker = MARKERS[(i + i // len(SERIES)) % len(MARKERS)]
        ax.hlines(y, low, high, color=color, lw=2, alpha=0.6)
        ax.plot(mean, y, marker, color=color, ms=5, label=unit_limit(prior, 32))
    for edge in range(1, len(names)):
        ax.axhline(edge - 0.5, color=GRID, lw=0.8)
    ax.axvline(95, color=MUTED, lw=1, ls=":")
    sizes = next(iter(found.values())).sizes
    ax.set_yticks(range(len(names)), [f"{unit_limit(n)} ({sizes[n]})" for n in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(0, 100)
    ax.set_xlabel("share of the site's units (%); dotted: uniform switch")
    ax.set_title("Units with 95 % of the mass, mean and 5-95 %")
    ax.tick_params(axis="y", length=0)


def _accuracies(ax: Axes, held_out: Mapping[str, HeldOut]) -> None:
    for i, one in enumerate(held_out.values()):
        assert one.accuracies is not None  # the caller has looked
        assert one.mixture is not None
        assert one.network is not None
        counts, _ = np.histogram(one.accuracies, BINS)
        top = i - 0.8 * counts / counts.max()
        color = SERIES[i % len(SERIES)]
        ax.stairs(top, BINS, baseline=i, fill=True, color=color, alpha=0.6, lw=0)
        ax.axhline(i, color=MUTED, lw=0.6)
        if i == 0:
            ax.axvline(one.network, color=MUTED, lw=1.2, ls="--", label="network itself")
        label = "mixture of the draws" if i == 0 else None
        ax.plot(one.mixture, i, "D", color=INK, ms=5, label=label)
    ax.set_yticks(range(len(held_out)), [unit_limit(name) for name in held_out])
    ax.set_ylim(len(held_out) - 0.7, -1.0)
    ax.set_xlim(0, 102)
    ax.set_xlabel("accuracy of a draw (%)")
    ax.set_title("Prior predictive accuracy")
    ax.tick_params(axis="y", length=0)
