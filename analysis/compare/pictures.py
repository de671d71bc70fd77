"""The pictures of a grid, from its finished cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..plots.compare import (
    AgreementMatrix,
    accuracy_figure,
    agreement_figure,
    elpd_figure,
    forest_figure,
)
from ..plots.style import save_figure
from ..tree import load_tree, switches
from .agreement import Agreement, UnitScores, mean_agreement
from .cell import POSTERIOR, CellResult, unit_scores
from .grid import Cell, file_name
from .table import Row, spread

Floats = NDArray[np.float64]
FOREST_SITES = 3
FOREST_LINES = 48  # in a panel of a forest: 12 units under up to 4 guides, 6 under 8


def agreement_matrices(
    scores: Mapping[Cell, UnitScores],
) -> dict[float, dict[str, AgreementMatrix]]:
    """Temperature -> prior -> rank agreement of every two guides, over the seeds that both have."""
    found: dict[float, dict[str, AgreementMatrix]] = {}
    for temperature in sorted({cell.temperature for cell in scores}):
        for prior in dict.fromkeys(cell.prior for cell in scores):
            chosen = {
                cell: s for cell, s in scores.items()
                if (cell.temperature, cell.prior) == (temperature, prior)
            }  # fmt: skip
            if chosen:
                found.setdefault(temperature, {})[prior] = _matrix(chosen)
    return found


def _matrix(scores: Mapping[Cell, UnitScores]) -> AgreementMatrix:
    guides = list(dict.fromkeys(cell.guide for cell in scores))
    by_guide = {g: {c.seed: s for c, s in scores.items() if c.guide == g} for g in guides}
    value, low, high = (np.full((len(guides), len(guides)), np.nan) for _ in range(3))
    over = ""
    for i, a in enumerate(guides):
        for j, b in enumerate(guides[: i + 1]):
            seeds = sorted(set(by_guide[a]) & set(by_guide[b]))
            if i == j:
                pairs = [by_guide[a][seed].halves() for seed in seeds]
            else:
                pairs = [(by_guide[a][seed], by_guide[b][seed]) for seed in seeds]
            if not pairs:
                continue
            found: Agreement = mean_agreement(pairs)
            over = found.over or over
            for r, c in ((i, j), (j, i)):
                value[r, c], low[r, c], high[r, c] = found.value, found.low, found.high
    return AgreementMatrix(guides, value, low, high, over)


def write_pictures(
    folder: Path, results: Sequence[CellResult], rows: Sequence[Row], cells: Callable[[Cell], Path]
) -> dict[float, dict[str, AgreementMatrix]]:
    """Draw all that the finished cells give, into ``folder``; returns the agreement of the guides.

    Args:
        folder: where the PNG files go.
        results: the finished cells.
        rows: of ``build_table``.
        cells: the folder of a cell, which holds its ``posterior.nc``.
    """
    save_figure(elpd_figure(rows), folder / "elpd.png")
    _accuracy(folder, results)
    _forest(folder, results, rows[0], cells)
    scores = {r.cell: unit_scores(r, cells(r.cell)) for r in results}
    matrices = agreement_matrices(scores)
    for temperature, panels in matrices.items():
        compared = {prior: m for prior, m in panels.items() if len(m.guides) > 1}
        if compared:
            title = f"Agreement of the removal order between guides, temperature {temperature:g}"
            path = folder / f"agreement_tau-{temperature:g}.png"
            save_figure(agreement_figure(compared, title), path)
    return matrices


def _accuracy(folder: Path, results: Sequence[CellResult]) -> None:
    original = spread([r.accuracy["original"] for r in results])["mean"]
    assert original is not None  # every finished cell has it
    # As many as are scored: a cell does not hold the number of all, under which bars are shorter.
    images = min(len(r.elpd) for r in results)
    for budget in results[0].kept:
        # Where the network has batch norms, what counts is the accuracy after recalibration.
        stage, words = "pruned", "one shot"
        if all(r.accuracy[budget]["recalibrated"] is not None for r in results):
            stage, words = "recalibrated", "one shot and batch norms recalibrated"
        panels: dict[str, dict[str, dict[float, list[float]]]] = {}
        for r in results:
            lines = panels.setdefault(r.cell.prior, {}).setdefault(r.cell.guide, {})
            lines.setdefault(r.cell.temperature, []).append(r.accuracy[budget][stage])
        path = folder / f"accuracy_{file_name(budget)}.png"
        save_figure(accuracy_figure(budget, panels, original, words, images), path)


def _forest(
    folder: Path, results: Sequence[CellResult], best: Row, cells: Callable[[Cell], Path]
) -> None:
    temperature, seed = best["temperature"], best["seeds"][0]
    shown = [r for r in results if (r.cell.temperature, r.cell.seed) == (temperature, seed)]
    trees = {r.cell: load_tree(cells(r.cell) / POSTERIOR) for r in shown}
    others = sorted({r.cell.temperature for r in results} - {temperature})
    note = f"temperature {temperature:g} is that of the table's first row"
    if others:
        named = ", ".join(f"{t:g}" for t in others) if len(others) <= 4 else "the others"
        note += f"; draws of {named}: {POSTERIOR} of those cells"
    sites = list(shown[0].scores)
    places = np.unique(np.linspace(0, len(sites) - 1, FOREST_SITES).round().astype(int))
    for site in (sites[i] for i in places):
        panels: dict[str, dict[str, Floats]] = {}
        for cell, tree in trees.items():
            draws = switches(tree)[site]
            gains = draws.shape[-1] * draws.reshape(-1, draws.shape[-1])
            panels.setdefault(cell.prior, {})[cell.guide] = gains
        mean = np.mean([r.scores[site] / max(r.scores[site].sum(), 1e-300) for r in shown], axis=0)
        where = f"temperature {temperature:g}, seed {seed}"
        guides = {cell.guide for cell in trees}
        units = _extremes(mean, FOREST_LINES // max(4, len(guides)))
        if len(units) < len(mean):
            where += f", {len(units) // 2} best and {len(units) // 2} worst of {len(mean)} units"
        save_figure(
            forest_figure(site, panels, units, where, note),
            folder / f"forest_{file_name(site)}.png",
        )


def _extremes(scores: Floats, most: int) -> list[int]:
    """The units with the highest and the lowest scores, best first."""
    order: list[int] = np.lexsort((np.arange(len(scores)), -scores)).tolist()
    half = max(1, most // 2)
    return order if len(order) <= 2 * half else order[:half] + order[-half:]
