"""What ``dirprune run`` notes and says of its result."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..model.cost import count_macs, count_params
from ..model.decision import Decision
from ..model.networks import is_own
from ..model.switched import SwitchedNetwork
from .parts import load_line


def chance_warning(metrics: Mapping[str, Any], classes: int, *, trained: bool) -> str | None:
    """A warning if the network's accuracy on validation images cannot be told from chance.

    Within three standard errors of it. ``trained``: by this run, not loaded.
    """
    accuracy, images = metrics["accuracy_validation"]["original"], metrics["images"]["validation"]
    chance = 100 / classes
    error = math.sqrt(chance * (100 - chance) / images)
    if accuracy >= chance + 3 * error:
        return None
    cause = (
        "too few --train-epochs, or too few images."
        if trained
        else "are --mean, --std and --size those that the weights were trained with?"
    )
    return (
        f"the network classifies {accuracy:.1f} % of {images} validation images correctly, which "
        f"cannot be told from chance ({chance:.1f} %, standard error {error:.1f}): {cause} What "
        "follows says nothing about a trained network"
    )


def size_metrics(
    model: SwitchedNetwork,
    decision: Decision,
    network: nn.Module,
    pruned: nn.Module,
    example: tuple[Tensor, ...],
) -> dict[str, Any]:
    """Multiply-adds and parameters of both networks, and the units of each site."""
    return {
        "macs": {"before": count_macs(network, example), "after": count_macs(pruned, example)},
        "params": {"before": count_params(network), "after": count_params(pruned)},
        "sites": [
            {
                "name": site.name, "units": site.size, "kept": len(decision.kept[site.name]),
                "producers": list(site.producers), "consumers": list(site.consumers),
            }
            for site in model.sites.values()
        ],
        "unprunable": dict(model.unprunable),
    }  # fmt: skip


def summary(metrics: Mapping[str, Any], folder: Path) -> str:
    """The lines that a finished run prints."""
    accuracy = ", ".join(
        f"{stage} {value:.2f} %"
        for stage, value in metrics["accuracy"].items()
        if value is not None
    )
    shares = ", ".join(
        f"{what} {metrics[key]['before']:,} -> {metrics[key]['after']:,} "
        f"({100 * metrics[key]['after'] / metrics[key]['before']:.1f} %)"
        for what, key in (("MACs", "macs"), ("parameters", "params"))
    )
    before, after = metrics["latency_ms"]["before"], metrics["latency_ms"]["after"]
    latency = f"latency {before:.3g} -> {after:.3g} ms ({100 * after / before:.0f} %)"
    sites = metrics["sites"]
    widths = ", ".join(f"{s['name']} {s['units']} -> {s['kept']}" for s in sites[:8])
    more = f" and {len(sites) - 8} more" if len(sites) > 8 else ""
    lines = [
        f"test accuracy: {accuracy}",
        *_promises(metrics),
        f"{shares}, {latency}",
        f"widths: {widths}{more}",
        f"report: {folder / 'report.html'}",
    ]
    if is_own(metrics["network"]):
        lines.append(f"in Python: {load_line(folder / 'pruned', metrics['network'])}")
    return "\n".join(lines)


def _promises(metrics: Mapping[str, Any]) -> list[str]:
    """What was said of the pruned network before test images were read, and what came of it."""
    lines = []
    predicted = metrics.get("predicted_accuracy")
    if predicted is not None:
        network = predicted["network"]
        lines.append(
            f"predicted of the pruned network: {network['mean']:.2f} % "
            f"({100 * predicted['level']:.0f} % interval {network['low']:.2f} to "
            f"{network['high']:.2f}, from {predicted['images']:,} validation images); it was "
            f"{metrics['accuracy']['pruned']:.2f} %"
        )
    drop = metrics.get("max_drop")
    if drop is not None:
        lines.append(
            f"lost by pruning: {drop['loss_choosing']:.2f} and {drop['loss_confirming']:.2f} "
            f"points on the two halves of the validation images ({metrics['budget']['max_drop']:g} "
            f"allowed); with 95 % confidence at most {drop['loss_upper']:.2f} on images of the kind"
        )
    return lines
