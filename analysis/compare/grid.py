"""The cells of a grid: every guide with every prior, temperature and seed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ...guides import GUIDES
from ...guides.families import parse_guide
from ...model.errors import DirpruneError
from ...model.priors import make_prior


@dataclass(frozen=True, order=True)
class Cell:
    """One posterior of a grid.

    Attributes:
        guide: as ``parse_guide`` reads it, "low-rank-logistic-normal:rank=5" say.
        prior: as ``make_prior`` reads it, "symmetric:0.3" say.
        temperature: the likelihood's power, tau > 0.
        seed: of the network's training, of SVI and of the draws.
    """

    guide: str
    prior: str
    temperature: float
    seed: int

    @property
    def name(self) -> str:
        """A readable name that any file system takes.

        >>> Cell("dirichlet", "alpha/K:1", 0.1, 2).name
        'dirichlet_alpha-K-1_tau-0.1_seed-2'
        """
        parts = (self.guide, self.prior, f"tau-{self.temperature:g}", f"seed-{self.seed}")
        return "_".join(map(file_name, parts))

    @property
    def combination(self) -> tuple[str, str, float]:
        """Guide, prior and temperature: what is averaged over seeds."""
        return self.guide, self.prior, self.temperature


def file_name(text: str) -> str:
    """The text with a hyphen for what some file system does not take."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text)


def make_grid(
    guides: Sequence[str],
    priors: Sequence[str],
    temperatures: Sequence[float],
    seeds: Sequence[int],
) -> list[Cell]:
    """Every guide with every prior, temperature and seed, seed by seed.

    Raises:
        DirpruneError: an empty axis, an unknown name, a bad number, or a value named twice (also
            where it is spelt in two ways, as "symmetric" and "symmetric:1").
    """
    asked = [parse_guide(guide) for guide in guides]
    for temperature in temperatures:
        if not 0 < temperature < math.inf:
            raise DirpruneError(f"temperature {temperature}: expected a positive number")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise DirpruneError(f"seed {seed}: expected a whole number from 0 to 2^63 - 1")
    # An option that is left out has its default: "normal" and "normal:init_scale=0.1" are one.
    full = [(name, frozenset({**GUIDES[name].options, **own}.items())) for name, own in asked]
    _refuse_twice("guide", guides, full)
    _refuse_twice("prior", priors, [repr(make_prior(prior)) for prior in priors])
    _refuse_twice("temperature", temperatures, [f"{t:g}" for t in temperatures])
    _refuse_twice("seed", seeds, seeds)
    return [
        Cell(guide, prior, float(temperature), seed)
        for seed, prior, temperature, guide in itertools.product(
            seeds, priors, temperatures, guides
        )
    ]


def _refuse_twice(axis: str, values: Sequence[object], meanings: Sequence[Hashable]) -> None:
    """Refuse an axis without a value, and values that mean the same."""
    if not values:
        raise DirpruneError(f"the grid has no {axis}: expected at least one")
    refuse_twice(f"the grid names the {axis}", values, meanings)


def refuse_twice(start: str, values: Sequence[object], meanings: Sequence[Hashable]) -> None:
    """Refuse values that mean the same; the message begins with ``start`` and the value."""
    first: dict[Hashable, object] = {}
    for value, meaning in zip(values, meanings, strict=True):
        if meaning in first:
            others = "" if first[meaning] == value else f", as {first[meaning]!r} and {value!r}"
            raise DirpruneError(f"{start} {value!r} twice{others}")
        first[meaning] = value
