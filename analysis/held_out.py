"""How the posterior predicts held-out images: the group ``validation`` of the DataTree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.distributions import Categorical

from ..inference.fit import Fit
from ..inference.loop import Loader
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .evidence.switches import draw_switches, each_restart, fixed_images, grid, take, usual_batch


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
    parts = each_restart(model, fit, switches, lambda s: _predict(model, s, inputs, targets))
    data: dict[str, Any] = {
        "log_likelihood": (
            ("chain", "draw", "image"),
            torch.stack([part[0] for part in parts]).numpy(),
        ),
        "targets": (
            ("image",) + ("target",) * (targets.dim() - 1),
            targets.cpu().numpy(),
        ),
    }
    probabilities = [part[1] for part in parts if part[1] is not None]
    if probabilities:
        data["probabilities"] = ("image", "class"), torch.stack(probabilities).mean(0).numpy()
        data["network_probabilities"] = (
            ("image", "class"),
            _network(model, inputs, len(targets)).numpy(),
        )
    found = xr.Dataset(data)
    return found.assign_coords({dim: np.arange(size) for dim, size in found.sizes.items()})


def _predict(
    model: SwitchedNetwork, switches: Mapping[str, Tensor], inputs: Any, targets: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Log likelihoods [S, n] and mean probabilities [n, C], by one pass for each draw and image."""
    number, count = len(next(iter(switches.values()))), len(targets)
    log_likelihood = torch.empty(number * count, dtype=torch.float64)
    total: Tensor | None = None
    with torch.no_grad():
        for rows in grid(number, count, usual_batch(inputs), "held-out images"):
            draw, example = rows // count, rows % count
            chosen = {name: s[draw].to(model.device) for name, s in switches.items()}
            here = example.to(model.device)
            predicted = model.likelihood(model.outputs(take(inputs, here), chosen))
            log_likelihood[rows] = predicted.log_prob(targets[here]).double().cpu()
            each = _classes(predicted)
            if each is not None:
                if total is None:
                    total = torch.zeros(count, each.shape[1], dtype=torch.float64)
                total.index_add_(0, example, each)
    return log_likelihood.view(number, count), None if total is None else total / number


def _network(model: SwitchedNetwork, inputs: Any, count: int) -> Tensor:
    """The probabilities [n, C] of the trained network on all ``count`` images."""
    ones = model.unit_gains()
    parts = []
    with torch.no_grad():
        for rows in torch.arange(count, device=model.device).split(usual_batch(inputs)):
            outputs = model.outputs_at_gains(take(inputs, rows), ones)
            each = _classes(model.likelihood(outputs))
            assert each is not None  # the same likelihood gave classes under the switches
            parts.append(each)
    return torch.cat(parts)


def _classes(predicted: Any) -> Tensor | None:
    """[B, C] of one class per example; None for other distributions."""
    if isinstance(predicted, Categorical) and len(predicted.batch_shape) == 1:
        return predicted.probs.double().cpu()
    return None
