"""The Fisher diagonal of the gains at the point estimate: Optimal Brain Damage."""

from __future__ import annotations

import torch
from tqdm import tqdm

from .material import Material
from .scores import Evidence, Passes, Scores
from .slopes import example_slopes

FISHER_IMAGES = 4096  # few examples of a trained network carry most of it


def fisher(material: Material, *, images: int = FISHER_IMAGES) -> Evidence:
    r"""Keep the units with a large empirical Fisher information of their gain, at gains of one.

    .. math:: n_k = E_i\left[\left(g_k \, \partial \ell_i / \partial g_k\right)^2\right]

    Half of it estimates the rise of the loss in nats when the unit alone goes. It is the removal
    cost at the trained network itself, with no posterior; ``taylor`` takes the mean over a batch
    before it squares.

    Args:
        material: a model and a loader.
        images: training images.

    References:
        Yann LeCun, John Denker, Sara Solla, "Optimal Brain Damage", 1989 (no arXiv id), of single
        weights; Lucas Theis, Iryna Korshunova, Alykhan Tejani, Ferenc Huszar, "Faster gaze
        prediction with dense networks and Fisher pruning", 2018, arXiv 1801.05787, of channels.
    """
    model, count = material.model, 0
    scores = {n: torch.zeros(s.size, dtype=torch.float64) for n, s in model.sites.items()}
    with material.batches(images) as batches:
        bar = tqdm(batches, desc="fisher", unit="batch", disable=None, leave=False)
        for inputs, targets in bar:
            _, slopes = example_slopes(model, inputs, targets)
            count += len(targets)
            for site, slope in slopes.items():
                scores[site] += slope.double().square().sum(0)
    return Evidence(
        {site: Scores(score / count, unit="nats") for site, score in scores.items()},
        Passes(count, count),
    )
