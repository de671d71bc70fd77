"""The table of diagnostics."""

from __future__ import annotations

from typing import Any

from .words import text

DIAGNOSTICS = {
    "elpd": "Expected log predictive density",
    "reliability": "Reliability of predicted probabilities",
    "null_control": "Null control: permuted labels",
    "svi_convergence": "Convergence of SVI",
    "restart_agreement": "Agreement of restarts",
    "sampler": "Convergence of NUTS",
    "importance": "Importance weights (k-hat)",
    "power_scaling": "Sensitivity to prior and likelihood",
    "overlap": "Overlap of prior and posterior",
    "loo": "Leave-one-out (in-sample)",
}


def verdicts(found: dict[str, Any]) -> list[dict[str, str]]:
    """A row for each diagnostic, the known ones first and in one order."""
    rows = []
    known = [name for name in DIAGNOSTICS if name in found]
    for name in [*known, *(name for name in found if name not in DIAGNOSTICS)]:
        item = found[name]
        entry = item if isinstance(item, dict) else {"text": text(item)}
        good: Any = entry.get("good")
        rows.append(
            {
                "name": DIAGNOSTICS.get(name, name.replace("_", " ")),
                "verdict": _verdict(entry),
                "class": {True: "good", False: "bad"}.get(good, ""),
                "text": str(entry.get("text", "")),
                "threshold": str(entry.get("threshold") or ""),
                "source": str(entry.get("source") or ""),
            }
        )
    return rows


def _verdict(entry: dict[str, Any]) -> str:
    if "value" in entry and entry["value"] is None:
        return "not computed"
    if str(entry.get("text", "")).startswith("Cannot be told"):
        return "cannot be told"
    good: Any = entry.get("good")
    return {True: "good", False: "look here"}.get(good, "for information")
