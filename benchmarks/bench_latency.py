"""Real speed-up against the reduction of multiply-adds, for five networks.

The original and the networks pruned to three quarters, a half and a quarter of the multiply-adds,
each with and without ``round_to=8``, are timed in turns in one run, so that a noisy machine hits
all alike; a share is the median over rounds of what the pair took. Units go at random, in the same
share everywhere, and weights are random: neither changes what a pass takes.

Writes ``results/latency.json`` and ``results/latency.png``. With ``--out`` every network's figures
stay there, and an interrupted run goes on. Use it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, write_result
from matplotlib.figure import Figure

from dirprune import Scores, SwitchedNetwork, decide, prune
from dirprune.analysis.plots.style import KEPT, MUTED, REMOVED, new_figure, save_figure, styled
from dirprune.inference.latency import Latency, measure_latency
from dirprune.model.networks import build_network

# name -> pixels a side, images in the timed batch
NETWORKS = {
    "resnet20": (32, 64),
    "vgg16": (32, 64),
    "torchvision:resnet18": (224, 4),
    "torchvision:mobilenet_v3_large": (224, 4),
    "torchvision:convnext_tiny": (224, 4),
}
MACS = (0.75, 0.5, 0.25)
ROUNDING = (None, 8)


def figures(latency: Latency, original: Latency) -> dict[str, Any]:
    share = latency.share_of(original)
    return {
        "ms": round(latency.median_ms, 3),
        "iqr_ms": round(latency.iqr_ms, 3),
        "share": round(share.median, 4),
        "share_quartiles": [round(share.low, 4), round(share.high, 4)],
    }


def measure(name: str, threads: list[int], rounds: int, most_seconds: float) -> dict[str, Any]:
    size, batch = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network(name, num_classes=10, in_channels=3, size=size).eval()
    images = torch.randn(batch, 3, size, size)
    model = SwitchedNetwork(network, images[:2], num_data=1)
    scores = {
        site.name: Scores(torch.rand(site.size), None, "random", across_sites=False)
        for site in model.sites.values()
    }
    kinds = [(macs, round_to) for round_to in ROUNDING for macs in MACS]
    rows = []
    networks = [network]
    for macs, round_to in kinds:
        decision = decide(model, scores, macs=macs, round_to=round_to)
        networks.append(prune(model, decision))
        left = {
            f"{what}_share": round(
                model.costs.total(what, decision.kept) / model.costs.total(what), 4
            )
            for what in ("macs", "params")
        }
        rows.append({"budget": macs, "round_to": round_to, **left, "threads": {}})
    original: dict[str, Any] = {}
    taken = 0
    for number in threads:
        first, *others = measure_latency(
            networks, images, rounds=rounds, threads=number, most_seconds=most_seconds
        )
        original[str(number)] = {
            "ms": round(first.median_ms, 3), "iqr_ms": round(first.iqr_ms, 3)
        }  # fmt: skip
        taken = len(first.rounds_ms)
        for row, latency in zip(rows, others, strict=True):
            row["threads"][str(number)] = figures(latency, first)
    return {
        "network": name, "size": size, "batch": batch, "macs": model.costs.total("macs"),
        "sites": len(model.sites), "rounds": taken, "original": original, "pruned": rows,
    }  # fmt: skip


@styled
def latency_figure(results: list[dict[str, Any]], threads: str) -> Figure:
    """A panel a network: share of the time against share of the multiply-adds, with quartiles."""
    figure = new_figure(2.9)
    axes = figure.subplots(1, len(results), sharex=True, sharey=True, squeeze=False)[0]
    for ax, result in zip(axes, results, strict=True):
        ax.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=":")
        for round_to, color, marker in ((None, KEPT, "o"), (8, REMOVED, "s")):
            rows = [r for r in result["pruned"] if r["round_to"] == round_to]
            found = [r["threads"][threads] for r in rows]
            ax.errorbar(
                [1, *(r["macs_share"] for r in rows)],
                [1, *(f["share"] for f in found)],
                yerr=[
                    [0, *(f["share"] - f["share_quartiles"][0] for f in found)],
                    [0, *(f["share_quartiles"][1] - f["share"] for f in found)],
                ],
                color=color, marker=marker, ms=4, lw=1.2, capsize=2,
                label="any width" if round_to is None else "round_to=8",
            )  # fmt: skip
        ax.set_title(result["network"].removeprefix("torchvision:"))
        ax.set_xlabel("multiply-adds left")
        ax.set_xticks([0, 0.5, 1])
        ax.set_xlim(0, 1.05)
        ax.set_ylim(0, None)
    axes[0].set_ylabel(f"time left, {threads} thread{'s' if threads != '1' else ''}")
    axes[0].legend(loc="lower right")
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--most-seconds", type=float, default=300.0, help="for one network")
    parser.add_argument("--out", type=Path, help="keep parts here; an interrupted run goes on")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.networks:
            asked = "-".join(map(str, [*options.threads, options.rounds]))
            part = folder / f"{name.replace(':', '-')}-{asked}.json"
            if not part.exists():
                found = measure(name, options.threads, options.rounds, options.most_seconds)
                part.write_text(json.dumps(found))
            results.append(json.loads(part.read_text()))
            print(f"{name} done", flush=True)
    write_result("latency", {"results": results}, hide=("--out",))
    save_figure(latency_figure(results, str(options.threads[0])), RESULTS / "latency.png")
