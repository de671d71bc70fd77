"""The rule behind a decision: units go, least first, until what is left is within the budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model.cost import CostTable, Term
from ..model.errors import DirpruneError
from .removal import Blocks, Cost, Removable, Removal, block_sizes, site_units

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def keep_within(
    table: CostTable,
    scores: Floats,
    fixed: Bools,
    what: str,
    share: float,
    *,
    per_cost: bool = False,
    round_to: int = 1,
) -> Bools:
    """Remove units until ``what`` ("macs", "params", "keep") is at most share x its full value.

    The least score goes first, divided by what the removal saves if ``per_cost``; of every site
    one unit stays, and all of those without evidence, which ``fixed`` marks. The target of "keep"
    is rounded to a whole number of units.

    With ``round_to`` units are chosen in the same order, and go when as many are chosen in their
    site as make a block (:func:`~.removal.block_sizes`); one block stays in each site, a site that
    is smaller stays whole. Then blocks come back, best first, where they fit.

    Raises:
        DirpruneError: the budget cannot be met; the message names the smallest that can.
    """
    full = _full(table, what)
    target = _target(what, share, full)
    cut = _by_score(table, scores, fixed, what, target, per_cost, round_to)
    if cut.cost.cost <= target:
        if round_to > 1:
            cut.fill(scores, target)
        return cut.kept
    # What is left by score is one unit (or block) a site, and they are too dear. Take the cheapest
    # ones instead, and of the others what fits, best first.
    cut = _smallest(table, fixed, what, round_to)
    least = cut.cost.cost
    if least > target:
        one = "one unit" if round_to == 1 else f"{round_to} channels, or all where there are fewer,"
        rounded = "" if round_to == 1 else f" with round_to={round_to}"
        raise DirpruneError(
            f"budget {what}={share}{rounded}: {target:,} of {full:,} "
            f"{'units' if what == 'keep' else what}, but at least {least:,} must stay ({one} in "
            f"each site, and all without evidence); the smallest possible is {what}="
            f"{_up(least, full)}"
        )
    cut.fill(scores, target)
    return cut.kept


def smallest_share(table: CostTable, fixed: Bools, what: str, round_to: int = 1) -> float:
    """The smallest budget in ``what`` that can be met, rounded up to four digits."""
    return _up(_smallest(table, fixed, what, round_to).cost.cost, _full(table, what))


def by_site(table: CostTable, kept: Bools) -> dict[str, Tensor]:
    """Kept units over all sites as site name -> indices."""
    return {
        name: torch.from_numpy(kept[units].nonzero()[0])
        for name, units in zip(table.sites, site_units(table), strict=True)
    }


def _by_score(
    table: CostTable,
    scores: Floats,
    fixed: Bools,
    what: str,
    target: int,
    per_cost: bool,
    round_to: int,
) -> Blocks:
    sizes = block_sizes(table, round_to)
    removable = Removable(table, fixed, sizes)
    cut = Blocks(table, _cost(Cost, table, what), sizes)
    removal = _cost(Removal, table, what) if per_cost else None

    def go(unit: int) -> None:
        removable.remove(unit)
        cut.remove(unit)
        if removal is not None:
            removal.remove(unit)

    # First what each site has over a multiple, which goes under any budget.
    rank = scores if removal is None else _rank(scores, removal)
    for units, size in zip(site_units(table), sizes, strict=True):
        over = len(units) % size
        for unit in units[np.argsort(rank[units], kind="stable")].tolist():
            if over and not removable.blocked[unit]:
                go(unit)
                over -= 1
    order = _in_order(scores, removable) if removal is None else _savers(scores, removable, removal)
    for unit in order:
        if cut.cost.cost <= target:
            break
        go(unit)
    return cut


def _in_order(scores: Floats, removable: Removable) -> Iterator[int]:
    for unit in np.argsort(scores, kind="stable").tolist():
        if not removable.blocked[unit]:
            yield unit


def _savers(scores: Floats, removable: Removable, removal: Removal) -> Iterator[int]:
    """By score per cost, counted again after each removal."""
    while not removable.blocked.all():
        rank = _rank(scores, removal)
        rank[removable.blocked] = np.inf
        yield int(rank.argmin())


def _rank(scores: Floats, removal: Removal) -> Floats:
    # A negative score says that the unit does harm: such units go first, worst first.
    ranks: Floats = np.where(
        scores < 0, scores, np.maximum(scores, 0) / np.maximum(removal.saving, 1)
    )
    return ranks


def _smallest(table: CostTable, fixed: Bools, what: str, round_to: int) -> Blocks:
    """The cheapest decision that there is: site by site, all but the cheapest units gone."""
    sizes = block_sizes(table, round_to)
    removable, removal = Removable(table, fixed, sizes), _cost(Removal, table, what)
    cut = Blocks(table, _cost(Cost, table, what), sizes)
    for units in site_units(table):
        for unit in sorted(units.tolist(), key=lambda u: -int(removal.saving[u])):
            if not removable.blocked[unit]:
                removable.remove(unit)
                removal.remove(unit)
                cut.remove(unit)
    return cut


def _cost[C: Cost](kind: Callable[[int, list[Term], int], C], table: CostTable, what: str) -> C:
    units = table.num_units
    if what == "keep":  # as many units as stay
        ones = np.ones(units, dtype=np.int64)
        return kind(units, [Term(1, 0, ones, 1, 0 * ones)], units)
    return kind(table.total(what), table.terms[what][1], units)


def _full(table: CostTable, what: str) -> int:
    return table.num_units if what == "keep" else table.total(what)


def _target(what: str, share: float, full: int) -> int:
    exact = _exactly(share) * full
    return int(exact + Fraction(1, 2)) if what == "keep" else int(exact)


def _exactly(share: float) -> Fraction:
    """The decimal that the user wrote: 0.29 of 100 is 29, not 28.999999999999996."""
    return Fraction(repr(float(share)))


def _up(part: int, whole: int) -> float:
    """part/whole rounded up to four digits, so that it can be met."""
    return -(-part * 10_000 // whole) / 10_000 if whole else 1.0
