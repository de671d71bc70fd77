"""LeNet-5 on MNIST under a budget, over seeds, by the command line.

A seed is a separately trained network: training, SVI, decision and fine-tuning all follow from it.
Needs MNIST (``--data-root``, or a download).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import write_result

from dirprune.command import main

STAGES = ("original", "pruned", "finetuned")


def run(seed: int, budget: str, data_root: str | None, out: Path) -> dict[str, Any]:
    folder = out / f"seed{seed}"
    root = [] if data_root is None else ["--data-root", data_root]
    status = main(
        ["run", "--network", "lenet5", "--data", "mnist", "--budget", budget, "--seed", str(seed),
         "--out", str(folder), *root, "--resume"]
    )  # fmt: skip
    if status:
        raise SystemExit(status)
    metrics = json.loads((folder / "metrics.json").read_text())
    return {
        "seed": seed,
        "error_percent": {s: round(100 - metrics["accuracy"][s], 3) for s in STAGES},
        "widths": {s["name"]: s["kept"] for s in metrics["sites"]},
        **{
            f"{key}_share": round(metrics[key]["after"] / metrics[key]["before"], 4)
            for key in ("macs", "params")
        },
        "latency_ms": metrics["latency_ms"],
        "seconds": metrics["seconds"],
    }


def spread(values: list[float]) -> dict[str, float]:
    return {
        "mean": round(statistics.mean(values), 3),
        "sd": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
        "worst": max(values),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="macs=0.1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, help="keep the runs here; an interrupted one goes on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        runs = [run(seed, options.budget, options.data_root, out) for seed in options.seeds]
    errors = {s: spread([r["error_percent"][s] for r in runs]) for s in STAGES}
    write_result(
        "lenet5",
        {"data": "MNIST, 10,000 test images", "budget": options.budget, "error_percent": errors,
         "runs": runs},
        hide=("--data-root", "--out"),
    )  # fmt: skip
