"""Likelihoods: from a network's outputs to the distribution of the targets."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from .errors import DirpruneError, unknown_name

Likelihood = Callable[[Tensor], dist.TorchDistribution]


class Categorical(nn.Module):
    """y_i ~ Categorical(softmax(f(x_i))): logits [B, C], targets [B] of class indices."""

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=outputs)


class Gaussian(nn.Module):
    """y_i ~ Normal(f(x_i), scale); outputs and targets [B, D].

    ``log_scale`` is a parameter, learned together with the guide by maximising the ELBO (an
    empirical-Bayes estimate of the noise, not a posterior over it).
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        normal = dist.Normal(outputs, self.log_scale.exp().to(outputs.dtype))
        return normal.to_event(outputs.dim() - 1)


LIKELIHOODS: dict[str, Callable[[], nn.Module]] = {
    "categorical": Categorical,
    "gaussian": Gaussian,
}


def make_likelihood(spec: str | Likelihood) -> Likelihood:
    """A likelihood from its name, or a callable outputs -> Distribution as it is."""
    if isinstance(spec, str):
        if spec not in LIKELIHOODS:
            raise unknown_name("likelihood", spec, LIKELIHOODS)
        return LIKELIHOODS[spec]()
    if callable(spec):
        return spec
    raise DirpruneError(
        f"likelihood: expected a name or a callable outputs -> Distribution, got {spec!r}"
    )
