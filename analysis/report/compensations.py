"""What compensation did, layer by layer."""

from __future__ import annotations

from typing import Any

EXPLAINED = {
    "least-squares": (
        "The weights of the layers that lost inputs were fitted to reproduce what the original "
        "network computes there. Figures are the mean squared error of a layer's outputs over "
        "their variance: 0 is perfect, 1 is no better than their mean."
    ),
    "recalibrate": (
        "The batch norms' running statistics were taken again. Figures are the mean running "
        "variance of a layer's channels: far apart, the removal had moved what the layer reads."
    ),
    "fold-gains": (
        "The weights that read the units that stay were multiplied by gains. Figures are of these "
        "gains: 1 changes nothing."
    ),
}


def compensations(m: dict[str, Any]) -> list[dict[str, Any]]:
    """For each compensation its name, what it means, a table of layers, and those left alone."""
    found = []
    for spec, report in (m.get("compensation") or {}).items():
        layers, left = report.get("layers") or {}, report.get("left_alone") or {}
        columns = list(dict.fromkeys(name for figures in layers.values() for name in figures))
        found.append(
            {
                "name": spec,
                "text": EXPLAINED.get(spec.partition(":")[0], ""),
                "columns": [name.replace("_", " ") for name in columns],
                "rows": [
                    (layer, [_number(figures.get(name)) for name in columns])
                    for layer, figures in layers.items()
                ],
                "left_alone": dict(left),
            }
        )
    return found


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
