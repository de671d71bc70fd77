"""What was asked for and what was promised before the test images were read."""

from __future__ import annotations

from typing import Any

from .words import percent, share

BUDGETS = {"macs": "multiply-adds", "params": "parameters", "latency": "latency", "keep": "units"}


def budget(m: dict[str, Any]) -> str:
    """The budgets and widths of a run in words."""
    parts = []
    round_to = (m.get("settings") or {}).get("round_to")
    for key, value in m["budget"].items():
        bound = f"{100 * value:.4g} %" if isinstance(value, int | float) else str(value)
        if key == "max_drop":
            parts.append(f"at most {value} points of accuracy lost")
        else:
            rule = "exactly" if key == "keep" and round_to is None else "at most"
            parts.append(f"{rule} {bound} of the {BUDGETS.get(key, key)}")
    if round_to is not None:
        parts.append(f"in multiples of {round_to} channels")
    widths = m.get("widths")
    if widths is not None:
        parts.append("the same share of every site" if isinstance(widths, str) else "given widths")
    text = ", ".join(parts) or "none"
    found = m.get("latency_budget")
    if found is not None:
        low, high = found["share_quartiles"]
        text += (
            f"; {share(found['macs'])} of the multiply-adds met it when the units were chosen "
            f"(measured: {share(found['share'])}, quartiles {share(low)} to {share(high)} over "
            f"{found['rounds']} rounds)"
        )
    return text


def predicted(m: dict[str, Any]) -> str:
    """What was predicted of the pruned network before test images were read; empty if nothing."""
    found = m.get("predicted_accuracy")
    if found is None:
        return ""

    def interval(name: str) -> str:
        part = found[name]
        return f"{percent(part['low'])} to {percent(part['high'])}"

    text = (
        f"Predicted of the pruned network's accuracy on the test images, from its mask on "
        f"{found['images']:,} validation images: {percent(found['network']['mean'])}, "
        f"{100 * found['level']:.0f} % interval {interval('network')}"
    )
    if found["other_masks"] is not None:
        text += (
            f"; of networks that single posterior draws would have cut: {interval('other_masks')}"
        )
    return f"{text}."


def max_drop(m: dict[str, Any]) -> dict[str, Any] | None:
    """What the search for the smallest network within a loss of accuracy found."""
    found = m.get("max_drop")
    if found is None:
        return None
    halves = {"choosing": "that chose", "confirming": "that confirmed"}
    return {
        "bound": f"{m['budget']['max_drop']:g}",
        "macs": share(found["macs"]),
        "rows": [
            (text, f"{found[f'images_{half}']:,}", f"{found[f'loss_{half}']:.2f}")
            for half, text in halves.items()
        ],
        "refused": found["confirmations"] - 1,
        "upper": f"{found['loss_upper']:.2f}",
        "confidence": f"{100 * (1 - found['level']):.0f} %",
        "predicted": m.get("predicted_accuracy") is not None,
    }
