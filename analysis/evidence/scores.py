"""Scores: what a criterion says of every unit, and what it costs to say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """The evidence about one site's units; a high score says "keep".

    Attributes:
        scores: [K].
        draws: [S, K], the same score under S posterior draws, or None where it has no draws.
        unit: what a score is measured in ("nats", say).
        across_sites: do scores of different sites compare? Where they do not, a global decision
            compares them after division by the site's mean score.
    """

    scores: Tensor
    draws: Tensor | None = None
    unit: str = ""
    across_sites: bool = True


@dataclass(frozen=True)
class Passes:
    """Passes of single examples through the network.

    >>> Passes(100, 100) + Passes(50)
    Passes(forward=150, backward=100)
    >>> Passes(100, 100).forwards
    300
    """

    forward: int = 0
    backward: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.backward + other.backward)

    @property
    def forwards(self) -> int:
        """In forward passes, of which a backward one counts as two (twice the multiply-adds)."""
        return self.forward + 2 * self.backward


class Evidence(dict[str, Scores]):
    """Site name -> :class:`Scores`, by one criterion.

    Attributes:
        criterion: its name, with its options if any were given.
        passes: what the scoring took.
        learning: what the posterior took that it was read from; zero where it needs none, None
            where that was not counted (NUTS).
    """

    def __init__(
        self,
        scores: Mapping[str, Scores],
        passes: Passes | None = None,
        *,
        criterion: str = "",
        learning: Passes | None = Passes(),
    ) -> None:
        super().__init__(scores)
        self.criterion = criterion
        self.passes = passes or Passes()
        self.learning = learning
