"""The slope of every example's log likelihood in the gains of units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork


def example_slopes(
    model: SwitchedNetwork, inputs: Any, targets: Tensor, gains: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    r""":math:`\log p(y_i \mid x_i, g)` and :math:`\partial \log p(y_i \mid x_i, g) / \partial g`.

    One forward and backward pass of B examples.

    Args:
        model: the switched network.
        inputs: B examples, on the model's device.
        targets: of the examples.
        gains: site -> [1, K]; of one where they are not given.

    Returns:
        [B], and site -> [B, K], both in the network's precision, on the CPU.

    Raises:
        DirpruneError: outputs that are not finite.
    """
    rows = {
        site: g.repeat(len(targets), 1).requires_grad_()
        for site, g in (gains or model.unit_gains()).items()
    }
    with torch.enable_grad():
        outputs = model.outputs_at_gains(inputs, rows)
        if not bool(outputs.isfinite().all()):
            raise DirpruneError(
                "the network's outputs are not finite: look at the images and the weights"
            )
        log_prob = model.likelihood(outputs).log_prob(targets)
        # Each example has a row of gains, and examples do not mix (eval mode).
        slopes = torch.autograd.grad(log_prob.sum(), list(rows.values()))
    return log_prob.detach().cpu(), {s: g.cpu() for s, g in zip(rows, slopes, strict=True)}
