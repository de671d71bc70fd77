"""``dirprune compare``: a grid of guides, priors, temperatures and seeds, and what follows."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ..analysis.compare import (
    Cell,
    CellResult,
    build_table,
    load_cell,
    run_cell,
    to_csv,
    to_markdown,
)
from ..analysis.compare.cell import RECORD, is_damaged, save_cell, save_error
from ..analysis.compare.pictures import write_pictures
from ..analysis.compare.table import cell_figures, spread
from ..inference.data import ImageData
from ..model.errors import DirpruneError
from ..model.networks import is_own, load_weights
from ..model.storage import load, save
from ..model.writing import atomic_write
from .checks import GRID, find_device, hold_folder
from .grid import (
    CELLS,
    FIGURES,
    LINES,
    NETWORKS,
    TABLE,
    Grid,
    check_grid,
    clear,
    look_into,
    refuse_misfits,
)
from .parts import batches_of, data_notes, new_network, read_data, train_network, usual_svi_epochs
from .settings import recipe
from .workers import Workers

FEW = 3  # failures that are told in full


def compare_grid(
    grid: Grid, folder: Path, *, processes: int | None, resume: bool, overwrite: bool
) -> int:
    """Make all cells into ``folder``, print the table; 1 if a cell failed."""
    cells = check_grid(grid, processes)
    if resume and overwrite:
        raise DirpruneError("--resume goes on and --overwrite begins again: give one of them")
    find_device(grid.base.device)
    with hold_folder(folder):
        axes = look_into(grid, folder, resume, overwrite)
        refuse_misfits(grid)
        if overwrite:
            clear(folder)
        atomic_write(folder / GRID, json.dumps({"shared": grid.shared(), "axes": axes}, indent=1))
        if processes is None:
            processes = _cores() if grid.base.device == "cpu" else 1
        with Workers(min(processes, len(cells))) as workers:
            broken = _make_networks(grid, folder, workers)
            failed = _make_cells(grid, folder, cells, workers, broken)
        results = _finished(folder)
        if results:
            print(_summarise(grid, folder, results))
    if failed:
        _tell(failed, len(cells), folder)
        return 1
    return 0


# -- the work -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Task:
    """What travels to a worker."""

    grid: Grid
    folder: Path
    seed: int
    cell: Cell | None = None


@contextmanager
def _alone() -> Iterator[None]:
    """One thread, and no progress bars: several workers share the machine and the terminal."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        torch.set_num_threads(threads)


def _make_network(task: _Task) -> None:
    """Train the network of a seed, or copy the given one, into its folder."""
    path, s = task.grid.network(task.folder, task.seed), task.grid.of_network(task.seed)
    checkpoint = path.with_name(f"{path.name}.checkpoint")
    with _alone():
        data = read_data(s)
        network = new_network(s, data).to(s.device)
        if s.weights is not None:
            load_weights(network, s.weights)
        else:
            usual = recipe(s.data).train_epochs
            epochs = usual if s.train_epochs is None else s.train_epochs
            train_network(s, data, network, epochs, checkpoint)
        save(path, network, notes=data_notes(data))
        checkpoint.unlink(missing_ok=True)


def _make_cell(task: _Task) -> None:
    """Learn a cell's posterior and write its folder."""
    grid, cell = task.grid, task.cell
    assert cell is not None  # _make_cells gives one
    s = grid.of_network(cell.seed)
    with _alone():
        data = read_data(s)
        network = _load_network(task, data).to(s.device)
        training = batches_of(s, data, "train", shuffle=True)
        tree, result = run_cell(
            cell, network, training, batches_of(s, data, "validation"), num_data=len(data.train),
            budgets=grid.budgets, criterion=s.evidence,
            widths=s.widths,
            augmented=batches_of(s, data, "train", shuffle=True, augment=True),
            epochs=s.svi_epochs or usual_svi_epochs(len(training)), restarts=s.restarts,
            particles=s.particles, scaling=s.scaling, include=s.include, exclude=s.exclude,
            attention=s.attention,
        )  # fmt: skip
        save_cell(_cell_folder(task.folder, cell), tree, result)


def _load_network(task: _Task, data: ImageData) -> nn.Module:
    s = task.grid.of_network(task.seed)
    original = new_network(s, data) if is_own(s.network) else None
    return load(task.grid.network(task.folder, task.seed), network=original)


def _cell_folder(folder: Path, cell: Cell) -> Path:
    return folder / CELLS / cell.name


def _make_networks(grid: Grid, folder: Path, workers: Workers) -> dict[str, str]:
    """Train what is missing or damaged; returns the networks that failed, with the reason."""
    tasks = {grid.network(folder, seed).name: _Task(grid, folder, seed) for seed in grid.seeds}
    there = [name for name in tasks if (folder / NETWORKS / name).exists()]
    damaged = _damaged_networks(grid, {name: tasks[name] for name in there}) if there else []
    if damaged:  # the same seed gives the same network: finished cells still count
        _warn(f"these networks are damaged and are made again: {', '.join(damaged)}")
    wanted = {name: task for name, task in tasks.items() if name not in there or name in damaged}
    return {
        name: _reason(error)
        for name, error in _run(workers, _make_network, wanted, "networks")
        if error is not None
    }


def _damaged_networks(grid: Grid, tasks: Mapping[str, _Task]) -> list[str]:
    """The names of those that cannot be read."""
    data, damaged = read_data(grid.of_network(grid.seeds[0])), []
    for name, task in tasks.items():
        try:
            _load_network(task, data)
        except DirpruneError:
            damaged.append(name)
    return damaged


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
            wanted[cell.name] = _Task(grid, folder, cell.seed, cell)
            by_name[cell.name] = cell
    if damaged:
        _warn(f"these cells are damaged and are made again: {', '.join(damaged)}")
    for name, error in _run(workers, _make_cell, wanted, "cells"):
        if error is not None:
            failed[name] = _reason(error)
            details = "".join(traceback.format_exception(error))
            save_error(_cell_folder(folder, by_name[name]), by_name[name], failed[name], details)
    return failed


def _run(
    workers: Workers, work: Callable[[_Task], None], tasks: Mapping[str, _Task], label: str
) -> Iterator[tuple[str, Exception | None]]:
    """Run the tasks under a progress bar."""
    outcomes = workers.run(work, tasks)
    yield from tqdm(
        outcomes, desc=label, total=len(tasks), unit=label[:-1], disable=None, leave=False
    )


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, DirpruneError) else f"{type(error).__name__}: {text}"


# -- what follows ---------------------------------------------------------------------------------


def _finished(folder: Path) -> list[CellResult]:
    """All finished cells in the folder, those of an earlier grid too."""
    paths = sorted(path.parent for path in (folder / CELLS).glob(f"*/{RECORD}"))
    damaged = [path for path in paths if is_damaged(path)]
    if damaged:  # the cells of this grid have been made again
        _warn(
            "these cells of an earlier grid are damaged and left out (--resume with their guide, "
            f"prior, temperature and seed makes them again): {', '.join(p.name for p in damaged)}"
        )
        paths = [path for path in paths if path not in damaged]
    return [result for path in paths if (result := load_cell(path)) is not None]


def _summarise(grid: Grid, folder: Path, results: Sequence[CellResult]) -> str:
    """Write the table and the pictures; the table as text."""
    rows = build_table(results, same_images=grid.base.weights is not None)
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


def _warn(message: str) -> None:
    print(f"dirprune: warning: {message}", file=sys.stderr)


def _plain(matrix: Any) -> list[list[float | None]]:
    """A matrix for JSON, which has no NaN."""
    return [[None if v != v else round(v, 4) for v in row] for row in matrix.tolist()]


def _tell(failed: Mapping[str, str], total: int, folder: Path) -> None:
    shown = "; ".join(f"{name} ({why})" for name, why in list(failed.items())[:FEW])
    more = f"; and {len(failed) - FEW} more" if len(failed) > FEW else ""
    print(
        f"dirprune: {len(failed)} of {total} cells failed: {shown}{more}. Details are in "
        f"{folder / CELLS}/*/{RECORD}; --resume tries them again",
        file=sys.stderr,
    )
