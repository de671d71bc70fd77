"""What trials are made of: data, network, posteriors that several share, a switched network."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..analysis.compare.outcome import Trial
from ..inference.data import ImageData, Images
from ..inference.data.splits import stratified_split
from ..inference.fit import Fit, fit
from ..inference.loop import seed_of
from ..model.priors import make_prior
from ..model.switched import SwitchedNetwork
from ..model.writing import atomic_write
from .compare_networks import Task, alone, load_network
from .grid import POSTERIORS
from .method_grid import MethodGrid
from .parts import batches_of, read_data, usual_svi_epochs
from .run import EFFECTIVE_IMAGES


@dataclass(frozen=True)
class TrialTask(Task):
    """What travels to a worker: a trial, or the posterior of some."""

    grid: MethodGrid
    trial: Trial


def posterior_name(trial: Trial) -> str:
    """Equal for trials that share one."""
    return (
        "" if trial.posterior is None else Trial("svi", trial.posterior, trial.seed, trial.few).name
    )


def posterior_path(task: TrialTask) -> Path:
    """The checkpoint of SVI; each restart adds its number."""
    return task.folder / POSTERIORS / posterior_name(task.trial)


def learned(path: Path) -> dict[str, Any] | None:
    """What was noted when a posterior was finished; None where it is not there to be read."""
    try:
        found: dict[str, Any] = json.loads(path.with_name(f"{path.name}.json").read_text())
        there = all(path.with_name(f"{path.name}.{i}").exists() for i in range(found["restarts"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if there else None


def learn_posterior(task: TrialTask) -> None:
    """Learn a posterior, and leave it in its checkpoint."""
    with alone():
        made = Made(task)
        path = posterior_path(task)
        found = made.fit(path)
        notes = {
            "seconds": round(found.seconds, 3), "restarts": len(found.guides),
            "examples": found.examples, "temperature": made.model.temperature,
        }  # fmt: skip
        atomic_write(path.with_name(f"{path.name}.json"), json.dumps(notes))


_READ: dict[str, tuple[ImageData, nn.Module]] = {}  # of the last task of this process


def forget() -> None:
    """Read data and network anew: another comparison may have the same names."""
    _READ.clear()


def read(task: Task) -> tuple[ImageData, nn.Module]:
    """Data and network of a seed, which many tasks share."""
    s = task.grid.of_network(task.seed)
    key = f"{task.folder}{s}"
    if key not in _READ:
        _READ.clear()
        data = read_data(s)
        _READ[key] = data, load_network(task, data).to(s.device)
    return _READ[key]


class Made:
    """What a trial works with: images, the switched network, and how posteriors are learned."""

    def __init__(self, task: TrialTask) -> None:
        self.trial, self.grid = task.trial, task.grid
        data, self.network = read(task)
        self.settings = s = task.grid.of_trial(task.trial)
        data = replace(
            data, train=self._images(data.train), validation=self._held_out(data.validation)
        )
        self.parts = {name: batches_of(s, data, name) for name in ("validation", "test")}
        self.loader = batches_of(s, data, "train", shuffle=True)
        self.augmented = batches_of(s, data, "train", shuffle=True, augment=True)
        usual = min(1.0, EFFECTIVE_IMAGES / len(data.train))
        self.model = SwitchedNetwork(
            self.network, data.train[[0, 1]][0].to(s.device), num_data=len(data.train),
            prior=make_prior(s.prior), temperature=s.temperature or usual, scaling=s.scaling,
            include=s.include, exclude=s.exclude, attention=s.attention, flatten=s.flatten,
        ).to(s.device)  # fmt: skip

    @property
    def _seed(self) -> int:
        return seed_of([self.trial.seed, 7])

    def _images(self, train: Images) -> Images:
        """The trial's training images: all in an order of its own, or the few that there are.

        A criterion looks at the first so many under a fixed seed of the loader: without an order of
        its own, every seed would score given weights on the same images.
        """
        if self.trial.few:
            return train.subset(stratified_split(train.labels, self.trial.few, self._seed)[1])
        generator = torch.Generator().manual_seed(self._seed)
        return train.subset(torch.randperm(len(train), generator=generator))

    def _held_out(self, validation: Images) -> Images:
        """The validation images; as many as there are training images, if these are few."""
        if 0 < self.trial.few < len(validation):
            held = stratified_split(validation.labels, self.trial.few, self._seed)[1]
            return validation.subset(held)
        return validation

    @property
    def svi(self) -> dict[str, Any]:
        """Arguments of ``fit``."""
        s = self.settings
        return {
            "guide": s.guide, "guide_options": s.guide_options, "particles": s.particles,
            "epochs": s.svi_epochs or usual_svi_epochs(len(self.loader)), "restarts": s.restarts,
        }  # fmt: skip

    def fit(self, path: Path) -> Fit:
        """The posterior; where it has been learned, from its checkpoint."""
        seed = seed_of([self.trial.seed, 2])
        return fit(
            self.model, loader=self.loader, seed=seed, checkpoint=path, resume=True, **self.svi
        )
