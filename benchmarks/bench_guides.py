"""Every guide, and NUTS, against three problems with known posteriors; one table.

The conjugate problem and the linear-Gaussian one have exact references, the tiny digits MLP a long
NUTS run (its evidence is unknown, so its ELBOs compare between guides only). A row for each seed:
the worst over units of bias and sd, the mean of coverages; the table has the medians. ``--steps``
of full-batch SVI on the small problems, and as many minibatches of 128 on the digits.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from typing import Any

import torch
from common import write_result

from dirprune import sample
from dirprune.analysis.truth import PROBLEMS, Problem, digits_mlp, examine, measure, worst
from dirprune.guides import GUIDES

NUTS = "NUTS"
LR = {"iaf-normal": 0.01}  # by default 0.1
COLUMNS = {
    "bias": "bias",
    "sd_ratio": "sd ratio",
    "total_variation": "TV",
    "coverage_50": "in 50 %",
    "coverage_80": "in 80 %",
    "coverage_95": "in 95 %",
    "elbo": "ELBO",
    "elbo_gap": "gap",
    "khat": "k-hat",
    "correlation": "corr.",
    "seconds": "s",
}


def run(problem: Problem, guide: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    if guide == NUTS:
        fitted = sample(
            problem.model,
            problem.loader,
            draws=options.nuts_draws,
            warmup=options.nuts_draws // 2,
            chains=2,
            seed=seed + 1000,  # not the reference's
            progress=False,
        )
        return measure(problem, fitted)
    return examine(
        problem,
        guide,
        seed=seed,
        epochs=max(1, options.steps // len(problem.loader)),
        particles=options.particles,
        lr=LR.get(guide, 0.1),
    )


def middle(values: list[float | None]) -> float | None:
    numbers = [v for v in values if v is not None]
    return statistics.median(numbers) if numbers else None


def row(report: dict[str, Any]) -> dict[str, float | None]:
    """The extremes over units of one run."""
    found = {
        **worst(report),
        "elbo": report["elbo"],
        "correlation": report["correlation"] and report["correlation"]["guide"],
    }
    return {key: None if found[key] is None else round(found[key], 4) for key in COLUMNS}


def table(name: str, result: dict[str, Any]) -> str:
    """Medians over the seeds."""
    evidence, pair = result["reference"]["log_evidence"], result["pair"]
    lines = [
        f"\n{name}: log evidence {'unknown' if evidence is None else f'{evidence:.3f}'}"
        + (f", correlation of {pair['units']} {pair['reference']:.2f}" if pair else ""),
        f"{'':26}" + "".join(f"{title:>9}" for title in COLUMNS.values()),
    ]
    for guide, rows in result["guides"].items():
        cells = [middle([r[key] for r in rows]) for key in COLUMNS]
        lines.append(
            f"{guide:26}" + "".join(f"{'-' if v is None else f'{v:.3f}':>9}" for v in cells)
        )
    return "\n".join(lines)


def examine_all(name: str, options: argparse.Namespace) -> dict[str, Any]:
    started = time.perf_counter()
    problem = (
        digits_mlp(draws=options.reference_draws) if name == "digits-mlp" else PROBLEMS[name]()
    )
    reference, pair = problem.reference, None
    guides: dict[str, list[dict[str, Any]]] = {}
    for guide in options.guides:
        for seed in range(options.seeds):
            report = run(problem, guide, seed, options)
            guides.setdefault(guide, []).append(row(report))
            pair = pair or report["correlation"]
        print(f"{name}: {guide} done after {time.perf_counter() - started:.0f} s", flush=True)
    exact = math.isinf(reference.effective_draws)
    return {
        "reference": {
            "kind": type(reference).__name__,
            "log_evidence": reference.log_evidence,
            "effective_draws": None if exact else round(reference.effective_draws),
            "mean": {site: m.round(5).tolist() for site, m in reference.mean.items()},
            "sd": {site: s.round(5).tolist() for site, s in reference.sd.items()},
        },
        "pair": pair and {"units": pair["units"], "reference": round(pair["reference"], 3)},
        "guides": guides,
        "seconds": round(time.perf_counter() - started),
    }


def main(options: argparse.Namespace) -> None:
    results = {name: examine_all(name, options) for name in options.problems}
    write_result("guides", {"results": results})
    for name, result in results.items():
        print(table(name, result))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    everything = [*GUIDES, NUTS]
    parser.add_argument("--guides", nargs="+", default=everything, choices=everything)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--nuts-draws", type=int, default=500)
    parser.add_argument("--reference-draws", type=int, default=1000)
    torch.set_num_threads(1)
    main(parser.parse_args())
