"""How well a network classifies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ..model.errors import DirpruneError
from .classes import check_classes
from .loop import Loader, call, move_batch


@dataclass(frozen=True)
class Accuracy:
    """Counts over a data set; ``log_likelihood`` is the sum of log p(label), in nats."""

    correct: int
    total: int
    log_likelihood: float

    @property
    def percent(self) -> float:
        return 100.0 * self.correct / self.total


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode; each gets its own mode back, also after an error."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def evaluate(network: nn.Module, loader: Loader, device: torch.device | None = None) -> Accuracy:
    """Accuracy and log likelihood of a classifier, in eval mode; its own mode is put back."""
    if device is None:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
    correct = total = 0
    log_likelihood = 0.0
    with eval_mode(network):
        for batch in loader:
            inputs, targets = move_batch(batch, device)
            logits = call(network, inputs)
            check_classes(logits, targets)
            correct += int((logits.argmax(1) == targets).sum())
            total += len(targets)
            log_likelihood -= float(F.cross_entropy(logits, targets, reduction="sum"))
    if total == 0:
        raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")
    return Accuracy(correct, total, log_likelihood)
