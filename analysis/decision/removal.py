"""Bookkeeping of a decision in the making: its cost, which units may still go, whole blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import gcd

import numpy as np
from numpy.typing import NDArray

from ...model.cost import CostTable, Term

Bools = NDArray[np.bool_]


def site_units(table: CostTable) -> Iterator[NDArray[np.int64]]:
    """The unit numbers of each site."""
    start = 0
    for size in table.sites.values():
        yield np.arange(start, start + size)
        start += size


def block_sizes(table: CostTable, round_to: int) -> list[int]:
    """How many units of each site go together, so that channels stay in multiples of ``round_to``.

    That is ``round_to`` where a unit is one channel. Where it is several (a group of a grouped
    convolution, an attention head), those count: c channels a unit make multiples of
    round_to / gcd(round_to, c) units, c being what divides its number of channels in every layer.
    """
    sizes = []
    for units in site_units(table):
        counts = [axis[units] for t in table.terms["params"][1] for axis in (t.rows, t.columns)]
        channels = gcd(*(int(np.gcd.reduce(c)) for c in counts)) or 1
        sizes.append(round_to // gcd(round_to, channels))
    return sizes


class Cost:
    """A sum of terms under removals of single units.

    Args:
        cost: what the kept units cost.
        terms: of that cost.
        kept: [units], those that are there at first.
    """

    def __init__(self, cost: int, terms: Sequence[Term], kept: Bools) -> None:
        self.cost = cost
        self._terms = []
        self._of: list[list[int]] = [[] for _ in kept]
        for i, t in enumerate(terms):
            rows, columns = t.rows.nonzero()[0], t.columns.nonzero()[0]
            left = [
                t.fixed_rows + int(t.rows[kept].sum()),
                t.fixed_columns + int(t.columns[kept].sum()),
            ]
            self._terms.append((t, rows, columns, left))
            for unit in np.union1d(rows, columns):
                self._of[unit].append(i)

    def remove(self, unit: int) -> None:
        self._shift(unit, -1)
        self.cost -= self.price(unit)

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
            t, _, _, left = self._terms[i]
            left[0] += sign * int(t.rows[unit])
            left[1] += sign * int(t.columns[unit])


class Removal(Cost):
    """A cost with every unit's saving kept up to date.

    Removing unit u saves sum over terms of c (r_u C + k_u R - r_u k_u), where R and C are the rows
    and columns that are left, r_u and k_u those that u owns. When u goes, the saving of every other
    unit v falls by c (r_v k_u + k_v r_u).

    Attributes:
        saving: [units], of kept ones.
        terms: of the cost.
    """

    def __init__(self, cost: int, terms: Sequence[Term], kept: Bools) -> None:
        super().__init__(cost, terms, kept)
        self.terms = terms
        self.saving, self._own = np.zeros((2, len(kept)), dtype=np.int64)
        for t, _, _, (rows, columns) in self._terms:
            own = t.coefficient * t.rows * t.columns
            self.saving += t.coefficient * (t.rows * columns + t.columns * rows) - own
            self._own += own

    @property
    def linear(self) -> NDArray[np.int64]:
        """[units], of removed ones: the sum over terms of c (r_u C + k_u R)."""
        return self.saving + self._own

    @property
    def prices(self) -> NDArray[np.int64]:
        """[units], of removed ones: what each costs when it comes back alone."""
        return self.saving + 2 * self._own

    def _shift(self, unit: int, sign: int) -> None:
        super()._shift(unit, sign)
        for i in self._of[unit]:
            t, rows, columns, _ = self._terms[i]
            r, k = int(t.rows[unit]), int(t.columns[unit])
            if k:
                self.saving[rows] += sign * t.coefficient * t.rows[rows] * k
            if r:
                self.saving[columns] += sign * t.coefficient * t.columns[columns] * r


class Removable:
    """Which units may still go: not those without evidence, and no last block of its site.

    Nor the last unit of a set of ``CostTable.needed``. With a unit goes what cannot stay without
    it (:class:`~dirprune.model.nesting.Nesting`): features without evidence go with their channel,
    and the last feature of a channel that has to stay does, too.

    Attributes:
        blocked: [units], those of which it is known that they may not go alone.
        kept: [units], those that have not gone.
    """

    def __init__(self, table: CostTable, fixed: Bools, sizes: Sequence[int]) -> None:
        self.blocked = fixed.copy()  # and what has gone, and what is the last of its set
        self.kept, self._nesting = np.ones(len(fixed), dtype=bool), table.nesting
        sites = list(site_units(table))
        self._sets = [*sites, *(np.asarray(units) for units in table.needed)]
        self._spare = [
            len(units) - least
            for units, least in zip(self._sets, [*sizes, *[1] * len(table.needed)], strict=True)
        ]
        self._of: list[list[int]] = [[] for _ in fixed]
        for i, units in enumerate(self._sets):
            for unit in units:
                self._of[unit].append(i)
            if self._spare[i] <= 0:
                self.blocked[units] = True

    def allows(self, unit: int) -> bool:
        """May it go now, with all that goes with it? What may not never may later."""
        if self.blocked[unit]:
            return False
        going = self._nesting.going(self.kept, unit)
        if len(going) > 1:
            wanted = Counter(i for u in going for i in self._of[u])
            whole_stays = self._nesting.is_part[unit] and self.blocked[going[1]]
            if whole_stays or any(self._spare[i] < number for i, number in wanted.items()):
                self.blocked[unit] = True
                return False
        return True

    def remove(self, unit: int) -> list[int]:
        """Remove it, with all that goes with it; these units."""
        going = self._nesting.going(self.kept, unit)
        self.kept[going] = False
        self.blocked[going] = True
        for i in (i for u in going for i in self._of[u]):
            self._spare[i] -= 1
            if self._spare[i] == 0:
                self.blocked[self._sets[i]] = True
        return going


class Costs:
    """What a decision in the making costs in every budget, beside what each allows."""

    def __init__(self, costs: Sequence[Cost], targets: Sequence[int]) -> None:
        self._costs, self._targets = list(costs), list(targets)

    def remove(self, unit: int) -> None:
        for cost in self._costs:
            cost.remove(unit)

    def restore(self, unit: int) -> None:
        for cost in self._costs:
            cost.restore(unit)

    @property
    def left(self) -> list[int]:
        """The cost in each budget."""
        return [cost.cost for cost in self._costs]

    @property
    def over(self) -> list[int]:
        """By how much each budget is exceeded; 0 where it is met."""
        return [max(0, c.cost - t) for c, t in zip(self._costs, self._targets, strict=True)]

    @property
    def met(self) -> bool:
        return not any(self.over)

    def price(self, unit: int) -> float:
        """What a removed unit costs when it comes back: the largest share of a target."""
        pairs = zip(self._costs, self._targets, strict=True)
        return max(cost.price(unit) / max(target, 1) for cost, target in pairs)


class Blocks:
    """The decision itself: units that are to go wait until their site's block of them is full.

    The first block of a site is what it has over a multiple.
    """

    def __init__(self, table: CostTable, costs: Costs, sizes: Sequence[int]) -> None:
        self.kept = np.ones(table.num_units, dtype=bool)
        self.costs = costs
        self._sites, self._sizes = list(site_units(table)), sizes
        self._site_of = np.repeat(np.arange(len(sizes)), [len(units) for units in self._sites])
        self._waiting: list[list[int]] = [[] for _ in sizes]
        self._full = [
            len(units) % size or size for units, size in zip(self._sites, sizes, strict=True)
        ]

    def remove(self, unit: int) -> None:
        site = self._site_of[unit]
        waiting = self._waiting[site]
        waiting.append(unit)
        if len(waiting) == self._full[site]:
            for u in waiting:
                self.costs.remove(u)
            self.kept[waiting] = False
            waiting.clear()
            self._full[site] = self._sizes[site]
