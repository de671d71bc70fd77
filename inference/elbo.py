"""The ELBO of a guide that is learned already, by fresh draws."""

from __future__ import annotations

import math

import pyro
import torch
from pyro.infer.autoguide import AutoGuide

from ..guides import elbo_for
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .loop import Loader, move_batch, same_batches, seed_generators
from .particles import Particles


def estimate_elbo(
    model: SwitchedNetwork,
    guide: AutoGuide,
    loader: Loader,
    *,
    passes: int = 1,
    particles: int = 4,
    seed: int = 0,
) -> tuple[float, float]:
    r"""The ELBO, with fresh draws for every batch, and its standard error, in nats.

    .. math:: \tau \frac{N}{B} \sum_{i \in batch} E_q[\log p(y_i | x_i, s)] - KL(q || p)

    averaged over batches, each weighted by its size. ELBOs compare between guides and priors at one
    temperature; only at temperature 1 do they bound the evidence. The standard error takes batches
    for independent, which overstates it where they are drawn without replacement, and needs two.

    Args:
        model: the switched network.
        guide: one guide; it is not changed.
        loader: batches of (inputs, targets) of the training set.
        passes: how often to go through the loader.
        particles: P, independent switches in a batch.
        seed: of the draws and the loader's order.

    Returns:
        The estimate and its standard error (NaN for a single batch).

    Raises:
        DirpruneError: the loader is empty, or a number is not at least 1.
    """
    for name, number in (("passes", passes), ("particles", particles)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise DirpruneError(f"{name}: expected a whole number of at least 1, got {number!r}")
    loss, values, sizes = elbo_for(guide), [], []
    with (
        same_batches(loader, [seed], model.device),
        pyro.get_param_store().scope(),
        pyro.validation_enabled(False),
        torch.no_grad(),
    ):
        for number in range(passes):
            seed_generators(loader, [seed, number])
            for batch in loader:
                inputs, targets = move_batch(batch, model.device)
                with Particles(particles):
                    values.append(-loss.loss(model, guide, inputs, targets))
                sizes.append(len(targets))
    if not values:
        raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")
    value, size = torch.tensor(values, dtype=torch.float64), torch.tensor(sizes).double()
    weight = size / size.sum()
    mean = float(weight @ value)
    if len(values) < 2:
        return mean, math.nan
    n = len(values)
    variance = float((weight.square() * (value - mean).square()).sum()) * n / (n - 1)
    return mean, math.sqrt(variance)
