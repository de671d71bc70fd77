"""Differences of held-out scores between posteriors, paired over images and networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from arviz_stats.utils import ELPDData
from numpy.typing import NDArray

from ...model.errors import DirpruneError
from ..diagnostics.elpd import held_out_group, log_predictive

Floats = NDArray[np.float64]


def pointwise_elpd(tree: xr.DataTree) -> Floats:
    """The log predictive density of every validation image, over all draws of all chains: [images].

    Raises:
        DirpruneError: the tree has no group ``validation``.
    """
    values = held_out_group(tree)["log_likelihood"].transpose("chain", "draw", "image").values
    return log_predictive(values.reshape(-1, values.shape[-1]))


def elpd_data(tree: xr.DataTree) -> ELPDData:
    """The same as what ``az.compare`` takes, to compare posteriors of *one* network.

    ``az.compare({"one": elpd_data(a), "two": elpd_data(b)})`` gives sums over images, stacking
    weights and ``dse``. Its columns ``p`` and ``diag_elpd`` say nothing here: they are about
    leave-one-out, and these images were never in. Over several networks its ``dse`` would take
    their images for so many independent ones; :func:`paired_difference` does not.
    """
    values = pointwise_elpd(tree)
    number, sizes = len(values), tree["validation"]["log_likelihood"].sizes
    return ELPDData(
        elpd=float(values.sum()),
        se=float(np.sqrt(number * values.var())),
        p=math.nan,
        n_samples=int(sizes["chain"] * sizes["draw"]),
        n_data_points=number,
        scale="log",
        warning=False,
        good_k=math.nan,
        elpd_i=xr.DataArray(values, dims="image"),
    )


def paired_difference(
    first: Sequence[Floats], second: Sequence[Floats], *, same_images: bool = False
) -> tuple[float, float]:
    r"""The mean of ``first - second`` over networks and their images, and its standard error.

    .. math:: \bar d = \frac{1}{S} \sum_s \bar d_s, \quad
        se^2 = \max\left(\frac{1}{S^2} \sum_s \frac{v_s}{n_s}, \; \frac{V}{S}\right)

    with :math:`\bar d_s` and :math:`v_s` the mean and the variance of the differences over the
    :math:`n_s` images of network s, and V the variance of :math:`\bar d_s` over networks: a
    random-effects estimate by moments with equal weights, so that V holds the choice of the images
    too and counts unless it is by chance the smaller. With one network the error is that of the
    choice of images alone, and with few networks it is itself uncertain by
    :math:`1/\sqrt{2(S-1)}`.

    Where every s has the *same* images (``same_images``: one network, several seeds of SVI), images
    and seeds are crossed factors and their parts add up, less what both contain of the residual.

    Args:
        first: per network, the score of every image [n_s].
        second: the same images' scores under the other posterior.

    Raises:
        DirpruneError: scores that do not pair.

    References:
        Rebecca DerSimonian, Nan Laird, "Meta-analysis in clinical trials", 1986 (by moments);
        A. Colin Cameron, Jonah Gelbach, Douglas Miller, "Robust inference with multiway
        clustering", 2011 (crossed factors).
    """
    sizes = [len(a) for a in first], [len(b) for b in second]
    if sizes[0] != sizes[1] or not sizes[0] or min(sizes[0]) < 2:
        raise DirpruneError(
            f"scores to pair: expected the same images, two at least, got {sizes[0]} and {sizes[1]}"
        )
    d = [np.asarray(a) - np.asarray(b) for a, b in zip(first, second, strict=True)]
    number, means = len(d), np.array([x.mean() for x in d])
    if same_images:
        table = np.stack(d)
        each = table.mean(0)
        images = each.var(ddof=1) / len(each)
    else:
        images = np.mean([x.var(ddof=1) / len(x) for x in d]) / number
    if number == 1:
        return float(means[0]), math.sqrt(images)
    seeds = means.var(ddof=1) / number
    if same_images:
        rest = table - means[:, None] - each + means.mean()
        both = (rest**2).sum() / ((number - 1) * (len(each) - 1)) / table.size
        variance = max(images, images + seeds - both)
    else:
        variance = max(images, seeds)
    return float(means.mean()), math.sqrt(variance)
