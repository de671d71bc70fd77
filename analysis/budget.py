"""The two rules behind a decision: keep so many units, or stay within a cost."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

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
    wanted = int(_exactly(share) * units + Fraction(1, 2))
    removable = _Removable(table, fixed)
    order = np.argsort(scores, kind="stable").tolist()
    for unit in order:
        if removable.kept.sum() == wanted:
            break
        if not removable.blocked[unit]:
            removable.remove(unit)
    least = int(removable.kept.sum())
    if least > wanted:
        raise DirpruneError(
            f"budget keep={share}: {wanted} of {units} units, but at least {least} must stay (one "
            f"in each site, and all without evidence); the smallest possible is keep="
            f"{_up(least, units)}"
        )
    return removable.kept


def keep_within(
    table: CostTable, scores: Floats, fixed: Bools, what: str, share: float, per_cost: bool
) -> Bools:
    """Remove units until ``what`` is at most share x its full value.

    The least score goes first, divided by what the removal saves if ``per_cost``.
    """
    removal, removable = _Removal(table, what), _Removable(table, fixed)
    full = removal.cost
    target = int(_exactly(share) * full)
    positive = np.maximum(scores, 0)
    while removal.cost > target and not removable.blocked.all():
        # A negative score says that the unit does harm: such units go first, worst first.
        saving = np.maximum(removal.saving, 1) if per_cost else 1
        rank = np.where(scores < 0, scores, positive / saving)
        rank[removable.blocked] = np.inf
        unit = int(rank.argmin())
        removal.remove(unit)
        removable.remove(unit)
    if removal.cost <= target:
        return removable.kept
    # What is left by score is one unit a site, and they are too dear. Take the cheapest ones
    # instead, and of the others what fits, best first.
    removal, kept = _smallest(table, what, fixed)
    if removal.cost > target:
        raise DirpruneError(
            f"budget {what}={share}: {target:,} of {full:,} {what}, but one unit in each site (and "
            f"all without evidence) already take {removal.cost:,}; the smallest possible is {what}="
            f"{_up(removal.cost, full)}"
        )
    for unit in np.argsort(-scores, kind="stable").tolist():
        if not kept[unit] and removal.cost + removal.price(unit) <= target:
            removal.restore(unit)
            kept[unit] = True
    return kept


class _Removable:
    """Which units may still go: not those without evidence, and no last one of its site.

    Nor the last one of a set of ``CostTable.needed``.
    """

    def __init__(self, table: CostTable, fixed: Bools) -> None:
        self.kept = np.ones(table.num_units, dtype=bool)
        self.blocked = fixed.copy()  # and what has gone, and what is the last one of a set
        self._sets = [np.asarray(units) for units in (*_site_units(table), *table.needed)]
        self._left = [len(units) for units in self._sets]
        self._of: list[list[int]] = [[] for _ in self.kept]
        for i, units in enumerate(self._sets):
            for unit in units:
                self._of[unit].append(i)
            if len(units) == 1:
                self.blocked[units] = True

    def remove(self, unit: int) -> None:
        self.kept[unit] = False
        self.blocked[unit] = True
        for i in self._of[unit]:
            self._left[i] -= 1
            if self._left[i] == 1:
                self.blocked[self._sets[i]] |= self.kept[self._sets[i]]


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


def _site_units(table: CostTable) -> Iterator[NDArray[np.int64]]:
    start = 0
    for size in table.sites.values():
        yield np.arange(start, start + size)
        start += size


def _smallest(table: CostTable, what: str, fixed: Bools) -> tuple[_Removal, Bools]:
    """The cheapest decision that there is: site by site, all but the cheapest units gone."""
    removal, removable = _Removal(table, what), _Removable(table, fixed)
    for units in _site_units(table):
        for unit in sorted(units.tolist(), key=lambda u: -int(removal.saving[u])):
            if not removable.blocked[unit]:
                removal.remove(unit)
                removable.remove(unit)
    return removal, removable.kept


def _exactly(share: float) -> Fraction:
    """The decimal that the user wrote: 0.29 of 100 is 29, not 28.999999999999996."""
    return Fraction(repr(float(share)))


def _up(part: int, whole: int) -> float:
    """part/whole rounded up to four digits, so that it can be met."""
    return -(-part * 10_000 // whole) / 10_000
