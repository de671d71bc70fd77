"""The log likelihood of examples under a mask, and what single units would change in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...model.switched import SwitchedNetwork
from ..evidence.slopes import example_slopes
from ..evidence.switches import take, usual_batch


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
    gains, total = _rows(model, masks), 0.0
    first = {name: torch.zeros(len(mask), dtype=torch.float64) for name, mask in masks.items()}
    second = {name: torch.zeros_like(sums) for name, sums in first.items()}
    for x, y in _parts(inputs, targets):
        log_prob, found = example_slopes(model, x, y, gains)
        total += float(log_prob.double().sum())
        for name, slope in found.items():
            first[name] += slope.double().sum(0)
            second[name] += slope.double().square().sum(0)
    number = len(targets)
    change = {
        name: ((1 - 2 * mask.double()) * first[name] - second[name] / 2) / number
        for name, mask in masks.items()
    }
    return Slopes(total / number, change)


@torch.no_grad()
def mean_log_prob(
    model: SwitchedNetwork, masks: Mapping[str, Tensor], inputs: Any, targets: Tensor
) -> float:
    """The mean log likelihood of the examples under a mask, in nats."""
    gains = _rows(model, masks)
    total = 0.0
    for x, y in _parts(inputs, targets):
        log_prob = model.likelihood(model.outputs_at_gains(x, gains)).log_prob(y)
        total += float(log_prob.double().sum())
    return total / len(targets)


def _rows(model: SwitchedNetwork, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Site -> [1, K]: the gains of a mask."""
    ones = model.unit_gains()
    return {name: mask.to(ones[name])[None] for name, mask in masks.items()}


def _parts(inputs: Any, targets: Tensor) -> Iterator[tuple[Any, Tensor]]:
    """So many examples at a time as their size suggests."""
    for index in torch.arange(len(targets), device=targets.device).split(usual_batch(inputs)):
        yield take(inputs, index), targets[index]
