"""The log likelihood of examples under a mask, and what single units would change in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork


@dataclass(frozen=True)
class Slopes:
    """What is known of a mask from one forward and backward pass.

    Attributes:
        log_prob: mean log likelihood of the examples, in nats.
        change: site -> [K], the estimated change of that mean if this one unit were flipped: gone
            where it is kept, back where it is gone.
    """

    log_prob: float
    change: dict[str, Tensor]


def slopes(
    model: SwitchedNetwork, masks: Mapping[str, Tensor], inputs: Any, targets: Tensor
) -> Slopes:
    r"""The first two terms of the mean log likelihood in a unit's gain, at the mask.

    With :math:`\ell_i` the log likelihood of example i at the mask's gains g, which are 0 and 1,

    .. math:: \Delta_k = (1 - 2 g_k)\, E_i[\partial \ell_i / \partial g_k]
        - \tfrac12 E_i[(\partial \ell_i / \partial g_k)^2]

    where the second derivative is that of the empirical Fisher information. Of a removed unit too:
    its gain is zero, and its slope is not.

    Args:
        model: the switched network.
        masks: site -> [K] booleans.
        inputs: B examples, on the model's device.
        targets: of the examples.

    Raises:
        DirpruneError: outputs that are not finite.
    """
    ones = model.unit_gains()
    gains = {
        name: mask.to(ones[name]).repeat(len(targets), 1).requires_grad_()
        for name, mask in masks.items()
    }
    with torch.enable_grad():
        outputs = model.outputs_at_gains(inputs, gains)
        if not bool(outputs.isfinite().all()):
            raise DirpruneError(
                "the masked network's outputs are not finite: look at the images and the weights"
            )
        log_prob = model.likelihood(outputs).log_prob(targets)
        # Each example has a row of gains, and examples do not mix (eval mode).
        found = torch.autograd.grad(log_prob.sum(), list(gains.values()))
    change = {}
    for (name, mask), slope in zip(masks.items(), found, strict=True):
        slope = slope.double().cpu()
        sign = 1 - 2 * mask.double()
        change[name] = sign * slope.mean(0) - slope.square().mean(0) / 2
    return Slopes(float(log_prob.detach().double().mean()), change)


@torch.no_grad()
def mean_log_prob(
    model: SwitchedNetwork, masks: Mapping[str, Tensor], inputs: Any, targets: Tensor
) -> float:
    """The mean log likelihood of the examples under a mask, in nats."""
    ones = model.unit_gains()
    gains = {name: mask.to(ones[name])[None] for name, mask in masks.items()}
    log_prob = model.likelihood(model.outputs_at_gains(inputs, gains)).log_prob(targets)
    return float(log_prob.double().mean())
