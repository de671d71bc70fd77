"""What the uncertainty of a decision is worth: LeNet-5 on MNIST, over trained networks.

Two checks for each network and share of units kept: the accuracy that is predicted from validation
images against what happens on the test images, and the probability that a kept unit is rightly
preferred to a removed one against held-out swaps. For the removal cost under a Dirichlet guide at
each temperature, and for the search with the posterior over sub-networks around what it found.
``--networks`` holds the networks as ``dirprune compare`` leaves them (``OUT/networks``).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_result

import dirprune
from dirprune.analysis.diagnostics.reliability import calibration
from dirprune.analysis.diagnostics.swaps import SwapCalibration
from dirprune.analysis.masked import correct, masked_gains
from dirprune.model.writing import atomic_write

SHARES = (0.5, 0.4, 0.3, 0.2, 0.1)
SWAPPED = (0.4, 0.2)
FIXED_TEMPERATURE = 0.01  # of the posterior over sub-networks


def predicted(model: Any, decision: Any, validation: Any, test: Any) -> dict[str, Any]:
    right = correct(model, masked_gains(model, decision.kept), test)[0]
    found = dirprune.predict_accuracy(model, decision, None, validation, new_images=len(right))
    happened = 100 * float(right.double().mean())
    return {
        "predicted": round(found.network.mean, 2),
        "interval": [round(found.network.low, 2), round(found.network.high, 2)],
        "happened": round(happened, 2),
        "inside": happened in found.network,
    }


def one(seed: int, temperature: float | None, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a network by one method: the search, where there is no temperature."""
    data = dirprune.load_data("mnist", root=options.data_root, seed=seed)
    network = dirprune.load(options.networks / f"seed-{seed}").eval()
    train = dirprune.loader(data.train, 128, shuffle=True)
    validation, test = (dirprune.loader(part, 500) for part in (data.validation, data.test))
    model = dirprune.SwitchedNetwork(
        network, data.train[[0, 1]][0], num_data=len(data.train),
        temperature=FIXED_TEMPERATURE if temperature is None else temperature,
    )  # fmt: skip
    if temperature is None:
        scores = dirprune.evidence("l1-norm", model)
    else:
        fitted = dirprune.fit(model, "dirichlet", train, seed=seed)
        scores = dirprune.evidence("removal-cost", model, fitted, train)
    rows = []
    for share in SHARES:
        decision = dirprune.decide(model, scores, keep=share, widths="uniform")
        if temperature is None:
            decision = dirprune.refine(model, decision, train, seed=seed)
        row = {"seed": seed, "kept": share, "temperature": temperature}
        row["method"] = "search" if temperature is None else "removal-cost"
        row |= predicted(model, decision, validation, test)
        if share in SWAPPED:
            draws: Any = scores
            if temperature is None:
                tree = dirprune.subnetwork_posterior(model, decision, train, seed=seed)
                draws = {
                    site: torch.from_numpy(a.values.reshape(-1, a.shape[-1]))
                    for site, a in tree["posterior"].to_dataset().items()
                }
                row["accepted"] = round(float(tree["sample_stats"]["accepted"].mean()), 3)
            found = dirprune.swap_calibration(model, decision, draws, validation)
            row["swaps"] = [[round(s.probability, 3), int(s.rise > 0)] for s in found.swaps]
        rows.append(row)
    return rows


def kept(out: Path, seed: int, temperature: float | None, options: Any) -> list[dict[str, Any]]:
    """The same, made once: ``--out`` keeps what is finished."""
    path = out / f"seed-{seed}-{'search' if temperature is None else temperature}.json"
    if not path.exists():
        atomic_write(path, json.dumps(one(seed, temperature, options)))
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def pooled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The swaps of all networks together, by method, temperature and share."""
    groups: dict[tuple[Any, ...], list[list[float]]] = {}
    for row in rows:
        if "swaps" in row:
            key = (row["method"], row["temperature"], row["kept"])
            groups.setdefault(key, []).extend(row["swaps"])
    found = []
    for (method, temperature, share), swaps in groups.items():
        p, right = np.array(swaps).T
        c = calibration(np.stack([p, 1 - p], 1), 1 - right.astype(int))
        told = SwapCalibration((), c).to_dict() | {"swaps": len(swaps)}
        found.append({"method": method, "temperature": temperature, "kept": share, **told})
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.01, 1.0])
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, help="keep what is finished here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        out = arguments.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        every = [
            row
            for seed in arguments.seeds
            for temperature in (*arguments.temperatures, None)
            for row in kept(out, seed, temperature, arguments)
        ]
    inside = [row["inside"] for row in every]
    write_result(
        "uncertainty",
        {
            "data": "LeNet-5 on MNIST; predicted from 5,000 validation images, 10,000 test images",
            "predictions_inside": [sum(inside), len(inside)],
            "swaps": pooled(every),
            "rows": every,
        },
        hide=("--data-root", "--networks", "--out"), show=False,
    )  # fmt: skip
