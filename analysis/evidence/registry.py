"""Criteria by name, and their options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...guides.families import parse_options
from ...model.errors import DirpruneError, unknown_name
from ...model.options import check_numbers, keyword_options
from .among_best import among_best
from .apoz import apoz
from .bn_scale import bn_scale
from .concentration import concentration
from .fisher import fisher
from .leave_one_out import leave_one_out
from .posterior_mean import posterior_mean
from .random_scores import random
from .reconstruction import reconstruction
from .removal_cost import expected_removal_cost
from .scores import Evidence
from .shapley import shapley
from .snr import signal_to_noise
from .structured_bayesian import bmrs, bmrs_uniform, structured_bayesian
from .taylor import taylor
from .weight_norms import l1_norm, l2_norm

POSTERIOR, IMAGES = "posterior", "images"


@dataclass(frozen=True)
class Criterion:
    """A criterion that has a name.

    Attributes:
        score: (:class:`~.material.Material`, **options) -> :class:`~.scores.Evidence`; its options
            are numbers, keyword-only, with defaults.
        summary: a line about it.
        reads: what it needs beside the network: "posterior", "images", both or neither.
        own: is it of this project, though it reads no posterior? The others that read none are of
            the literature, rivals in a comparison.
    """

    score: Callable[..., Evidence]
    summary: str
    reads: tuple[str, ...] = ()
    own: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Its options with their defaults."""
        return keyword_options(self.score)


CRITERIA: dict[str, Criterion] = {
    "removal-cost": Criterion(
        expected_removal_cost,
        "expected squared relative gradient of a gain over the posterior",
        (POSTERIOR, IMAGES),
    ),
    "concentration": Criterion(
        concentration, "posterior concentration of a Dirichlet guide", (POSTERIOR,)
    ),
    "mean": Criterion(posterior_mean, "posterior mean of a gain", (POSTERIOR,)),
    "snr": Criterion(
        signal_to_noise, "posterior mean of a switch over its standard deviation", (POSTERIOR,)
    ),
    "among-best": Criterion(
        among_best, "posterior probability to be among the best share of a site", (POSTERIOR,)
    ),
    "fisher": Criterion(
        fisher, "squared slope of each example's loss in a gain (OBD's diagonal)", (IMAGES,)
    ),
    "taylor": Criterion(
        taylor, "squared slope of a batch's mean loss in a gain (Taylor-FO)", (IMAGES,)
    ),
    "leave-one-out": Criterion(
        leave_one_out, "rise of the mean loss when the unit alone goes", (IMAGES,)
    ),
    "shapley": Criterion(
        shapley, "Shapley value of the loss within a site: mean + std x its spread", (IMAGES,)
    ),
    "reconstruction": Criterion(
        reconstruction,
        "the loss that least squares in the next layer cannot undo",
        (IMAGES,),
        own=True,
    ),
    "apoz": Criterion(apoz, "one minus the average percentage of zeros", (IMAGES,)),
    "bn-scale": Criterion(bn_scale, "scale of the unit's batch norm"),
    "l1-norm": Criterion(l1_norm, "L1 norm of the weights that produce the unit"),
    "l2-norm": Criterion(l2_norm, "L2 norm of the weights that produce the unit"),
    "random": Criterion(random, "at random: the floor"),
    "sbp": Criterion(
        structured_bayesian, "signal-to-noise of the log-normal noise that a unit bears", (IMAGES,)
    ),
    "bmrs": Criterion(
        bmrs, "log evidence that a spike at zero loses against SBP's prior (BMRS_N)", (IMAGES,)
    ),
    "bmrs-uniform": Criterion(
        bmrs_uniform, "log evidence that a prior cut to small noise loses (BMRS_U)", (IMAGES,)
    ),
}


def register_criterion(name: str, criterion: Criterion) -> None:
    """Make a criterion known by a name, to ``evidence`` and to the command line of this process.

    Raises:
        DirpruneError: the name is taken, or has a colon or a comma, which part options and names.
    """
    if name in CRITERIA:
        raise DirpruneError(f"evidence {name!r} exists already")
    if not name or any(mark in name for mark in ":, =/"):
        raise DirpruneError(f"evidence {name!r}: expected a name without spaces and :,=/")
    CRITERIA[name] = criterion


def parse_criterion(spec: str) -> tuple[str, dict[str, float]]:
    """A criterion with its options, as one writes them in a list of criteria.

    >>> parse_criterion("removal-cost:draws=16")
    ('removal-cost', {'draws': 16})

    Raises:
        DirpruneError: not of that form, an unknown criterion, or an option that it does not have.
    """
    name, *parts = spec.split(":")
    if name not in CRITERIA:
        raise unknown_name("evidence", name, CRITERIA)
    options = parse_options(parts, f"evidence {spec!r}", f"{name}:OPTION=NUMBER:...")
    check_options(name, options)
    return name, options


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a criterion does not have, and values that they cannot have."""
    check_numbers(f"evidence {name!r}", CRITERIA[name].options, options)
