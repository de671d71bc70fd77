"""Guides x priors x temperatures over three trained networks, by ``dirprune compare``.

Writes ``results/grid_digits.json`` (digits-cnn on the embedded digits) and, with ``--lenet5``,
``results/grid_lenet5.json`` (LeNet-5 on MNIST: ``--data-root``, or a download). With ``--out`` the
cells stay there, and an interrupted grid goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import digits, write_result

from dirprune.command import main

GUIDES = "dirichlet,generalized-dirichlet,logistic-normal,low-rank-logistic-normal,normal,delta"
PRIORS = "symmetric:1,symmetric:0.3,alpha/K:1,hierarchical:1:1"
JOBS: dict[str, dict[str, str]] = {
    "digits": {
        "network": "digits-cnn", "data": "digits", "temperatures": "1,0.3,0.1,0.03",
        "budgets": "macs=0.5,macs=0.25,macs=0.1",
    },
    "lenet5": {
        "network": "lenet5", "data": "mnist", "temperatures": "1,0.1,0.01,0.003",
        "budgets": "macs=0.5,macs=0.25,macs=0.1",
    },
}  # fmt: skip


def run(job: dict[str, str], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    settings = {**job, "guides": options.guides, "priors": options.priors, "seeds": options.seeds}
    if options.temperatures is not None:
        settings["temperatures"] = options.temperatures
    if options.data_root is not None:
        settings["data-root"] = options.data_root
    if options.processes is not None:
        settings["processes"] = options.processes
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    status = main(["compare", *words, "--out", str(folder), "--resume"])
    if not (folder / "comparison.json").exists():
        raise SystemExit(status)
    found = json.loads((folder / "comparison.json").read_text())
    originals = {cell["seed"]: cell["accuracy_original"] for cell in found["cells"]}
    return {
        "data": f"{job['network']} on {job['data']}, validation images",
        "settings": found["settings"],
        "original_accuracy": originals,
        "cells": len(found["cells"]),
        "failed": status != 0,
        "rows": digits(found["rows"]),
        "agreement": digits(found["agreement"]),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lenet5", action="store_true", help="LeNet-5 instead of the digits")
    parser.add_argument("--guides", default=GUIDES)
    parser.add_argument("--priors", default=PRIORS)
    parser.add_argument("--temperatures", help="by default what suits the data")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--processes")
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, help="keep the cells here; an interrupted grid goes on")
    arguments = parser.parse_args()
    name = "lenet5" if arguments.lenet5 else "digits"
    with tempfile.TemporaryDirectory() as temporary:
        result = run(JOBS[name], arguments.out or Path(temporary) / "grid", arguments)
    write_result(f"grid_{name}", result, hide=("--data-root", "--out"))
