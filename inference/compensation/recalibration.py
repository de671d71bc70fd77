"""Batch-norm recalibration as a compensation."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..batchnorm import recalibrate
from .task import Report, Task


def recalibrate_norms(
    task: Task, network: nn.Module, *, batches: int = 50, seed: int = 0
) -> Report:
    """New running statistics of all batch norms: :func:`~dirprune.inference.batchnorm.recalibrate`.

    Args:
        task: with a loader of training images, augmented as they were in training.
        network: changed in place.
        batches: of training images, at the most.
        seed: of the choice of images.
    """
    norms = {
        name: m
        for name, m in network.named_modules()
        if isinstance(m, _BatchNorm) and m.track_running_stats
    }
    if not norms:
        return Report()
    before = {name: _variance(norm) for name, norm in norms.items()}
    with task.seeded(seed, next(network.parameters()).device) as loader:
        recalibrate(network, loader, batches=batches)
    return Report(
        {
            name: {"variance_before": before[name], "variance_after": _variance(norm)}
            for name, norm in norms.items()
        }
    )


def _variance(norm: _BatchNorm) -> float:
    """The mean running variance."""
    assert norm.running_var is not None  # it tracks statistics
    return float(norm.running_var.double().mean())
