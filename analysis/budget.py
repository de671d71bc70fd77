"""The two rules behind a decision: keep so many units, or stay within a cost."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..model.cost import CostTable
from ..model.errors import DirpruneError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def keep_number(table: CostTable, scores: Floats, fixed: Bools, share: float) -> Bools:
    """Keep exactly round(share x units), those with the largest scores; one a site at least.

    ``fixed`` marks units without evidence, which stay.
    """
    units = len(scores)
    wanted = math.floor(share * units + 0.5)
    site = _site_of(table)
    least = _least(site, fixed)
    if wanted < least:
        raise DirpruneError(
            f"budget keep={share}: {wanted} of {units} units, but at least {least} must stay (one "
            f"in each site); the smallest possible is keep={_up(least / units)}"
        )
    left = np.bincount(site)
    kept = np.ones(units, dtype=bool)
    for unit in np.argsort(scores, kind="stable"):
        if units == wanted:
            break
        if not fixed[unit] and left[site[unit]] > 1:
            kept[unit] = False
            left[site[unit]] -= 1
            units -= 1
    return kept


def keep_within(
    table: CostTable, scores: Floats, fixed: Bools, what: str, share: float, per_cost: bool
) -> Bools:
    """Remove units until ``what`` is at most share x its full value.

    The least score goes first, divided by what the removal saves if ``per_cost``.
    """
    removal = _Removal(table, what)
    full = removal.cost
    site = _site_of(table)
    target = int(share * full)
    smallest = _smallest(table, what, fixed)
    if smallest > target:
        raise DirpruneError(
            f"budget {what}={share}: {target:,} of {full:,} {what}, but one unit in each site "
            f"already takes {smallest:,}; the smallest possible is {what}={_up(smallest / full)}"
        )
    left = np.bincount(site)
    kept = np.ones(len(scores), dtype=bool)
    gone: list[int] = []
    blocked = fixed.copy()
    positive = np.maximum(scores, 0)
    while removal.cost > target:
        # A negative score says that the unit does harm: such units go first, worst first.
        saving = np.maximum(removal.saving, 1) if per_cost else 1
        rank = np.where(scores < 0, scores, positive / saving)
        rank[blocked | ~kept] = np.inf
        unit = int(rank.argmin())
        removal.remove(unit)
        kept[unit] = False
        gone.append(unit)
        left[site[unit]] -= 1
        if left[site[unit]] == 1:
            blocked[(site == site[unit]) & kept] = True
    for unit in reversed(gone):
        if scores[unit] >= 0 and removal.cost + removal.price(unit) <= target:
            removal.restore(unit)
            kept[unit] = True
    return kept


class _Removal:
    """A cost under removals of single units, with every unit's saving kept up to date.

    Removing unit u saves sum over terms of c (r_u C + k_u R - r_u k_u), where R and C are the rows
    and columns that are left, r_u and k_u those that u owns. When u goes, the saving of every other
    unit v falls by c (r_v k_u + k_v r_u).
    """

    def __init__(self, table: CostTable, what: str) -> None:
        _, terms = table.terms[what]
        self.cost = table.total(what)
        self.saving = np.zeros(table.num_units, dtype=np.int64)
        self._terms = []
        self._of: list[list[int]] = [[] for _ in range(table.num_units)]
        for i, t in enumerate(terms):
            rows, columns = t.rows.nonzero()[0], t.columns.nonzero()[0]
            total = [t.fixed_rows + int(t.rows.sum()), t.fixed_columns + int(t.columns.sum())]
            self.saving += t.coefficient * (
                t.rows * total[1] + t.columns * total[0] - t.rows * t.columns
            )
            self._terms.append((t, rows, columns, total))
            for u in np.union1d(rows, columns):
                self._of[u].append(i)

    def remove(self, unit: int) -> None:
        self.cost -= int(self.saving[unit])
        self._shift(unit, -1)

    def restore(self, unit: int) -> None:
        self.cost += self.price(unit)
        self._shift(unit, 1)

    def price(self, unit: int) -> int:
        """What a removed unit costs when it comes back."""
        price = 0
        for i in self._of[unit]:
            t, _, _, (rows, columns) = self._terms[i]
            r, k = int(t.rows[unit]), int(t.columns[unit])
            price += t.coefficient * (r * columns + k * rows + r * k)
        return price

    def _shift(self, unit: int, sign: int) -> None:
        for i in self._of[unit]:
            t, rows, columns, total = self._terms[i]
            r, k = int(t.rows[unit]), int(t.columns[unit])
            total[0] += sign * r
            total[1] += sign * k
            if k:
                self.saving[rows] += sign * t.coefficient * t.rows[rows] * k
            if r:
                self.saving[columns] += sign * t.coefficient * t.columns[columns] * r


def _site_of(table: CostTable) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(table.sites)), list(table.sites.values()))


def _least(site: NDArray[np.int64], fixed: Bools) -> int:
    """How many units must stay: those without evidence, and one of every other site."""
    stay = int(fixed.sum())
    return stay + len(set(site[~fixed].tolist()) - set(site[fixed].tolist()))


def _smallest(table: CostTable, what: str, fixed: Bools) -> int:
    """The cost with the cheapest single unit left in every site that may shrink."""
    removal = _Removal(table, what)
    start = 0
    for size in table.sites.values():
        units = [u for u in range(start, start + size) if not fixed[u]]
        start += size
        units.sort(key=lambda u: -int(removal.saving[u]))
        for unit in units[: size - 1]:
            removal.remove(unit)
    return removal.cost


def _up(share: float) -> float:
    """A share rounded up to four digits, so that it can be met."""
    return math.ceil(share * 1e4) / 1e4
