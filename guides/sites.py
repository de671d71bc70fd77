"""What guides ask of a model and of its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints


def latent_part(model: Callable[..., Any]) -> Callable[..., Any]:
    """The model without its data, where it has such a part.

    Pyro's guides take whatever is not observed when they are set up for latent, the targets too.
    """
    latent = getattr(model, "sample_switches", None)
    if latent is None:
        return model

    def sample_switches(*args: Any, **kwargs: Any) -> Any:
        return latent()

    return sample_switches


def attribute(key: str, site_name: str) -> str:
    """The attribute that holds a site's parameter: never one of a module's own, never nested."""
    return f"{key}/{site_name.replace('.', '/')}"


def has_support(fn: Any, wanted: constraints.Constraint) -> bool:
    """Does a site's distribution live on this support, its event dimensions aside?"""
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is wanted or (
        # Half-lines are made anew by each distribution.
        wanted is constraints.positive
        and isinstance(support, constraints.greater_than | constraints.greater_than_eq)
        and bool(torch.as_tensor(support.lower_bound == 0).all())
    )


def prior_mean(site: Any) -> Tensor:
    """Where to start: the prior's mean or, where that is not implemented, the simplex's centre."""
    fn, value = site["fn"], site["value"]
    try:
        mean = fn.mean
    except NotImplementedError:
        mean = torch.full_like(value, 1 / value.shape[-1])
    return mean.detach().expand(fn.shape()).clone()
