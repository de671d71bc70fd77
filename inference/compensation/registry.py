"""Compensations by name, and their options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...guides.families import parse_options
from ...model.errors import unknown_name
from ...model.options import check_numbers, keyword_options
from .fold_gains import fold_gains
from .least_squares import least_squares
from .recalibration import recalibrate_norms
from .task import Report

GAINS, IMAGES = "gains", "images"


@dataclass(frozen=True)
class Compensation:
    """A compensation that has a name.

    Attributes:
        apply: (:class:`~.task.Task`, network, **options) -> :class:`~.task.Report`; it changes the
            network, which is a copy. Its options are numbers, keyword-only, with defaults.
        summary: a line about it.
        reads: what it needs beside the network: "gains", "images", or neither.
    """

    apply: Callable[..., Report]
    summary: str
    reads: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Its options with their defaults."""
        return keyword_options(self.apply)


COMPENSATIONS: dict[str, Compensation] = {
    "fold-gains": Compensation(
        fold_gains, "gains of the kept units, folded into the weights that read them", (GAINS,)
    ),
    "recalibrate": Compensation(
        recalibrate_norms, "new running statistics for the batch norms", (IMAGES,)
    ),
    "least-squares": Compensation(
        least_squares,
        "weights that reproduce the original's outputs, for the layers that lost inputs",
        (IMAGES,),
    ),
}


def parse_compensation(spec: str) -> tuple[str, dict[str, float]]:
    """A compensation with its options, as one writes them in a list.

    >>> parse_compensation("least-squares:images=500")
    ('least-squares', {'images': 500})

    Raises:
        DirpruneError: not of that form, an unknown name, an option that it does not have, or a
            value that the option cannot have.
    """
    name, *parts = spec.split(":")
    if name not in COMPENSATIONS:
        raise unknown_name("compensation", name, COMPENSATIONS)
    options = parse_options(parts, f"compensation {spec!r}", f"{name}:OPTION=NUMBER:...")
    check_numbers(f"compensation {name!r}", COMPENSATIONS[name].options, options)
    return name, options
