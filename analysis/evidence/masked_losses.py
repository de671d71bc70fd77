"""The loss of every example with units of one site masked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...model.switched import SwitchedNetwork
from .switches import predictions


def masked_losses(
    model: SwitchedNetwork, site: str, masks: Tensor, inputs: Any, targets: Tensor, label: str
) -> Tensor:
    """:math:`-\\log p(y_i | x_i)` under every mask of one site, all other units kept: [M, n].

    Args:
        model: the switched network.
        site: the one whose units are masked.
        masks: [M, K], the gains of the site's units: 0 removes one, 1 keeps it.
        inputs: n examples.
        targets: of the examples.
        label: of the progress bar.

    Returns:
        [M, n] in nats, float64 on the CPU: M x n forward passes. A batch holds several masks, as
        rows of gains, where the examples alone would not fill it.
    """
    number, count = len(masks), len(targets)
    ones = model.unit_gains()
    gains = {name: g.expand(number, -1) for name, g in ones.items()} | {site: masks.to(ones[site])}
    losses = torch.empty(number * count, dtype=torch.float64)
    for rows, log_prob, _ in predictions(model, gains, inputs, targets, label=label):
        losses[rows] = -log_prob
    return losses.view(number, count)


def unmasked_losses(model: SwitchedNetwork, inputs: Any, targets: Tensor) -> Tensor:
    """:math:`-\\log p(y_i | x_i)` of the trained network itself: [n], of n forward passes."""
    site, ones = next(iter(model.unit_gains().items()))
    return masked_losses(model, site, ones, inputs, targets, "unmasked")[0]
