"""What ``dirprune train`` is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .settings import Settings

# Those of a run's options that mean something here.
SHARED = (
    "network", "data", "weights", "data_root", "download", "size", "mean", "std", "train_epochs",
    "include", "exclude", "attention", "batch_size", "seed", "device",
)  # fmt: skip


@dataclass(frozen=True)
class TrainSettings(Settings):
    """The options of ``dirprune train`` that determine its result."""

    method: str = "gibbs"
    structure: str | None = None
    ratio: float | None = None
    epochs: int | None = None

    def to_dict(self) -> dict[str, Any]:
        own = ("method", "structure", "ratio", "epochs")
        return {name: getattr(self, name) for name in (*own, *SHARED)}
