"""The trained networks of a comparison, one for each seed, and how its tasks are run."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..inference.data import ImageData
from ..model.errors import DirpruneError
from ..model.networks import is_own, load_weights
from ..model.storage import load, save
from ..model.writing import atomic_write
from .checks import GRID, find_device, hold_folder
from .grid import NETWORKS, Grid, clear, look_into
from .parts import data_notes, new_network, read_data, train_network
from .settings import recipe
from .workers import Workers

FEW = 3  # failures that are told in full


@dataclass(frozen=True)
class Task:
    """What travels to a worker: the network of a seed."""

    grid: Grid
    folder: Path
    seed: int


@contextmanager
def alone() -> Iterator[None]:
    """One thread, and no progress bars: several workers share the machine and the terminal."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def comparing(
    grid: Grid, folder: Path, number: int, processes: int | None, resume: bool, overwrite: bool
) -> Iterator[Workers]:
    """Take the folder for this comparison, or go on with the one there; processes for its tasks.

    Args:
        grid: a checked one.
        folder: where all goes.
        number: of tasks: more processes are not started.
        processes: by default the cores, on a GPU one.
        resume, overwrite: as the command's options.
    """
    if resume and overwrite:
        raise DirpruneError("--resume goes on and --overwrite begins again: give one of them")
    find_device(grid.base.device)
    with hold_folder(folder):
        axes = look_into(grid, folder, resume, overwrite)
        grid.refuse_misfits()
        if overwrite:
            clear(folder)
        content = {"compared": grid.compared, "shared": grid.shared(), "axes": axes}
        atomic_write(folder / GRID, json.dumps(content, indent=1))
        if processes is None:
            processes = _cores() if grid.base.device == "cpu" else 1
        with Workers(min(processes, number)) as workers:
            yield workers


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_tasks[T](
    workers: Workers, work: Callable[[T], None], tasks: Mapping[str, T], label: str
) -> Iterator[tuple[str, Exception | None]]:
    """Run the tasks under a progress bar, and say in a line when they are through."""
    started, failed = time.perf_counter(), 0
    for name, error in tqdm(
        workers.run(work, tasks), desc=label, total=len(tasks), unit=label[:-1], disable=None,
        leave=False,
    ):  # fmt: skip
        failed += error is not None
        yield name, error
    counts = {"finished": len(tasks) - failed, "failed": failed}
    if said := " and ".join(f"{number} {what}" for what, number in counts.items() if number):
        seconds = time.perf_counter() - started
        print(f"dirprune: {label}: {said} in {seconds:.0f} s", file=sys.stderr)


def make_networks(grid: Grid, folder: Path, workers: Workers) -> dict[str, str]:
    """Train what is missing or damaged; returns the networks that failed, with the reason."""
    tasks = {grid.network(folder, seed).name: Task(grid, folder, seed) for seed in grid.seeds}
    there = [name for name in tasks if (folder / NETWORKS / name).exists()]
    damaged = _damaged_networks(grid, {name: tasks[name] for name in there}) if there else []
    if damaged:  # the same seed gives the same network: finished cells still count
        warn(f"these networks are damaged and are made again: {', '.join(damaged)}")
    wanted = {name: task for name, task in tasks.items() if name not in there or name in damaged}
    return {
        name: reason(error)
        for name, error in run_tasks(workers, make_network, wanted, "networks")
        if error is not None
    }


def make_network(task: Task) -> None:
    """Train the network of a seed, or copy the given one, into its folder."""
    path, s = task.grid.network(task.folder, task.seed), task.grid.of_network(task.seed)
    checkpoint = path.with_name(f"{path.name}.checkpoint")
    with alone():
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


def load_network(task: Task, data: ImageData) -> nn.Module:
    """The network of a seed, from its folder."""
    s = task.grid.of_network(task.seed)
    original = new_network(s, data) if is_own(s.network) else None
    return load(task.grid.network(task.folder, task.seed), network=original)


def _damaged_networks(grid: Grid, tasks: Mapping[str, Task]) -> list[str]:
    """The names of those that cannot be read."""
    data, damaged = read_data(grid.of_network(grid.seeds[0])), []
    for name, task in tasks.items():
        try:
            load_network(task, data)
        except DirpruneError:
            damaged.append(name)
    return damaged


def reason(error: Exception) -> str:
    """An error in a line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, DirpruneError) else f"{type(error).__name__}: {text}"


def warn(message: str) -> None:
    """Say what is not right and does not stop the work."""
    print(f"dirprune: warning: {message}", file=sys.stderr)


def tell(failed: Mapping[str, str], total: int, where: str, what: str = "cells") -> None:
    """Say what failed, and what to do."""
    shown = "; ".join(f"{name} ({why})" for name, why in list(failed.items())[:FEW])
    more = f"; and {len(failed) - FEW} more" if len(failed) > FEW else ""
    print(
        f"dirprune: {len(failed)} of {total} {what} failed: {shown}{more}. Details are in "
        f"{where}; --resume tries them again",
        file=sys.stderr,
    )
