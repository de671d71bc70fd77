"""Moves that change widths: units come back in one site and go in another, within the budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...model.cost import CostTable
from ...model.decision import Decision
from ..decision.budget import costs_of
from ..decision.decide import COUNTED
from ..decision.removal import Costs, Removable, site_units
from .masks import Masks, joined, split

LEAST = 1e-12  # for units that cost nothing


def free_budgets(decision: Decision) -> dict[str, float]:
    """The counted budgets under which a decision chose its widths itself; none where it did not."""
    settings = decision.settings
    if {"widths", "latency", "max_drop", "round_to"} & set(settings):
        return {}
    return {what: s for what, s in settings.get("budget", {}).items() if what in COUNTED}


class Transfers:
    """Candidates of other widths under the same budgets.

    Args:
        table: the costs.
        budgets: of "macs", "params" and "keep".
        sites: those that may give and take units.
    """

    def __init__(
        self, table: CostTable, budgets: Mapping[str, float], sites: Sequence[str]
    ) -> None:
        self._table, self._budgets = table, budgets
        self._units = list(site_units(table))
        self._fixed = np.concatenate([np.full(k, n not in sites) for n, k in table.sites.items()])

    def __call__(self, masks: Masks, change: Mapping[str, Tensor], share: float) -> Masks:
        """The masks after a transfer; as they are where none fits.

        The removed units with the largest estimated change per cost come back, so many that they
        are ``share`` of the kept ones; then the kept ones with the least loss per cost go, until
        the budgets are met again.

        Args:
            masks: site -> [K] booleans, within the budgets.
            change: site -> [K], the estimated gain of flipping each unit alone.
            share: at least one unit comes back.
        """
        kept = joined(self._table, masks).numpy()
        gain = joined(self._table, change).double().numpy()
        costs = costs_of(self._table, self._budgets)
        removable = Removable(self._table, self._fixed, [1] * len(self._units))
        for unit in np.flatnonzero(~kept).tolist():
            costs.remove(unit)
        gone = np.flatnonzero(~kept & ~self._fixed)
        if not len(gone):
            return masks
        price = {unit: max(costs.price(unit), LEAST) for unit in gone.tolist()}
        number = max(1, round(share * int(kept.sum())))
        back = sorted(price, key=lambda u: -gain[u] / price[u])[:number]
        for unit in back:
            costs.restore(unit)
        stay = kept.copy()
        stay[back] = True
        for unit in np.flatnonzero(~stay).tolist():
            removable.remove(unit)
        candidates = np.flatnonzero(kept & ~self._fixed).tolist()
        weight = {unit: _saving(costs, unit) for unit in candidates}
        for unit in sorted(candidates, key=lambda u: -gain[u] / weight[u]):
            if costs.met:
                break
            if not removable.blocked[unit]:
                removable.remove(unit)
                costs.remove(unit)
                stay[unit] = False
        if not costs.met:
            return masks
        return split(self._table, torch.from_numpy(stay))


def _saving(costs: Costs, unit: int) -> float:
    """What a kept unit's removal saves: the largest share of a target."""
    costs.remove(unit)
    saving = costs.price(unit)
    costs.restore(unit)
    return max(saving, LEAST)
