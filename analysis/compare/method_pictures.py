"""The pictures of methods: two for each protocol and compensation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from ..plots.methods import Cost, Point, accuracy_cost_figure, accuracy_macs_figure
from ..plots.style import save_figure
from .grid import file_name
from .method_table import Line, title_of


def write_method_pictures(folder: Path, lines: Sequence[Line]) -> None:
    """Draw accuracy against multiply-adds and against passes, into ``folder``.

    A method has one colour in all pictures.
    """
    posteriors = {line.label[1] for line in lines} - {""}

    def name(line: Line) -> str:
        method, posterior = line.label
        return f"{method} ({posterior})" if posterior and len(posteriors) > 1 else method

    names = sorted({name(line) for line in lines})
    for block in dict.fromkeys(line.block for line in lines):
        here = [line for line in lines if line.block == block]
        by_name = {n: [line for line in here if name(line) == n] for n in names}
        original = statistics.fmean(
            {line.record.trial.seed: line.record.original["test"] for line in here}.values()
        )
        title = title_of(*block)
        stem = "_".join(map(file_name, block))
        points = {n: _points(own) for n, own in by_name.items()}
        save_figure(
            accuracy_macs_figure(points, original, f"Accuracy of what is left: {title}"),
            folder / f"accuracy-macs_{stem}.png",
        )
        costs = {n: cost for n, own in by_name.items() if (cost := _cost(own)) is not None}
        if not costs:
            continue
        budgets = len({line.arm.budget for line in here})
        over = f", mean over {budgets} budgets" if budgets > 1 else f", {here[0].arm.budget}"
        save_figure(
            accuracy_cost_figure(costs, f"Accuracy and cost of the choice: {title}{over}"),
            folder / f"accuracy-cost_{stem}.png",
        )


def _points(lines: Sequence[Line]) -> list[Point]:
    found = []
    for budget in dict.fromkeys(line.arm.budget for line in lines):
        here = [line for line in lines if line.arm.budget == budget]
        macs = [line.chosen.macs / line.record.original["macs"] for line in here]
        found.append(Point(statistics.fmean(macs), [line.arm.accuracy["test"] for line in here]))
    return found


def _cost(lines: Sequence[Line]) -> Cost | None:
    """None for a method whose posterior did not count its passes, or that has no line."""
    totals = [line.chosen.forwards["total"] for line in lines]
    known = [total for total in totals if total is not None]
    if not known or len(known) < len(totals):
        return None
    seeds = dict.fromkeys(line.record.trial.seed for line in lines)
    percent = [
        statistics.fmean(
            line.arm.accuracy["test"] for line in lines if line.record.trial.seed == seed
        )
        for seed in seeds
    ]
    return Cost(statistics.fmean(known), percent)
