"""What came of the run: accuracy, cost and latency, before and after."""

from __future__ import annotations

from typing import Any

from .words import percent, share, signed


def headline(m: dict[str, Any]) -> list[dict[str, str]]:
    """Four big numbers: name, before, after, change."""
    text, final = _final(m)
    original = m["accuracy"].get("original")
    rows = [
        {
            "name": "Accuracy",
            "note": text,
            "before": percent(original),
            "after": percent(final),
            "change": ""
            if None in (final, original)
            else signed(f"{final - original:+.2f} points"),
        }
    ]
    for key, name in (("macs", "Multiply-adds"), ("params", "Parameters")):
        before, after = m[key]["before"], m[key]["after"]
        rows.append(
            {
                "name": name,
                "note": "for one image" if key == "macs" else "weights and biases",
                "before": f"{before:,}",
                "after": f"{after:,}",
                "change": f"{share(after / max(before, 1))} of before",
            }
        )
    latency = m.get("latency_ms") or {}
    if latency.get("before") and latency.get("after") is not None:
        rows.append(_latency(m, latency["before"], latency["after"]))
    return rows


def _latency(m: dict[str, Any], before: float, after: float) -> dict[str, str]:
    spread = m.get("latency_iqr_ms") or {}
    quartiles = (
        f"; interquartile range {spread['before']:.2g} before, {spread['after']:.2g} ms after"
        if spread.get("before") is not None and spread.get("after") is not None
        else ""
    )
    threads = m.get("latency_threads")
    how = "" if threads is None else f" on {threads} thread{'s' if threads > 1 else ''}, in turns"
    return {
        "name": "Latency",
        "note": f"median, batch of {m.get('latency_batch', '?')}{how}{quartiles}",
        "before": f"{before:.3g} ms",
        "after": f"{after:.3g} ms",
        "change": f"{share(after / before, 0)} of before",
    }


def summary(m: dict[str, Any], units: int, kept: int) -> str:
    """The run in a sentence."""
    text, final = _final(m)
    macs = m["macs"]["after"] / max(m["macs"]["before"], 1)
    params = m["params"]["after"] / max(m["params"]["before"], 1)
    return (
        f"{kept:,} of {units:,} units stay, with {share(macs)} of the multiply-adds and "
        f"{share(params)} of the parameters; accuracy on the test images goes from "
        f"{percent(m['accuracy'].get('original'))} to {percent(final)} {text}."
    )


def accuracies(m: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(network, accuracy on test images, on validation images) of every stage."""
    validation = m.get("accuracy_validation") or {}
    by = " and ".join(m.get("compensation") or {}) or "nothing"
    names = {
        "original": "original network",
        "pruned": "pruned",
        "compensated": f"pruned and compensated by {by}",
        "finetuned": "pruned and fine-tuned",
    }
    return [
        (text, percent(m["accuracy"].get(key)), percent(validation.get(key)))
        for key, text in names.items()
        if m["accuracy"].get(key) is not None or validation.get(key) is not None
    ]


def _final(metrics: dict[str, Any]) -> tuple[str, float | None]:
    """The last accuracy that was measured, and how it is called."""
    for key, text in (
        ("finetuned", "after fine-tuning"),
        ("compensated", "after compensation, without fine-tuning"),
        ("pruned", "after pruning, without fine-tuning"),
    ):
        if metrics["accuracy"].get(key) is not None:
            return text, float(metrics["accuracy"][key])
    return "after pruning", None
