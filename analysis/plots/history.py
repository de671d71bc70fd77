"""How learning went: the ELBO of every restart, the losses of training and fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import INK, SERIES, new_figure, styled
from .views import Floats


def smooth(losses: Sequence[float]) -> tuple[Floats, Floats]:
    """Steps and the running mean of losses over a twentieth of them, without their ragged ends."""
    values = np.asarray(losses, dtype=np.float64)
    width = max(1, len(values) // 20)
    total = np.cumsum(np.concatenate([[0.0], values]))
    mean = (total[width:] - total[:-width]) / width
    return np.arange(len(mean), dtype=np.float64) + 1 + (width - 1) / 2, mean


@styled
def elbo_figure(history: Sequence[Sequence[float]]) -> Figure:
    """The loss (the negative ELBO) at every step, and its running mean, for every restart.

    The y axis leaves out the highest hundredth, so that a bad first step does not flatten the rest.
    """
    runs = [run for run in history if len(run)]
    if not runs:
        raise ValueError("no step of SVI")
    figure = new_figure(3.4)
    ax = figure.subplots()
    for i, run in enumerate(runs):
        label = "running mean" if len(runs) == 1 else f"restart {i + 1}"
        _curve(ax, run, SERIES[i % len(SERIES)], label if i < 12 else "")
    values = np.concatenate([np.asarray(run, dtype=np.float64) for run in runs])
    low, high = float(values.min()), float(np.quantile(values, 0.99))
    if high > low:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))
    ax.set_ylabel("negative ELBO (nats)")
    ax.set_title("SVI: the loss at every step (pale) and its running mean")
    ax.legend(loc="upper right", ncols=min(4, len(runs)))
    return figure


@styled
def training_figure(training: Sequence[float], finetuning: Sequence[float]) -> Figure:
    """The losses of training and of fine-tuning at every step; what did not run has no panel."""
    parts = [
        (name, losses)
        for name, losses in (("Training", training), ("Fine-tuning", finetuning))
        if len(losses)
    ]
    if not parts:
        raise ValueError("neither training nor fine-tuning ran")
    figure = new_figure(3.0)
    for ax, (name, losses) in zip(
        figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True
    ):
        _curve(ax, losses, SERIES[0] if name == "Training" else SERIES[2], "")
        ax.set_ylim(0, 1.05 * float(np.quantile(losses, 0.995)) or 1.0)
        ax.set_ylabel("loss (nats per image)")
        ax.set_title(name)
    return figure


def _curve(ax: Axes, losses: Sequence[float], color: str, label: str) -> None:
    steps = np.arange(1, len(losses) + 1)
    ax.plot(steps, losses, color=color, alpha=0.25, lw=0.7)
    at, mean = smooth(losses)
    ax.plot(at, mean, color=color, lw=1.8, label=label or None, marker="o" if len(at) == 1 else "")
    ax.grid(axis="y")
    ax.set_xlim(0.5 - 0.01 * len(losses), len(losses) + 0.5 + 0.01 * len(losses))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set_xlabel("step", color=INK)
