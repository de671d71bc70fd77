"""The expected log predictive density on held-out images: the headline."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import logsumexp

from ...model.errors import DirpruneError
from .findings import Finding, Floats, finding, group


def elpd(tree: xr.DataTree) -> Finding:
    r"""The expected log predictive density of an image, and its standard error, in nats.

    .. math:: \frac{1}{n} \sum_i \log \frac{1}{S} \sum_s p(y_i | x_i, s), \quad se = sd_i / \sqrt{n}

    On images that neither switches nor weights have seen it compares guides, priors and
    temperatures. It is no absolute measure, and the error covers the choice of images alone. For
    classes two marks stand beside it: guessing by the classes' frequencies, -sum_c f_c log f_c, and
    the trained network itself, at gains of 1.

    Raises:
        DirpruneError: the tree has no group ``validation``.
    """
    validation = held_out_group(tree)
    each = log_predictive(validation["log_likelihood"].stack(s=("chain", "draw")).values.T)
    value, se = mean_and_error(each)
    found: dict[str, Any] = {"elpd": value, "se": None if math.isnan(se) else se}
    found["images"] = len(each)
    beside = ""
    if "probabilities" in validation:
        targets = validation["targets"].values.astype(int)
        found["chance"] = chance(targets)
        beside = f"; guessing by the frequency of classes gives {found['chance']:.4f}"
    if "network_probabilities" in validation:
        own = validation["network_probabilities"].values[np.arange(len(targets)), targets]
        found["network"] = float(np.log(np.maximum(own, 1e-300)).mean())
        beside += f", the trained network itself {found['network']:.4f}"
    error = "" if math.isnan(se) else f", standard error {se:.4f}"
    text = (
        f"The expected log predictive density is {value:.4f} nats per image{error}, over "
        f"{len(each):,} validation images{beside}. It is to compare with that of other guides, "
        "priors and temperatures on the same images."
    )
    return finding("elpd", found, text, None)


def held_out_group(tree: xr.DataTree) -> xr.Dataset:
    """The group ``validation``.

    Raises:
        DirpruneError: it is not there.
    """
    if "validation" not in tree.children:
        raise DirpruneError("the DataTree has no group 'validation': no images were held out")
    return group(tree, "validation")


def log_predictive(log_likelihood: Floats) -> Floats:
    """log mean_s p(y_i | x_i, s) of every image, from log p(y_i | x_i, s) [S, n], in nats.

    >>> log_predictive(np.log([[0.25, 1.0], [0.75, 1.0]])).round(4).tolist()
    [-0.6931, 0.0]
    """
    if log_likelihood.ndim != 2 or 0 in log_likelihood.shape:
        raise DirpruneError(f"elpd: expected [draws, images], got {list(log_likelihood.shape)}")
    out: Floats = logsumexp(log_likelihood.astype(np.float64), axis=0)
    return out - math.log(len(log_likelihood))


def mean_and_error(each: Floats) -> tuple[float, float]:
    """The mean over images and its standard error (NaN for one image)."""
    error = each.std(ddof=1) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return float(each.mean()), float(error)


def chance(targets: np.ndarray[Any, Any]) -> float:
    """What the frequencies of the classes, and nothing else, predict: minus their entropy."""
    frequency = np.unique(targets, return_counts=True)[1] / len(targets)
    return float((frequency * np.log(frequency)).sum())
