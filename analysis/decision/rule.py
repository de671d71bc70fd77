"""What a decision asks of the scores: budgets, widths and multiples, as a function of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...model.cost import CostTable
from .budget import keep_within, smallest_share
from .widths import UNIFORM, keep_uniform, keep_widths, smallest_uniform_share

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Widths = str | Mapping[str, int] | None


@dataclass(frozen=True)
class Rule:
    """Scores [units] -> which units stay.

    Attributes:
        table: the costs.
        fixed: [units], those of sites without evidence, which stay.
        budgets: of "macs", "params" and "keep"; empty where the widths are given.
        widths: None (the scores choose), "uniform", or units by site.
        round_to: channels in a block; 1 rounds nothing.
        per_cost: are scores weighed against what a removal saves?
    """

    table: CostTable
    fixed: Bools
    budgets: Mapping[str, float]
    widths: Widths = None
    round_to: int = 1
    per_cost: bool = True

    def __call__(self, scores: Floats) -> Bools:
        if isinstance(self.widths, Mapping):
            return keep_widths(self.table, scores, self.fixed, self.widths)
        if self.widths == UNIFORM:
            return self.uniform(scores)[0]
        return keep_within(
            self.table, scores, self.fixed, self.budgets, per_cost=self.per_cost,
            round_to=self.round_to,
        )  # fmt: skip

    def uniform(self, scores: Floats) -> tuple[Bools, float]:
        """What stays under uniform widths, and the share of every site."""
        return keep_uniform(self.table, scores, self.fixed, self.budgets, self.round_to)

    def within(self, macs: float) -> Rule:
        """The same rule with at most so large a share of the multiply-adds."""
        least = min(macs, self.budgets.get("macs", 1.0))
        return replace(self, budgets={**self.budgets, "macs": least})

    def smallest_macs(self, scores: Floats) -> float:
        """The smallest share of the multiply-adds that these widths can have, rounded up."""
        if self.widths is None:
            return smallest_share(self.table, self.fixed, "macs", self.round_to)
        return smallest_uniform_share(self.table, scores, self.fixed, "macs", self.round_to)
