"""Batch-norm recalibration: new running statistics for a network that has lost units."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..model.errors import DirpruneError
from .evaluate import eval_mode
from .loop import Loader, call, move_batch


@torch.no_grad()
def recalibrate(network: nn.Module, loader: Loader, *, batches: int = 50) -> int:
    """Estimate the running mean and variance of every batch norm again, on training images.

    The statistics are averages over ``batches`` batches with equal weight; no weight is changed.

    Args:
        network: changed in place; its train/eval mode is put back.
        loader: batches of training images, augmented as they were in training: the statistics that
            a network was trained with are those of augmented images.
        batches: how many of them to use at the most.

    Returns:
        The number of batch norms.

    Raises:
        DirpruneError: no batch to estimate from.
    """
    if batches < 1:
        raise DirpruneError(f"batches: expected at least 1, got {batches}")
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return 0
    used = itertools.islice(loader, batches)
    first = next(used, None)
    if first is None:  # before the old statistics are lost
        raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")
    momenta = [norm.momentum for norm in norms]
    device = next(network.parameters()).device
    try:
        with eval_mode(network):  # dropout and the like are off: only the batch norms are in train
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for batch in itertools.chain([first], used):
                call(network, move_batch(batch, device)[0])
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return len(norms)
