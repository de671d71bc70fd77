"""What ``dirprune compare`` is asked to do, and what is refused before anything runs."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from ..analysis.compare import Cell, make_grid
from ..analysis.compare.cell import budget_name
from ..analysis.decision.decide import decide
from ..guides import make_guide
from ..guides.families import parse_guide
from ..model.errors import DirpruneError
from ..model.networks import load_weights
from ..model.priors import make_prior
from ..model.storage import DESCRIPTION
from ..model.switched import SwitchedNetwork
from .checks import GRID, METRICS, SETTINGS, changed_settings, check_options
from .parts import new_network, read_data
from .settings import Settings

TABLE, LINES = "comparison.json", "comparison.csv"
NETWORKS, CELLS, FIGURES = "networks", "cells", "figures"
POSTERIORS, TRIALS = "posteriors", "trials"  # of a comparison of methods
OUTPUTS = (GRID, TABLE, LINES, NETWORKS, CELLS, POSTERIORS, TRIALS, FIGURES)
# The options that define a cell besides its own axes: they must be equal for cells to compare.
SHARED = (
    "network", "data", "weights", "size", "mean", "std", "train_epochs", "batch_size", "scaling",
    "include", "exclude", "attention", "flatten", "evidence", "widths", "svi_epochs", "restarts",
    "particles", "device",
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """Posteriors to compare: ``base`` has what all cells share, the rest are the axes."""

    compared: ClassVar[str] = "posteriors"

    base: Settings
    guides: Sequence[str]
    priors: Sequence[str]
    temperatures: Sequence[float]
    seeds: Sequence[int]
    budgets: Sequence[Mapping[str, Any]]

    def cells(self) -> list[Cell]:
        return make_grid(self.guides, self.priors, self.temperatures, self.seeds)

    def settings(self, cell: Cell) -> Settings:
        """As ``dirprune run`` would have them."""
        guide, options = parse_guide(cell.guide)
        return replace(
            self.base, guide=guide, guide_options=options or None, prior=cell.prior,
            temperature=cell.temperature, seed=cell.seed, budget=dict(self.budgets[0]),
        )  # fmt: skip

    def of_network(self, seed: int) -> Settings:
        """What a seed's network and data follow from; given weights have the split of seed 0."""
        return replace(self.base, seed=seed if self.base.weights is None else 0)

    def network(self, folder: Path, seed: int) -> Path:
        name = f"seed-{seed}" if self.base.weights is None else "given"
        return folder / NETWORKS / name

    def shared(self) -> dict[str, Any]:
        """What must be equal for cells to stand in one table."""
        same = {name: getattr(self.base, name) for name in SHARED}
        return {**same, "budgets": [budget_name(b) for b in self.budgets]}

    def axes(self) -> dict[str, Any]:
        return {
            "guides": list(self.guides), "priors": list(self.priors),
            "temperatures": list(self.temperatures), "seeds": list(self.seeds),
        }  # fmt: skip

    def refuse_misfits(self) -> None:
        """Refuse what does not fit the network, the data or the weights, before it is trained.

        A guide has to fit one of the priors; where it does not fit another, that cell fails alone.
        """
        s = self.of_network(self.seeds[0])
        data = read_data(s)
        network = new_network(s, data)
        if s.weights is not None:
            load_weights(network, s.weights)
        example = data.train[[0, 1]][0]
        misfits: dict[str, list[str]] = {guide: [] for guide in self.guides}
        for prior in self.priors:
            model = SwitchedNetwork(
                network, example, num_data=len(data.train), prior=make_prior(prior),
                scaling=s.scaling, include=s.include, exclude=s.exclude,
                attention=s.attention, flatten=s.flatten,
            )  # fmt: skip
            for guide, errors in misfits.items():
                try:
                    name, options = parse_guide(guide)
                    make_guide(name, model, options)
                except Exception as error:  # Pyro's guides raise what comes
                    errors.append(f"under {prior}: {error}")
        for guide, errors in misfits.items():
            if len(errors) == len(self.priors):
                raise DirpruneError(
                    f"--guides {guide} fits none of the priors: {'; '.join(errors)}"
                )
        ones = {name: torch.ones(site.size) for name, site in model.sites.items()}
        for budget in self.budgets:
            decide(model, ones, **budget, widths=self.base.widths)


def check_grid(grid: Grid, processes: int | None) -> list[Cell]:
    """Refuse bad names and numbers."""
    cells = grid.cells()
    for cell in cells:
        check_options(grid.settings(cell))
    names = [budget_name(budget) for budget in grid.budgets]
    for name in names:
        if names.count(name) > 1:
            raise DirpruneError(f"--budgets names {name} twice")
    if processes is not None and processes < 1:
        raise DirpruneError(f"--processes {processes}: expected a whole number of at least 1")
    return cells


def look_into(grid: Grid, folder: Path, resume: bool, overwrite: bool) -> dict[str, list[Any]]:
    """Refuse a folder that is not free for this grid; return the axes that it will hold."""
    path, axes = folder / GRID, grid.axes()
    there = [name for name in (*OUTPUTS, SETTINGS, METRICS) if (folder / name).exists()]
    if not there or (there == [NETWORKS] and _are_networks(folder / NETWORKS)):
        if resume:
            print(f"dirprune: {folder} holds no grid yet: beginning one", file=sys.stderr)
        return axes
    try:
        found = json.loads(path.read_text())
    except OSError:
        found = None
    except ValueError as error:
        if overwrite:
            return axes
        raise DirpruneError(
            f"{path} is damaged, so that nothing says what the cells beside it were made with: "
            "--overwrite begins again, --out names another folder"
        ) from error
    other = found.get("compared", Grid.compared) if isinstance(found, dict) else grid.compared
    if other != grid.compared and not overwrite:
        raise DirpruneError(
            f"{folder} holds a comparison of {other}, and this is one of {grid.compared} (several "
            "criteria in --evidence, or --protocol): choose another --out, or --overwrite"
        )
    if other != grid.compared:
        return axes
    try:
        shared, before = dict(found["shared"]), {k: list(found["axes"][k]) for k in axes}
    except (ValueError, KeyError, TypeError) as error:
        raise DirpruneError(
            f"{folder} holds {', '.join(there)}, but not of dirprune compare: choose another --out"
        ) from error
    if overwrite:
        return axes
    if not resume:
        raise DirpruneError(
            f"{folder} holds a grid already: --resume goes on with it (and adds to it), "
            "--overwrite begins again, --out names another folder"
        )
    wanted = json.loads(json.dumps(grid.shared()))
    if differences := changed_settings(shared, wanted):
        raise DirpruneError(
            f"{folder} holds a grid with other settings ({differences}): its cells would not "
            "compare; use the same, another --out, or --overwrite"
        )
    return {k: [*before[k], *(v for v in axes[k] if v not in before[k])] for k in axes}


def _are_networks(folder: Path) -> bool:
    """Are these of another comparison, put here to be compared again?"""
    return all((path / DESCRIPTION).exists() for path in folder.iterdir())


def clear(folder: Path) -> None:
    """Remove a grid."""
    for name in OUTPUTS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
