"""Simulation-based calibration of every guide on the conjugate and the linear-Gaussian problem.

The conjugate model is the control: the two Dirichlet families hold its posterior and have to pass.
Each simulation is a fit of ``--steps`` full-batch steps. Writes ``results/sbc_PROBLEM.json`` and
the picture of it.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from common import RESULTS, write_result

from dirprune.analysis.calibration import Calibration
from dirprune.analysis.plots.sbc import sbc_figure
from dirprune.analysis.plots.style import save_figure
from dirprune.analysis.sbc import sbc
from dirprune.analysis.truth import PROBLEMS
from dirprune.guides import GUIDES

KNOWN = ("dirichlet-multinomial", "linear-gaussian")
LR = {"iaf-normal": 0.05}  # of problems as small as these; by default 0.1


def main(options: argparse.Namespace) -> None:
    for name in options.problems:
        summaries: dict[str, Any] = {}
        problem = PROBLEMS[name]()
        results: dict[str, Calibration] = {}
        for guide in options.guides:
            started = time.perf_counter()
            results[guide] = sbc(
                problem.model,
                problem.inputs,
                guide,
                simulations=options.simulations,
                steps=options.steps,
                particles=options.particles,
                lr=LR.get(guide, 0.1),
                seed=options.seed,
            )
            summary = results[guide].summary()
            summaries[guide] = summary
            seconds = time.perf_counter() - started
            print(f"{name:24}{guide:28}{seconds:7.0f} s  {summary['text']}", flush=True)
        RESULTS.mkdir(exist_ok=True)
        save_figure(sbc_figure(results), RESULTS / f"sbc_{name}.png")
        write_result(f"sbc_{name}", {"results": summaries})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(KNOWN), choices=list(KNOWN))
    parser.add_argument("--guides", nargs="+", default=list(GUIDES), choices=list(GUIDES))
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    torch.set_num_threads(1)
    main(parser.parse_args())
