"""Guides by name: the registry, and how a name and options become a guide of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide, AutoGuideList

from ..model.errors import DirpruneError, unknown_name
from . import pyro_guides
from .base import SwitchGuide
from .dirichlet import AutoDirichlet
from .generalized_dirichlet import AutoGeneralizedDirichlet
from .log_normal import AutoLogNormal
from .logistic_normal import AutoLogisticNormal
from .low_rank import AutoLowRankLogisticNormal
from .sites import has_support, latent_part


@dataclass(frozen=True)
class Family:
    """A kind of guide.

    Attributes:
        make: a class or function (model, **options) -> guide.
        summary: what it is, in a line.
        right_elbo: the name of the ELBO that is right for it.
        lr: Adam's first step size that suits it.
    """

    make: Callable[..., AutoGuide]
    summary: str
    right_elbo: str
    lr: float = 0.05

    @cached_property
    def options(self) -> dict[str, Any]:
        """The options that ``make`` takes, with their defaults."""
        return {
            p.name: p.default
            for p in inspect.signature(self.make).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name not in ("create_plates", "prototype_args")
        }


GUIDES: dict[str, Family] = {
    "dirichlet": Family(AutoDirichlet, "independent Dirichlets, one a site", "TraceMeanField_ELBO"),
    "generalized-dirichlet": Family(
        AutoGeneralizedDirichlet,
        "independent generalized Dirichlets (Connor-Mosimann), one a site",
        "TraceMeanField_ELBO",
        lr=0.1,  # at .05 its ELBO on the digits is 6 nats short after 400 steps
    ),
    "logistic-normal": Family(
        AutoLogisticNormal, "independent logistic normals, one a site", "TraceMeanField_ELBO"
    ),
    "low-rank-logistic-normal": Family(
        AutoLowRankLogisticNormal,
        "one logistic normal over all sites: units of two layers may trade off",
        "TraceMeanField_ELBO",
    ),
    "delta": Family(pyro_guides.delta, "Pyro's AutoDelta: the mode alone", "Trace_ELBO"),
    "normal": Family(
        pyro_guides.normal, "Pyro's AutoNormal: independent normals, stick breaking", "Trace_ELBO"
    ),
    "low-rank-normal": Family(
        pyro_guides.low_rank_normal,
        "Pyro's AutoLowRankMultivariateNormal: one normal over all sites, stick breaking",
        "Trace_ELBO",
    ),
    "iaf-normal": Family(
        pyro_guides.iaf_normal,
        "Pyro's AutoIAFNormal: an inverse autoregressive flow over all sites, stick breaking",
        "Trace_ELBO",
        lr=0.005,  # at .05 its loss runs away within ten steps, at .02 it ends far off
    ),
}


def make_guide(name: str, model: Any, options: Mapping[str, Any] | None = None) -> AutoGuide:
    """The guide of that name for a model.

    Pyro's guides take every latent site. Ours take sites on the simplex: where the prior has
    parameters of its own (``model.hyper_sites``), those get an :class:`AutoLogNormal` beside it in
    an ``AutoGuideList``.

    Raises:
        DirpruneError: an unknown name, an option of another guide, or a value that it refuses.
    """
    options = options or {}
    check_options(name, options)
    family = GUIDES[name]
    hyper = list(getattr(model, "hyper_sites", ()))
    try:
        if not hyper or not (
            isinstance(family.make, type) and issubclass(family.make, SwitchGuide)
        ):
            return family.make(model, **options)
        latent = latent_part(model)
        _check_positive_support(name, latent, hyper)
        guide = AutoGuideList(latent)
        for part in (
            family.make(poutine.block(latent, hide=hyper), **options, prototype_args=()),
            AutoLogNormal(poutine.block(latent, expose=hyper), prototype_args=()),
        ):
            guide.append(part)
        # Now, not at the first call: Pyro takes the model from a list that is copied or saved.
        guide._setup_prototype()
        return guide
    except (ValueError, TypeError, AttributeError) as error:
        raise DirpruneError(f"guide {name!r}: {error}") from error


def _check_positive_support(name: str, latent: Callable[..., Any], hyper: list[str]) -> None:
    """Ours have a guide for what is positive; Pyro's take any parameter of a prior."""
    with poutine.block(), torch.random.fork_rng([]):
        trace = poutine.trace(latent).get_trace()
    for site in hyper:
        fn: Any = trace.nodes[site]["fn"]
        if not has_support(fn, AutoLogNormal.support):
            raise ValueError(
                f"the prior's parameter {site!r} is a {type(fn).__name__} with support "
                f"{fn.support}: expected one on the positive half-line (Gamma, LogNormal, "
                "HalfCauchy). The guides 'normal' and 'low-rank-normal' take any"
            )


def parse_guide(spec: str) -> tuple[str, dict[str, float]]:
    """A guide with its options, as one writes them in a list of guides.

    >>> parse_guide("low-rank-logistic-normal:rank=5:init-scale=0.1")
    ('low-rank-logistic-normal', {'rank': 5, 'init_scale': 0.1})

    Raises:
        DirpruneError: not of that form, an unknown guide, or an option that it does not have.
    """
    name, *parts = spec.split(":")
    if name not in GUIDES:
        raise unknown_name("guide", name, GUIDES)
    options = parse_options(parts, f"guide {spec!r}", f"{name}:OPTION=NUMBER:...")
    check_options(name, options)
    return name, options


def parse_options(parts: Iterable[str], what: str, form: str) -> dict[str, float]:
    """``["rank=10", "init-scale=0.1"]`` as a mapping; whole numbers stay whole.

    Args:
        parts: an option each.
        what: where they come from, for the message.
        form: what was expected there.
    """
    found: dict[str, float] = {}
    for part in parts:
        name, _, value = part.partition("=")
        name = name.strip().replace("-", "_")
        try:
            number = float(value)
        except ValueError:
            raise DirpruneError(f"{what}: expected {form}") from None
        if name in found:
            raise DirpruneError(f"{what}: {name} is given twice")
        found[name] = int(number) if value.strip().lstrip("+-").isdigit() else number
    return found


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse an unknown guide, options that it does not have, and values that are no numbers."""
    if name not in GUIDES:
        raise unknown_name("guide", str(name), GUIDES)
    if not isinstance(options, Mapping):
        raise DirpruneError(
            f"guide_options: expected a mapping, as in {{'rank': 10}}, got {options!r}"
        )
    known = GUIDES[name].options
    for option, value in options.items():
        if option not in known:
            others = [n for n, f in GUIDES.items() if option in f.options]
            of = f"; it is an option of {', '.join(others)}" if others else ""
            has = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
            raise DirpruneError(f"guide {name!r} has no option {option!r}{of}. It has: {has}")
        # Python's own numbers alone: settings and checkpoints hold them, as JSON.
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and not (value is None and known[option] is None):
            raise DirpruneError(
                f"guide {name!r}: option {option!r}: expected a number, as in {option}="
                f"{known[option]}, got {value!r}"
            )
