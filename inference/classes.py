"""Logits and labels of a classifier: what training and evaluation take, and nothing else."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..model.errors import DirpruneError


def check_classes(logits: Any, labels: Tensor) -> None:
    """Refuse anything but logits [B, C] of C >= 2 classes and labels [B] from 0 to C - 1.

    Elsewhere shapes broadcast, and accuracy and cross-entropy come out as nonsense in silence.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or logits.shape[1] < 2:
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise DirpruneError(
            f"the network gives {came}: training, fine-tuning and evaluation are for classifiers, "
            "with logits [B, C] of at least two classes"
        )
    if labels.shape != logits.shape[:1] or labels.is_floating_point():
        raise DirpruneError(
            f"labels: expected integers [{len(logits)}], got {labels.dtype} {list(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise DirpruneError(
            f"labels: expected 0 to {logits.shape[1] - 1} for the network's {logits.shape[1]} "
            f"outputs, got {low} to {high}"
        )
