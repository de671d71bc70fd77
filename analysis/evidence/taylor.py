"""First-order Taylor importance (Taylor-FO)."""

from __future__ import annotations

import torch
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
    inputs, targets = material.images(images)
    count = len(targets)
    batches = torch.arange(count).tensor_split(-(-count // batch))
    scores = {n: torch.zeros(s.size, dtype=torch.float64) for n, s in model.sites.items()}
    bar = tqdm(batches, desc="taylor", unit="batch", disable=None, leave=False)
    for slopes in example_slopes(model, inputs, targets, bar):
        for site, slope in slopes.items():
            scores[site] += slope.mean(0).square() / len(batches)
    return Evidence(
        {site: Scores(score, unit="squared nats") for site, score in scores.items()},
        Passes(count, count),
    )
