"""How the posterior predicts held-out images: the group ``validation`` of the DataTree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..inference.fit import Fit
from ..inference.loop import Loader
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .evidence.switches import draw_switches, each_restart, fixed_images, predictions


def held_out(
    model: SwitchedNetwork,
    fit: Fit,
    loader: Loader,
    *,
    draws: int = 100,
    images: int = 500,
    seed: int = 0,
) -> xr.Dataset:
    r"""Log likelihoods and predicted probabilities of images that the posterior has not seen.

    .. math:: p(c | x_i) = \frac{1}{S} \sum_s p(c | x_i, s)

    Args:
        model: the switched network.
        fit: from :func:`~dirprune.inference.fit.fit` or ``sample``.
        loader: validation images; neither the switches nor the network may have seen them.
        draws: posterior draws of each restart.
        images: at most so many images, the first ones of the loader under a fixed seed.
        seed: of the draws and of the choice of images.

    Returns:
        ``log_likelihood`` (chain, draw, image): log p(y_i | x_i, s), untempered, in nats;
        ``targets`` (image). Where the likelihood is categorical also ``probabilities`` (image,
        class), averaged over all draws of all restarts, and ``network_probabilities``, those of the
        trained network itself (gains of 1). Put it into the tree as ``tree["validation"] =
        xr.DataTree(held_out(...))``.

    Raises:
        DirpruneError: no draws or images asked for, or an empty loader.
    """
    for name, value in (("draws", draws), ("images", images)):
        if value < 1:
            raise DirpruneError(f"{name}: expected at least 1, got {value}")
    switches = draw_switches(model, fit, draws, seed).switches
    inputs, targets = fixed_images(model, loader, images, seed)
    parts = each_restart(
        model, fit, switches, lambda s: predict(model, model.gains(s), inputs, targets)
    )
    data: dict[str, Any] = {
        "log_likelihood": (
            ("chain", "draw", "image"),
            torch.stack([part.log_likelihood for part in parts]).numpy(),
        ),
        "targets": (
            ("image",) + ("target",) * (targets.dim() - 1),
            targets.cpu().numpy(),
        ),
    }
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    if probabilities:
        own = predict(model, model.unit_gains(), inputs, targets).probabilities
        assert own is not None  # the same likelihood gave classes under the switches
        data["probabilities"] = ("image", "class"), torch.stack(probabilities).mean(0).numpy()
        data["network_probabilities"] = ("image", "class"), own.numpy()
    found = xr.Dataset(data)
    return found.assign_coords({dim: np.arange(size) for dim, size in found.sizes.items()})


@dataclass(frozen=True)
class Predictions:
    """What S draws predict for n examples.

    Attributes:
        log_likelihood: [S, n], log p(y_i | x_i, s), untempered, in nats.
        right: [S, n], is the most probable class the right one? 1 or 0; None where the likelihood
            is not of one class for each example.
        probabilities: [n, C], the mean over draws; None likewise.
    """

    log_likelihood: Tensor
    right: Tensor | None
    probabilities: Tensor | None


def predict(
    model: SwitchedNetwork,
    gains: Mapping[str, Tensor],
    inputs: Any,
    targets: Tensor,
    *,
    label: str = "held-out images",
) -> Predictions:
    """Every draw of the gains, site -> [S, K], on every example."""
    number, count = len(next(iter(gains.values()))), len(targets)
    log_likelihood = torch.empty(number * count, dtype=torch.float64)
    right = torch.empty_like(log_likelihood)
    total: Tensor | None = None
    labels = targets.cpu()
    for rows, values, classes in predictions(model, gains, inputs, targets, label=label):
        log_likelihood[rows] = values
        if classes is not None:
            example = rows % count
            right[rows] = (classes.argmax(1) == labels[example]).double()
            if total is None:
                total = torch.zeros(count, classes.shape[1], dtype=torch.float64)
            total.index_add_(0, example, classes)
    return Predictions(
        log_likelihood.view(number, count),
        None if total is None else right.view(number, count),
        None if total is None else total / number,
    )
