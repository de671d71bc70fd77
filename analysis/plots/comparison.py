"""Before and after: accuracy, multiply-adds, parameters, latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import KEPT, MUTED, PALE, SERIES, compact, new_figure, styled

STAGES = {
    "original": "original",
    "pruned": "pruned",
    "compensated": "compen-\nsated",
    "finetuned": "fine-\ntuned",
}


@styled
def comparison_figure(metrics: Mapping[str, Any]) -> Figure:
    """Bars from ``metrics.json``; what was not measured has no bar, or no panel."""
    panels: list[tuple[str, dict[str, float], str]] = []
    accuracy = {
        text: metrics["accuracy"][key]
        for key, text in STAGES.items()
        if metrics["accuracy"].get(key) is not None
    }
    panels.append(("Accuracy (%)", accuracy, "percent"))
    for key, title in (
        ("macs", "Multiply-adds"),
        ("params", "Parameters"),
        ("latency_ms", "Latency (ms)"),
    ):
        values = metrics.get(key)
        if values and values.get("before") is not None and values.get("after") is not None:
            panels.append((title, {"before": values["before"], "after": values["after"]}, key))
    figure = new_figure(2.4)
    ratios = [1.5, *[1.0] * (len(panels) - 1)]
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=ratios)[0]
    for ax, (title, values, kind) in zip(axes, panels, strict=True):
        _bars(ax, values, kind, metrics)
        if kind == "latency_ms" and metrics.get("latency_batch"):
            ax.set_xlabel(f"median, batch of {metrics['latency_batch']}")
        ax.set_title(title)
    return figure


def _bars(ax: Axes, values: Mapping[str, float], kind: str, metrics: Mapping[str, Any]) -> None:
    colors = {"original": PALE, "before": PALE, "after": KEPT, "pruned": SERIES[4]}
    top = 100.0 if kind == "percent" else max(*values.values(), 1e-12)
    spread = (metrics.get("latency_iqr_ms") or {}) if kind == "latency_ms" else {}
    high = max([top, *(v + (spread.get(name) or 0) / 2 for name, v in values.items())])
    for i, (name, value) in enumerate(values.items()):
        ax.bar(i, value, width=0.66, color=colors.get(name, KEPT))
        lift = value
        if spread.get(name):
            ax.errorbar(i, value, yerr=spread[name] / 2, color=MUTED, capsize=3, lw=1)
            lift += spread[name] / 2
        text = f"{value:.1f}" if kind == "percent" else compact(value)
        ax.text(i, lift + 0.02 * high, text, ha="center", va="bottom", fontsize=9)
    ax.set_xticks(range(len(values)), list(values))
    ax.set_xlim(-0.6, len(values) - 0.4)
    ax.set_ylim(0, 1.18 * high)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="x", length=0)
