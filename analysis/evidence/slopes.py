"""The slope of every example's log likelihood in the gains of the trained network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...model.switched import SwitchedNetwork


def example_slopes(
    model: SwitchedNetwork, batches: Iterable[tuple[Any, Tensor]]
) -> Iterator[dict[str, Tensor]]:
    r""":math:`\partial \log p(y_i \mid x_i, g) / \partial g` at gains of one, of each example.

    Args:
        model: the switched network.
        batches: (inputs, targets) of B examples each, on the model's device.

    Yields:
        Site -> [B, K] for each batch, in the network's precision, on the CPU: B forward and
        backward passes.
    """
    for inputs, targets in batches:
        gains = {
            site: g.repeat(len(targets), 1).requires_grad_()
            for site, g in model.unit_gains().items()
        }
        with torch.enable_grad():
            outputs = model.outputs_at_gains(inputs, gains)
            log_prob = model.likelihood(outputs).log_prob(targets).sum()
            # Each example has a row of gains, and examples do not mix (eval mode).
            slopes = torch.autograd.grad(log_prob, list(gains.values()))
        yield {site: s.cpu() for site, s in zip(gains, slopes, strict=True)}
