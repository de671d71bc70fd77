"""What the report says, as plain values for the template."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ...model.networks import is_own
from ..plots import SiteView, share_of_macs
from .latent import correlated_units, hyper_rows
from .pictures import MOST_SITES
from .reading import Run

UNCERTAIN, PER_SITE = 20, 8  # rows of the table of the least certain decisions
BUDGETS = {"macs": "multiply-adds", "params": "parameters", "latency": "latency", "keep": "units"}
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


def contents(run: Run) -> dict[str, Any]:
    """The values of ``report.html.jinja``."""
    m = run.metrics
    units = sum(view.size for view in run.views.values())
    kept = sum(int(view.kept.sum()) for view in run.views.values())
    return {
        "title": f"{m['network']} on {m['data']}",
        "created": run.tree.attrs.get("created_at", ""),
        "headline": _headline(m),
        "summary": _summary(m, units, kept),
        "budget": _budget(m),
        "evidence": m["evidence"],
        "accuracies": _accuracies(m),
        "predicted": _predicted(m),
        "warnings": list(m.get("warnings") or []),
        "sites": _sites(run),
        "units": units,
        "kept": kept,
        "shown": min(MOST_SITES, len(run.views)),
        "site_rows": [_numbers(view) for view in run.views.values()],
        "concentrations": any(v.concentration is not None for v in run.views.values()),
        "hyper_rows": hyper_rows(run.tree),
        "correlated": [
            {key: " ".join(map(str, pair[key])) for key in ("one", "other")}
            | {"r": f"{pair['r']:+.2f}".replace("-", "−")}
            for pair in correlated_units(run.tree)
        ],
        "certain": any(v.probability is not None for v in run.views.values()),
        "uncertain": _uncertain(run.views),
        "per_site": PER_SITE,
        "wrong_side": _wrong_side(run.views),
        "diagnostics": _diagnostics(m.get("diagnostics") or {}),
        "unprunable": dict(m.get("unprunable") or {}),
        "settings": {k: _text(v) for k, v in (m.get("settings") or {}).items()},
        "seed": _text(m["seed"]),
        "images": {k: f"{v:,}" for k, v in (m.get("images") or {}).items()},
        "versions": m.get("versions") or {},
        "seconds": {k: f"{v:,.1f}" for k, v in (m.get("seconds") or {}).items()},
        "own": m["network"] if is_own(str(m["network"])) else "",
        "pruned": json.dumps(str(run.path / "pruned"), ensure_ascii=False),
        "program": json.dumps(str(run.path / "pruned.pt2"), ensure_ascii=False),
        "posterior": json.dumps(str(run.path / "posterior.nc"), ensure_ascii=False),
        "criterion": json.dumps(m["evidence"], ensure_ascii=False),
    }


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


def _headline(m: dict[str, Any]) -> list[dict[str, str]]:
    """Four big numbers: name, before, after, change."""
    text, final = _final(m)
    original = m["accuracy"].get("original")
    rows = [
        {
            "name": "Accuracy",
            "note": text,
            "before": _percent(original),
            "after": _percent(final),
            "change": ""
            if None in (final, original)
            else f"{final - original:+.2f} points".replace("-", "−"),
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
                "change": f"{_share(after / max(before, 1))} of before",
            }
        )
    latency = m.get("latency_ms") or {}
    if latency.get("before") and latency.get("after") is not None:
        spread = m.get("latency_iqr_ms") or {}
        quartiles = (
            f"; interquartile range {spread['before']:.2g} before, {spread['after']:.2g} ms after"
            if spread.get("before") is not None and spread.get("after") is not None
            else ""
        )
        threads = m.get("latency_threads")
        how = (
            "" if threads is None else f" on {threads} thread{'s' if threads > 1 else ''}, in turns"
        )
        rows.append(
            {
                "name": "Latency",
                "note": f"median, batch of {m.get('latency_batch', '?')}{how}{quartiles}",
                "before": f"{latency['before']:.3g} ms",
                "after": f"{latency['after']:.3g} ms",
                "change": f"{_share(latency['after'] / latency['before'], 0)} of before",
            }
        )
    return rows


def _summary(m: dict[str, Any], units: int, kept: int) -> str:
    text, final = _final(m)
    macs = m["macs"]["after"] / max(m["macs"]["before"], 1)
    params = m["params"]["after"] / max(m["params"]["before"], 1)
    return (
        f"{kept:,} of {units:,} units stay, with {_share(macs)} of the multiply-adds and "
        f"{_share(params)} of the parameters; accuracy on the test images goes from "
        f"{_percent(m['accuracy'].get('original'))} to {_percent(final)} {text}."
    )


def _budget(m: dict[str, Any]) -> str:
    parts = []
    round_to = (m.get("settings") or {}).get("round_to")
    for key, value in m["budget"].items():
        share = f"{100 * value:.4g} %" if isinstance(value, int | float) else str(value)
        if key == "max_drop":
            parts.append(f"at most {value} points of accuracy lost")
        else:
            rule = "exactly" if key == "keep" and round_to is None else "at most"
            parts.append(f"{rule} {share} of the {BUDGETS.get(key, key)}")
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
            f"; {_share(found['macs'])} of the multiply-adds met it when the units were chosen "
            f"(measured: {_share(found['share'])}, quartiles {_share(low)} to {_share(high)} over "
            f"{found['rounds']} rounds)"
        )
    return text


def _accuracies(m: dict[str, Any]) -> list[tuple[str, str, str]]:
    validation = m.get("accuracy_validation") or {}
    by = " and ".join(m.get("compensation") or {}) or "nothing"
    names = {
        "original": "original network",
        "pruned": "pruned",
        "compensated": f"pruned and compensated by {by}",
        "finetuned": "pruned and fine-tuned",
    }
    return [
        (text, _percent(m["accuracy"].get(key)), _percent(validation.get(key)))
        for key, text in names.items()
        if m["accuracy"].get(key) is not None or validation.get(key) is not None
    ]


def _predicted(m: dict[str, Any]) -> str:
    """What was predicted of the pruned network before test images were read; empty if nothing."""
    found = m.get("predicted_accuracy")
    if found is None:
        return ""

    def interval(name: str) -> str:
        part = found[name]
        return f"{_percent(part['low'])} to {_percent(part['high'])}"

    text = (
        f"Predicted of the pruned network's accuracy on the test images, from its mask on "
        f"{found['images']:,} validation images: {_percent(found['network']['mean'])}, "
        f"{100 * found['level']:.0f} % interval {interval('network')}"
    )
    if found["other_masks"] is not None:
        text += (
            f"; of networks that single posterior draws would have cut: {interval('other_masks')}"
        )
    drop = m.get("max_drop")
    if drop is not None:
        text += (
            f". Pruning lost {drop['loss_choosing']:.2f} points of accuracy on the "
            f"{drop['images_choosing']:,} validation images that chose, and "
            f"{drop['loss_confirming']:.2f} on the {drop['images_confirming']:,} that confirmed, "
            f"from which the prediction is; at most {drop['loss_upper']:.2f} are lost on images of "
            "the kind, with 95 % confidence"
        )
    return f"{text}."


def _sites(run: Run) -> list[dict[str, Any]]:
    macs = share_of_macs(run.tree, run.decision)
    rows = []
    for site in run.metrics["sites"]:
        view = run.views[site["name"]]
        before, after = macs.get(view.name, (0.0, 0.0))
        rows.append(
            {
                **site,
                "share": _share(site["kept"] / site["units"], 0),
                "macs": f"{_share(before)} → {_share(after)}",
                "list": _ranges(np.flatnonzero(view.kept).tolist()),
            }
        )
    return rows


def _numbers(view: SiteView) -> dict[str, str]:
    """A site in numbers: means over kept and over removed units."""

    def pair(values: Any) -> str:
        if values is None:
            return "–"
        mean = values.reshape(-1, view.size).mean(0)
        parts = [f"{mean[w].mean():.3g}" if w.any() else "–" for w in (view.kept, ~view.kept)]
        return " / ".join(parts)

    p = view.probability
    unsure = "–" if p is None else f"{int(((p > 0.1) & (p < 0.9)).sum()):,}"
    return {
        "name": view.name,
        "units": f"{int(view.kept.sum()):,} of {view.size:,}",
        "gain": pair(view.gains),
        "concentration": pair(view.concentration),
        "cost": pair(view.cost),
        "probability": pair(p),
        "unsure": unsure,
    }


def _margin(view: SiteView) -> Any:
    """How far each unit's inclusion probability lies on its decision's side of 0.5."""
    assert view.probability is not None
    return np.where(view.kept, view.probability - 0.5, 0.5 - view.probability)


def _uncertain(views: dict[str, SiteView]) -> list[dict[str, str]]:
    """The units nearest to 0.5, or farthest on the other side of it."""
    found = [
        (float(margin), name, unit)
        for name, view in views.items()
        if view.probability is not None and 0 < view.kept.sum() < view.size
        for unit, margin in enumerate(_margin(view))
    ]
    rows: list[dict[str, str]] = []
    listed = dict.fromkeys(views, 0)
    for _, name, unit in sorted(found):
        view = views[name]
        listed[name] += 1
        if listed[name] > PER_SITE or len(rows) == UNCERTAIN:
            continue
        assert view.probability is not None
        low, high = np.quantile(view.gains[:, unit], (0.05, 0.95))
        rank = int(np.flatnonzero(view.order == unit)[0]) + 1
        rows.append(
            {
                "site": name,
                "unit": str(unit),
                "decision": "kept" if view.kept[unit] else "removed",
                "probability": f"{view.probability[unit]:.2f}",
                "rank": f"{rank:,} of {view.size:,}, {int(view.kept.sum()):,} kept",
                "gain": f"{view.gains[:, unit].mean():.2f} ({low:.2f} to {high:.2f})",
                "cost": "–" if view.cost is None else f"{view.cost[:, unit].mean():.3g}",
            }
        )
    return rows


def _wrong_side(views: dict[str, SiteView]) -> int:
    """Units whose decision fewer than half of the draws share."""
    return sum(
        int((_margin(view) < 0).sum()) for view in views.values() if view.probability is not None
    )


def _diagnostics(found: dict[str, Any]) -> list[dict[str, str]]:
    rows = []
    known = [name for name in DIAGNOSTICS if name in found]
    for name in [*known, *(name for name in found if name not in DIAGNOSTICS)]:
        item = found[name]
        entry = item if isinstance(item, dict) else {"text": _text(item)}
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


def _ranges(units: list[int]) -> str:
    """[0, 1, 2, 5] as "0–2, 5"."""
    parts: list[list[int]] = []
    for unit in units:
        if parts and unit == parts[-1][1] + 1:
            parts[-1][1] = unit
        else:
            parts.append([unit, unit])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts)


def _share(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} %"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
