"""A job of several stages in a folder of its own, which is resumed where it stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..model.writing import atomic_write
from .checks import (
    METRICS,
    claim_folder,
    find_device,
    finished_metrics,
    hold_folder,
    tidy_after_refusal,
)
from .settings import Settings
from .train_settings import TrainSettings

TIMED = 128  # images in the batch whose latency is measured


@dataclass
class Job[S: Settings | TrainSettings]:
    """What stages share: settings, folder, device, and the figures that they leave."""

    settings: S
    folder: Path
    device: torch.device
    metrics: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[Any]] = field(default_factory=dict)

    def run(self) -> None:
        """All stages."""
        raise NotImplementedError

    def _stage[T](self, name: str, work: Callable[[], T]) -> T:
        """Run a stage, say so on a terminal, and note its time."""
        if sys.stderr.isatty():
            print(f"{name} ...", file=sys.stderr)
        started = time.perf_counter()
        result = work()
        seconds = self.metrics["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 3)
        atomic_write(self._checkpoint("seconds"), json.dumps(seconds))
        return result

    def _recall_seconds(self) -> None:
        """Those of the run that is resumed."""
        earlier = self._checkpoint("seconds")
        if earlier.exists():
            self.metrics["seconds"] = json.loads(earlier.read_text())

    def _checkpoint(self, stage: str) -> Path:
        return self.folder / "checkpoints" / stage


def do_job[S: Settings | TrainSettings](
    kind: Callable[[S, Path, torch.device], Job[S]],
    settings: S,
    folder: Path,
    told: Collection[str],
    *,
    resume: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Run a job in its folder, or read what a finished one left; its figures.

    Args:
        kind: makes the job.
        settings: checked ones.
        folder: claimed for it.
        told: figures that a finished one must have.
        resume, overwrite: as the command's options.
    """
    device = find_device(settings.device)
    with hold_folder(folder):
        claim_folder(folder, settings, resume=resume, overwrite=overwrite)
        if resume and (folder / METRICS).exists() and not (folder / "checkpoints").exists():
            return finished_metrics(folder, told)
        job = kind(settings, folder, device)
        with tidy_after_refusal(folder):
            job.run()
        return job.metrics
