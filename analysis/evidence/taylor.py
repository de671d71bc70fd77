"""First-order Taylor importance (Taylor-FO)."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from .material import Material
from .scores import Evidence, Passes, Scores
from .slopes import example_slopes

TAYLOR_IMAGES, TAYLOR_BATCH = 4096, 32


def taylor(
    material: Material, *, images: int = TAYLOR_IMAGES, batch: int = TAYLOR_BATCH
) -> Evidence:
    r"""Keep the units whose gains the loss of a batch depends on most.

    .. math:: n_k = E_b\left[\left(g_k \, \frac{\partial}{\partial g_k} \frac{1}{|b|}
        \sum_{i \in b} \ell_i\right)^2\right]

    at gains g of one, over batches b: the squared first-order change of a batch's mean loss when
    the unit goes, with the gate where the next layer reads the unit, after batch norm and
    activation. The mean is taken *before* squaring; with batches of one image it is ``fisher``.

    Args:
        material: a model and a loader.
        images: training images.
        batch: images of a batch; the batches are as even as can be, and no larger.

    References:
        Pavlo Molchanov, Arun Mallya, Stephen Tyree, Iuri Frosio, Jan Kautz, "Importance Estimation
        for Neural Network Pruning", 2019, arXiv 1906.10771.
    """
    model = material.model
    parts: dict[str, list[Tensor]] = {site: [] for site in model.sites}
    with material.batches(images) as batches:
        bar = tqdm(batches, desc="taylor", unit="batch", disable=None, leave=False)
        for inputs, targets in bar:
            _, slopes = example_slopes(model, inputs, targets)
            for site, slope in slopes.items():
                parts[site].append(slope)
    # How batches are even is known when all images have been seen: slopes are held, a number for
    # each unit, which are few beside an image's pixels and activations.
    scores, count = {}, 0
    for site in model.sites:
        found = torch.cat(parts.pop(site))
        count = len(found)
        means = [s.double().mean(0) for s in found.tensor_split(-(-count // batch))]
        scores[site] = Scores(torch.stack(means).square().mean(0), unit="squared nats")
    return Evidence(scores, Passes(count, count))
