"""Scores: what a criterion says of every unit of a site."""

from __future__ import annotations

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
