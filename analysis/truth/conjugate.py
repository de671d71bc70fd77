"""The conjugate problem: a network that answers with its switch, and counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyro.distributions as dist
import torch
from scipy.special import gammaln
from torch import nn

from ...model.errors import DirpruneError
from ...model.priors import Symmetric
from ...model.switched import SwitchedNetwork
from .problem import Problem, frozen
from .references import DirichletReference, Floats

COUNTS = (10, 3, 1, 0)


def dirichlet_multinomial(counts: Sequence[int] = COUNTS, alpha: float = 1.0) -> Problem:
    r"""Counts of a categorical variable whose probabilities are the switch.

    .. math::
        s &\sim \text{Dirichlet}(\alpha, \dots, \alpha), \quad y_i \sim \text{Categorical}(s) \\
        s \mid y &\sim \text{Dirichlet}(\alpha + n), \quad
        \log p(y) = \log B(\alpha + n) - \log B(\alpha)

    with n the counts and B the multivariate beta function. The network is linear of K units, each
    of which is 1, and reads them one by one; with ``scaling="simplex"`` its output is s.

    Args:
        counts: how often each of the K >= 2 classes was seen.
        alpha: the prior's concentration.

    Raises:
        DirpruneError: counts that are none, or none at all.
    """
    n = np.asarray(counts, dtype=np.int64)
    if n.ndim != 1 or len(n) < 2 or (n < 0).any() or n.sum() == 0:
        raise DirpruneError(f"counts: expected two or more whole numbers, not all 0, got {counts}")
    size, total = len(n), int(n.sum())
    network = nn.Sequential(nn.Linear(1, size, bias=False), nn.Linear(size, size, bias=False))
    with torch.no_grad():
        network[0].weight.fill_(1.0)  # type: ignore[operator]
        network[1].weight.copy_(torch.eye(size))  # type: ignore[operator]
    inputs = torch.ones(total, 1, dtype=torch.float64)
    targets = torch.repeat_interleave(torch.arange(size), torch.from_numpy(n))
    model = SwitchedNetwork(
        frozen(network),
        inputs[:2],
        num_data=total,
        prior=Symmetric(alpha),
        likelihood=probabilities,
        scaling="simplex",
    )
    (site,) = model.sites
    phi = alpha + n.astype(np.float64)
    evidence = _log_beta(phi) - _log_beta(np.full(size, float(alpha)))
    # Shuffled: Particles gives example i the draw i mod P, and every draw should see every class.
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    return Problem(
        "dirichlet-multinomial",
        model,
        [(inputs, targets[order])],
        DirichletReference(site, phi, evidence),
    )


def probabilities(outputs: torch.Tensor) -> dist.Categorical:
    """y_i ~ Categorical(f(x_i)): outputs [B, C] that are probabilities already."""
    return dist.Categorical(probs=outputs)


def _log_beta(a: Floats) -> float:
    return float(gammaln(a).sum() - gammaln(a.sum()))
