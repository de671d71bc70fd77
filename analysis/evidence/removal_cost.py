"""The expected removal cost of a unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...model.switched import SwitchedNetwork
from .material import Material
from .scores import Evidence, Passes, Scores
from .switches import grid, take, usual_batch

COST_DRAWS, COST_IMAGES = 32, 256


def expected_removal_cost(
    material: Material, *, draws: int = COST_DRAWS, images: int = COST_IMAGES
) -> Evidence:
    """Keep the units whose removal costs most: :func:`removal_cost` over the posterior.

    Args:
        material: a model, a Fit and a loader.
        draws: of each restart.
        images: training images, the same for every draw.
    """
    seen: list[Tensor] = []

    def cost(
        model: SwitchedNetwork, switches: Mapping[str, Tensor], inputs: Any, targets: Tensor
    ) -> dict[str, Tensor]:
        seen.append(targets)  # the same for every restart
        return removal_cost(model, switches, inputs, targets)

    costs = material.under_draws(draws, images, cost)
    return cost_evidence(costs, seen[0])


def cost_evidence(costs: Mapping[str, Tensor], targets: Tensor) -> Evidence:
    """The evidence of :func:`removal_cost`, site -> [S, K], on these targets."""
    pairs = len(next(iter(costs.values()))) * len(targets)
    return Evidence(
        {site: Scores(c.mean(0), c, "nats") for site, c in costs.items()},
        Passes(pairs, pairs),
        criterion="removal-cost",
    )


def removal_cost(
    model: SwitchedNetwork,
    switches: Mapping[str, Tensor],
    inputs: Any,
    targets: Tensor,
    *,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    r"""What a unit's removal costs under each draw of the switches, to second order.

    .. math:: C_k(s) = E_{data}\left[\left(g_k \, \partial \ell_i / \partial g_k\right)^2\right]

    with :math:`\ell_i` the negative log likelihood of example i in nats and the gradient taken at
    the draw's own gains: the diagonal of the empirical Fisher in the relative change of a gain,
    averaged over the posterior instead of taken at one point. Half of it estimates the rise of the
    loss when the unit alone goes. It ranks units, within a site and across sites; it does not add
    up over sets of units.

    Args:
        model: the switched network.
        switches: site -> [S, K], posterior draws.
        inputs: n examples.
        targets: [n].
        batch_size: examples at a time; by default what their size suggests.

    Returns:
        site -> [S, K], in nats: a mean squared slope stands for a mean curvature, as in every
        Fisher information. It takes S x n forward and backward passes.

    References:
        Yann LeCun, John Denker, Sara Solla, "Optimal Brain Damage", 1989 (at the point estimate).
    """
    device, count = model.device, len(targets)
    names = list(model.sites)
    number = len(next(iter(switches.values())))
    cost = {
        name: torch.zeros(number, model.sites[name].size, dtype=torch.float64) for name in names
    }
    for rows in grid(number, count, batch_size or usual_batch(inputs), "removal cost"):
        draw, example = rows // count, (rows % count).to(device)
        chosen = {name: switches[name][draw].to(device) for name in names}
        gains = {name: g.detach().requires_grad_() for name, g in model.gains(chosen).items()}
        x = take(inputs, example)
        with torch.enable_grad():
            outputs = model.outputs_at_gains(x, gains)
            log_prob = model.likelihood(outputs).log_prob(targets[example]).sum()
            # Rows do not mix (eval mode), so the gradient of the sum is each example's own.
            slopes = torch.autograd.grad(log_prob, [gains[name] for name in names])
        for name, slope in zip(names, slopes, strict=True):
            squares = (gains[name].detach() * slope).double().square().cpu()
            cost[name].index_add_(0, draw, squares)
    return {name: value / count for name, value in cost.items()}
