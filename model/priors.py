"""Priors of the switches.

A prior is a callable from a :class:`~dirprune.model.sites.Site` to a Pyro distribution on the
simplex of its units. Names and numbers stand for the usual ones.

Concentrations are float64: with small ones, float32 draws of a Dirichlet sit at the clamp (43 % of
the components at concentration 0.01; in float64 0.07 %), and alpha/K is small by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch.distributions import constraints

from .errors import DirpruneError, unknown_name
from .sites import Site

Prior = Callable[[Site], dist.TorchDistribution]


@dataclass(frozen=True)
class Symmetric:
    """Dirichlet(alpha, ..., alpha): alpha < 1 prefers few units, 1 is flat, > 1 prefers all."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check(self.alpha)

    def __call__(self, site: Site) -> dist.Dirichlet:
        return dist.Dirichlet(torch.full((site.size,), self.alpha, dtype=torch.float64))


@dataclass(frozen=True)
class AlphaOverK:
    """Dirichlet(alpha/K, ..., alpha/K): a total concentration of alpha whatever the width K."""

    alpha: float = 1.0

    def __post_init__(self) -> None:
        _check(self.alpha)

    def __call__(self, site: Site) -> dist.Dirichlet:
        return dist.Dirichlet(torch.full((site.size,), self.alpha / site.size, dtype=torch.float64))


PRIORS: dict[str, Callable[[float], Prior]] = {"symmetric": Symmetric, "alpha/K": AlphaOverK}


def make_prior(spec: str | float | Prior) -> Prior:
    """A prior from a name ("symmetric", "alpha/K", "symmetric:0.3"), a number or a callable.

    >>> make_prior(0.5)(Site("conv1", 2, (), ())).concentration.tolist()
    [0.5, 0.5]
    >>> make_prior("alpha/K:1")(Site("conv1", 4, (), ())).concentration.tolist()
    [0.25, 0.25, 0.25, 0.25]

    Raises:
        DirpruneError: an unknown name, or a concentration that is not a positive number.
    """
    if isinstance(spec, str):
        name, colon, value = spec.partition(":")
        if name not in PRIORS:
            try:
                alpha = float(spec)
            except ValueError:
                raise unknown_name("prior", name, PRIORS) from None
            return Symmetric(alpha)
        try:
            alpha = float(value) if colon else 1.0
        except ValueError:
            raise DirpruneError(
                f"prior {spec!r}: expected a number after the colon, as in {name}:0.5"
            ) from None
        return PRIORS[name](alpha)
    if isinstance(spec, int | float) and not isinstance(spec, bool):
        return Symmetric(float(spec))
    if callable(spec):
        return spec
    raise DirpruneError(
        f"prior: expected a name, a number or a callable Site -> Distribution, got {spec!r}"
    )


def check_on_simplex(distribution: object, site: Site) -> dist.TorchDistribution:
    """Refuse a prior that is not a distribution over the simplex of the site's units."""
    shape = getattr(distribution, "event_shape", None)
    batch = getattr(distribution, "batch_shape", None)
    support = getattr(distribution, "support", None)
    if shape != (site.size,) or batch != () or support is not constraints.simplex:
        raise DirpruneError(
            f"prior of site {site.name!r}: expected a distribution on the simplex of {site.size} "
            f"units (batch shape (), event shape ({site.size},)), got {distribution!r}"
        )
    return distribution  # type: ignore[return-value]


def _check(alpha: float) -> None:
    if not (math.isfinite(alpha) and alpha > 0):
        raise DirpruneError(f"prior: a concentration must be positive and finite, got {alpha}")
