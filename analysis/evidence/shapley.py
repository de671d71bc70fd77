"""Shapley values of a site's units, by sampled permutations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...inference.loop import seed_of
from ...model.switched import SwitchedNetwork
from .masked_losses import masked_losses, unmasked_losses
from .material import Material
from .scores import Evidence, Passes, Scores

SHAPLEY_PERMUTATIONS, SHAPLEY_IMAGES, SHAPLEY_STD = 5, 256, 2.0


def shapley(
    material: Material,
    *,
    permutations: int = SHAPLEY_PERMUTATIONS,
    images: int = SHAPLEY_IMAGES,
    std: float = SHAPLEY_STD,
    seed: int = 0,
) -> Evidence:
    r"""Keep the units with large Shapley values of the loss: their mean and spread over examples.

    .. math:: n_k = \mathrm{mean}_i \, \phi_{ik} + c \, \mathrm{std}_i \, \phi_{ik}, \quad
        \phi_{ik} = E_\pi[\ell_i(S_\pi^k \cup k) - \ell_i(S_\pi^k)]

    Each site is a game of its own, the other sites kept whole: its units go one after the other in
    a random order :math:`\pi`, and a unit's credit is the rise of each example's loss when it goes
    in its turn, after the units :math:`S_\pi^k`. Removal is by a gain of zero where the next layer
    reads the unit, after batch norm and activation. It takes a forward pass of every image for each
    permutation and unit, and one more; the authors' code runs the layers behind the site alone.

    Args:
        material: a model and a loader.
        permutations: of each site's units.
        images: training images.
        std: the factor c of the standard deviation.
        seed: of the permutations.

    References:
        Marco Ancona, Cengiz Oztireli, Markus Gross, "Shapley Value as Principled Metric for
        Structured Network Pruning", 2020, arXiv 2006.01795.
    """
    model = material.model
    inputs, targets = material.images(images)
    before = unmasked_losses(model, inputs, targets)
    generator = torch.Generator().manual_seed(seed_of([seed]))
    found = {}
    for name, site in model.sites.items():
        orders = [torch.randperm(site.size, generator=generator) for _ in range(permutations)]
        values = shapley_values(model, name, orders, inputs, targets, before)
        score = values.mean(1) + std * values.std(1, correction=0)
        found[name] = Scores(score, unit="nats")
    passes = Passes((1 + permutations * model.graph.num_units) * len(targets))
    return Evidence(found, passes)


def shapley_values(
    model: SwitchedNetwork,
    site: str,
    orders: Sequence[Tensor],
    inputs: Any,
    targets: Tensor,
    before: Tensor,
) -> Tensor:
    """The mean credit of every unit over orders of removal, for each example: [K, n], in nats.

    Args:
        model: the switched network.
        site: whose units are the players.
        orders: permutations [K] of the units, first to go first.
        inputs: n examples.
        targets: of the examples.
        before: [n], the losses with all units kept.
    """
    values = torch.zeros(model.sites[site].size, len(targets), dtype=torch.float64)
    for i, order in enumerate(orders, 1):
        turn = order.argsort()
        masks = (turn > torch.arange(len(order))[:, None]).double()  # row j: after j + 1 removals
        label = f"shapley {site} {i}/{len(orders)}"
        losses = masked_losses(model, site, masks, inputs, targets, label)
        values[order] += losses.diff(dim=0, prepend=before[None]) / len(orders)
    return values
