"""The slope of every example's log likelihood in the gains of the trained network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ...model.switched import SwitchedNetwork
from .switches import take


def example_slopes(
    model: SwitchedNetwork, inputs: Any, targets: Tensor, batches: Iterable[Tensor]
) -> Iterator[dict[str, Tensor]]:
    r""":math:`\partial \log p(y_i \mid x_i, g) / \partial g` at gains of one, of each example.

    Args:
        model: the switched network.
        inputs: n examples.
        targets: of the examples.
        batches: indices [B] of examples.

    Yields:
        Site -> [B, K] for each batch, float64 on the CPU: B forward and backward passes.
    """
    for index in batches:
        index = index.to(model.device)
        gains = {
            site: g.repeat(len(index), 1).requires_grad_() for site, g in model.unit_gains().items()
        }
        with torch.enable_grad():
            outputs = model.outputs_at_gains(take(inputs, index), gains)
            log_prob = model.likelihood(outputs).log_prob(targets[index]).sum()
            # Each example has a row of gains, and examples do not mix (eval mode).
            slopes = torch.autograd.grad(log_prob, list(gains.values()))
        yield {site: s.double().cpu() for site, s in zip(gains, slopes, strict=True)}
