"""What comes back once all budgets are met: removed units for which there is room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...model.cost import CostTable
from .removal import Removal, site_units

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Numbers = NDArray[np.int64]
# For units that cost nothing: far below a share of the room, and no score overflows over it.
LEAST_SHARE = 1e-200


class Room:
    """What a decision leaves of each budget, and what each removed unit would take of it.

    Args:
        removals: the costs of what is kept, one for each budget.
        targets: what each budget allows.
        deciding: which of them units are weighed by.
    """

    def __init__(
        self, removals: Sequence[Removal], targets: Sequence[int], deciding: Sequence[int]
    ) -> None:
        self.removals, self._targets, self._deciding = removals, targets, deciding

    @property
    def left(self) -> list[int]:
        """Of each budget; below 0 where it is exceeded."""
        return [t - r.cost for t, r in zip(self._targets, self.removals, strict=True)]

    def restore(self, units: Sequence[int]) -> None:
        for removal in self.removals:
            for unit in units:
                removal.restore(unit)

    def holds(self, units: Sequence[int]) -> bool:
        """Is there room for all these?"""
        self.restore(units)
        fits = min(self.left) >= 0
        for removal in self.removals:
            for unit in units:
                removal.remove(unit)
        return fits

    def weights(self, prices: Sequence[Numbers]) -> Floats:
        """What scores are divided by: of several budgets the largest share of what is left."""
        if len(self._deciding) == 1:
            return np.maximum(prices[self._deciding[0]], 1).astype(np.float64)
        left = self.left
        shares = [prices[i] / left[i] for i in self._deciding if left[i] > 0]
        return np.maximum(np.max([np.zeros(len(prices[0])), *shares], axis=0), LEAST_SHARE)


class Coming:
    """What comes with a removed unit, and what it costs: a feature brings its channel back.

    A channel brings its features without evidence; one that is read through its features alone
    comes with one of them. Of a set S a term c x rows x columns costs
    c (r_S C + k_S R + r_S k_S), with the rows R and columns C that are there.
    """

    def __init__(self, table: CostTable, room: Room, fixed: Bools) -> None:
        self._nesting, self._room, self._fixed = table.nesting, room, fixed
        self._brought = (table.nesting.is_part & fixed).nonzero()[0]
        self._corners = [
            sum(t.coefficient * self._sums(t.rows) * self._sums(t.columns) for t in removal.terms)
            for removal in room.removals
        ]

    def brings(self, kept: Bools) -> Bools:
        """[units], those that do not come alone."""
        nesting, found = self._nesting, np.zeros(len(kept), dtype=bool)
        found[nesting.is_part] = ~kept[nesting.whole[nesting.is_part]]
        found[nesting.whole[self._brought]] = True
        return found

    def prices(self, kept: Bools) -> list[Numbers]:
        """[units] of each cost: what removed units cost with all that comes with them."""
        if self._nesting.is_flat:
            return [removal.prices for removal in self._room.removals]
        brings = self.brings(kept)
        return [
            np.where(brings, self._sums(removal.linear) + corners, removal.prices)
            for removal, corners in zip(self._room.removals, self._corners, strict=True)
        ]

    def units(self, kept: Bools, unit: int) -> list[int]:
        """The unit, and what comes with it."""
        whole = int(self._nesting.whole[unit])
        found = [unit] if whole < 0 or kept[whole] else [unit, whole]
        parts = self._brought[np.isin(self._nesting.whole[self._brought], found)]
        return [*found, *parts[parts != unit].tolist()]

    def _sums(self, values: Numbers) -> Numbers:
        """[units], over what comes with each where its channel is gone."""
        nesting, sums = self._nesting, values.copy()
        np.add.at(sums, nesting.whole[self._brought], values[self._brought])
        parts = nesting.is_part
        sums[parts] = sums[nesting.whole[parts]] + np.where(self._fixed, 0, values)[parts]
        return sums


def refill(
    table: CostTable, room: Room, scores: Floats, fixed: Bools, kept: Bools, *, per_cost: bool
) -> Bools:
    """Take single units back, best first, while there is room (:func:`~.budget.keep_within`)."""
    nesting, kept, scores = table.nesting, kept.copy(), scores.copy()
    coming = Coming(table, room, fixed)
    # A feature without evidence comes for the sake of its channel.
    own = (nesting.is_part & fixed).nonzero()[0]
    scores[own] = scores[nesting.whole[own]]
    # What is read through its parts comes back with one of them.
    gone = ~kept & ~nesting.through
    if per_cost:
        gone &= scores > 0
    while True:
        prices = coming.prices(kept)
        fits = gone & np.all([p <= n for p, n in zip(prices, room.left, strict=True)], axis=0)
        among = fits.nonzero()[0]
        if not len(among):
            return kept
        if per_cost:
            merits = scores[among] / room.weights([p[among] for p in prices])
        else:
            alone = among[~coming.brings(kept)[among]]
            among = alone if len(alone) else among
            merits = scores[among]
        unit = int(among[merits == merits.max()][-1])  # of equals the one that went last
        units = coming.units(kept, unit)
        room.restore(units)
        kept[units], gone[units] = True, False
        if nesting.is_flat:
            gone &= fits  # prices only rise: what does not fit now never will


def refill_blocks(
    table: CostTable,
    room: Room,
    scores: Floats,
    kept: Bools,
    sizes: Sequence[int],
    *,
    per_cost: bool,
) -> Bools:
    """:func:`refill` by whole blocks, of so many units in each site; no unit is part of another."""
    kept = kept.copy()
    gone: dict[int, Numbers] = {}  # site -> removed units, best first
    for site, units in enumerate(site_units(table)):
        removed = units[~kept[units] & (scores[units] > 0 if per_cost else True)][::-1]
        gone[site] = removed[np.argsort(-scores[removed], kind="stable")]

    def merit(site: int) -> float:
        block = gone[site][: sizes[site]]
        if not per_cost:
            return float(scores[block].mean())
        return float(scores[block].mean() / room.weights([p[block] for p in prices]).mean())

    while gone := {s: units for s, units in gone.items() if len(units) >= sizes[s]}:
        prices = [removal.prices for removal in room.removals]
        site = max(gone, key=merit)
        units, size = gone[site], sizes[site]
        block = units[:size].tolist()
        if room.holds(block):
            room.restore(block)
            kept[block], gone[site] = True, units[size:]
            continue
        # Prices only rise, so that what does not fit now never will.
        dear = room.weights([p[units] for p in prices])
        if room.holds(units[np.argsort(dear, kind="stable")[:size]].tolist()):
            gone[site] = np.delete(units, dear[:size].argmax())
        else:
            del gone[site]
    return kept
