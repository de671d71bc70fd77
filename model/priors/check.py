"""What is asked of a prior before a model takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

from ..errors import DirpruneError
from ..sites import Site
from .base import Prior

RESERVED = ("targets", "data")  # the model's own statements beside the switches


def check_prior(
    prior: Prior, sites: Mapping[str, Site], device: torch.device | str = "cpu"
) -> tuple[str, ...]:
    """Run a prior once for every site, and again under a plate where it has hyper-parameters.

    The caller's random state, handlers and parameter store stay as they are.

    Returns:
        The names of its hyper-parameters: the latent sites that are not switches.

    Raises:
        DirpruneError: it fails, is not on the simplex of the site's units, does not work under a
            plate, or a hyper-parameter has a name that is taken.
    """
    found: dict[str, str] = {}
    on = torch.device(device)
    with (
        torch.random.fork_rng([on] if on.type == "cuda" else []),
        torch.no_grad(),
        on,
        poutine.block(),
        pyro.get_param_store().scope(),
    ):
        for site in sites.values():
            distribution, names = _run(prior, site)
            check_on_simplex(distribution, site)
            for name in names:
                taken = "a switch" if name in sites else "of the model" if name in RESERVED else ""
                if name in found:
                    taken = f"a hyper-parameter of site {found[name]!r}"
                if taken:
                    raise DirpruneError(
                        f"prior of site {site.name!r}: its hyper-parameter {name!r} has a name "
                        f"that is taken ({taken}): name it '{site.name}_something'"
                    )
                found[name] = site.name
            if names:
                _check_under_a_plate(prior, site)
    return tuple(found)


def check_on_simplex(
    distribution: object, site: Site, batch_shape: tuple[int, ...] = ()
) -> dist.TorchDistribution:
    """Refuse what is not a distribution over the simplex of the site's units.

    It is drawn from once: the random state moves.
    """
    shape = getattr(distribution, "event_shape", None)
    batch = getattr(distribution, "batch_shape", None)
    support = getattr(distribution, "support", None)
    fits = shape == (site.size,) and batch == batch_shape and support is constraints.simplex
    if not fits or not isinstance(distribution, TorchDistributionMixin):
        raise DirpruneError(
            f"prior of site {site.name!r}: expected a distribution on the simplex of {site.size} "
            f"units (of pyro.distributions, batch shape {batch_shape}, event shape "
            f"({site.size},)), got {distribution!r}"
        )
    concentration = getattr(distribution, "concentration", None)
    if isinstance(concentration, Tensor):
        wrong = concentration[~(concentration.isfinite() & (concentration > 0))]
        if len(wrong):
            raise DirpruneError(
                f"prior of site {site.name!r}: concentrations must be positive and finite, got "
                f"{float(wrong[0])}"
            )
    draw = distribution.sample()
    # torch's own tolerance, 1e-6, is less than the rounding of a wide float32 sum.
    if not bool((draw >= 0).all()) or not bool(((draw.sum(-1) - 1).abs() < 1e-4).all()):
        raise DirpruneError(
            f"prior of site {site.name!r}: a draw from {distribution!r} is not on the simplex: "
            f"{draw.flatten()[:5].tolist()} ..."
        )
    return distribution


def _run(prior: Callable[[Site], object], site: Site) -> tuple[Any, list[str]]:
    """What a prior returns for a site, and the latent sites that it had on the way."""
    try:
        trace = poutine.trace(prior).get_trace(site)
    except DirpruneError:
        raise
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        raise DirpruneError(
            f"prior of site {site.name!r} raised {type(error).__name__}: {said}"
        ) from error
    names = [
        name
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not node["is_observed"] and not site_is_subsample(node)
    ]
    return trace.nodes["_RETURN"]["value"], names


def _check_under_a_plate(prior: Prior, site: Site) -> None:
    """Guides and draws run the model under plates: hyper-parameters then have a batch shape."""
    # K + 1 draws: were it K, a batch of [K] would pass for the units without a word.
    number = site.size + 1
    try:
        with pyro.plate("_check", number, dim=-1):
            distribution, _ = _run(prior, site)
        check_on_simplex(distribution, site, (number,))
    except DirpruneError as error:
        raise DirpruneError(
            f"prior of site {site.name!r} does not work under a plate of {number} draws, where a "
            f"scalar hyper-parameter has shape ({number},): give it a last axis by "
            f"unsqueeze(-1). {error}"
        ) from error
