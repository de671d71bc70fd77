"""``dirprune compare``: a grid of guides, priors, temperatures and seeds, and what follows."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..analysis.compare import (
    Cell,
    CellResult,
    build_table,
    load_cell,
    run_cell,
    to_csv,
    to_markdown,
)
from ..analysis.compare.cell import POSTERIOR, RECORD, is_damaged, save_cell, save_error
from ..analysis.compare.pictures import write_pictures
from ..analysis.compare.table import cell_figures, spread
from ..analysis.tree import cost_table, load_tree
from ..model.writing import atomic_write
from .compare_networks import (
    Task,
    alone,
    comparing,
    load_network,
    make_networks,
    reason,
    run_tasks,
    tell,
    warn,
)
from .grid import CELLS, FIGURES, LINES, TABLE, Grid, check_grid
from .parts import batches_of, read_data, usual_svi_epochs
from .workers import Workers


def compare_grid(
    grid: Grid, folder: Path, *, processes: int | None, resume: bool, overwrite: bool
) -> int:
    """Make all cells into ``folder``, print the table; 1 if a cell failed."""
    cells = check_grid(grid, processes)
    with comparing(grid, folder, len(cells), processes, resume, overwrite) as workers:
        broken = make_networks(grid, folder, workers)
        failed = _make_cells(grid, folder, cells, workers, broken)
        results = _finished(folder)
        if results:
            print(_summarise(grid, folder, results))
    if failed:
        tell(failed, len(cells), f"{folder / CELLS}/*/{RECORD}")
        return 1
    return 0


# -- the work -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CellTask(Task):
    """What travels to a worker: a cell."""

    cell: Cell


def _make_cell(task: _CellTask) -> None:
    """Learn a cell's posterior and write its folder."""
    grid, cell = task.grid, task.cell
    s = grid.of_network(cell.seed)
    with alone():
        data = read_data(s)
        network = load_network(task, data).to(s.device)
        training = batches_of(s, data, "train", shuffle=True)
        tree, result = run_cell(
            cell, network, training, batches_of(s, data, "validation"), num_data=len(data.train),
            budgets=grid.budgets, criterion=s.evidence,
            widths=s.widths,
            augmented=batches_of(s, data, "train", shuffle=True, augment=True),
            epochs=s.svi_epochs or usual_svi_epochs(len(training)), restarts=s.restarts,
            particles=s.particles, scaling=s.scaling, include=s.include, exclude=s.exclude,
            attention=s.attention, flatten=s.flatten,
        )  # fmt: skip
        save_cell(_cell_folder(task.folder, cell), tree, result)


def _cell_folder(folder: Path, cell: Cell) -> Path:
    return folder / CELLS / cell.name


def _make_cells(
    grid: Grid,
    folder: Path,
    cells: Sequence[Cell],
    workers: Workers,
    broken: Mapping[str, str],
) -> dict[str, str]:
    """Make what is missing; returns the cells that failed, with the reason."""
    failed, wanted, by_name, damaged = {}, {}, {}, []
    for cell in cells:
        path = _cell_folder(folder, cell)
        unreadable = is_damaged(path)
        if unreadable:
            damaged.append(cell.name)
        network = grid.network(folder, cell.seed).name
        if network in broken:
            failed[cell.name] = f"network {network}: {broken[network]}"
            save_error(path, cell, failed[cell.name], "")
        elif unreadable or load_cell(path) is None:
            wanted[cell.name] = _CellTask(grid, folder, cell.seed, cell)
            by_name[cell.name] = cell
    if damaged:
        warn(f"these cells are damaged and are made again: {', '.join(damaged)}")
    for name, error in run_tasks(workers, _make_cell, wanted, "cells"):
        if error is not None:
            failed[name] = reason(error)
            details = "".join(traceback.format_exception(error))
            save_error(_cell_folder(folder, by_name[name]), by_name[name], failed[name], details)
    return failed


# -- what follows ---------------------------------------------------------------------------------


def _finished(folder: Path) -> list[CellResult]:
    """All finished cells in the folder, those of an earlier grid too."""
    paths = sorted(path.parent for path in (folder / CELLS).glob(f"*/{RECORD}"))
    damaged = [path for path in paths if is_damaged(path)]
    if damaged:  # the cells of this grid have been made again
        warn(
            "these cells of an earlier grid are damaged and left out (--resume with their guide, "
            f"prior, temperature and seed makes them again): {', '.join(p.name for p in damaged)}"
        )
        paths = [path for path in paths if path not in damaged]
    return [result for path in paths if (result := load_cell(path)) is not None]


def _summarise(grid: Grid, folder: Path, results: Sequence[CellResult]) -> str:
    """Write the table and the pictures; the table as text."""
    tree = load_tree(_cell_folder(folder, results[0].cell) / POSTERIOR)
    rows = build_table(results, same_images=grid.base.weights is not None, costs=cost_table(tree))
    shutil.rmtree(folder / FIGURES, ignore_errors=True)
    matrices = write_pictures(
        folder / FIGURES, results, rows, lambda cell: _cell_folder(folder, cell)
    )
    content = {
        "settings": grid.shared(),
        "rows": rows,
        "agreement": [
            {"temperature": temperature, "prior": prior, "guides": list(m.guides),
             **{name: _plain(getattr(m, name)) for name in ("value", "low", "high")}}
            for temperature, panels in matrices.items() for prior, m in panels.items()
        ],
        "cells": [cell_figures(result) for result in results],
    }  # fmt: skip
    atomic_write(folder / TABLE, json.dumps(content, indent=1, allow_nan=False))
    atomic_write(folder / LINES, to_csv(results))
    original = spread(list({r.cell.seed: r.accuracy["original"] for r in results}.values()))
    own = spread(list({r.cell.seed: r.network_elpd for r in results}.values()))
    beside = "" if own["mean"] is None else f", elpd {own['mean']:.4f}"
    sd = "" if original["sd"] is None else f" ± {original['sd']:.2f}"
    return (
        f"{to_markdown(rows)}\n"
        f"the networks themselves: {original['mean']:.2f}{sd} %{beside}. Accuracy is over all "
        f"validation images, elpd over {len(results[0].elpd):,} of them.\n"
        f"figures: {folder / FIGURES}"
    )


def _plain(matrix: Any) -> list[list[float | None]]:
    """A matrix for JSON, which has no NaN."""
    return [[None if v != v else round(v, 4) for v in row] for row in matrix.tolist()]
