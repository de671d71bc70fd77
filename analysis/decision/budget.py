"""The rule behind a decision: units go, least first, until what is left is within the budgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model.cost import CostTable, Term
from ...model.errors import DirpruneError
from .removal import (
    Blocks,
    Cost,
    Costs,
    Removable,
    Removal,
    block_sizes,
    site_units,
)
from .saving import SavingWithParts

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
# For units that save nothing, which go last: far below a saving, and no score overflows over it.
LEAST_SAVING = 1e-200


def keep_within(
    table: CostTable,
    scores: Floats,
    fixed: Bools,
    budgets: Mapping[str, float],
    *,
    per_cost: bool = False,
    round_to: int = 1,
) -> Bools:
    r"""Remove units until each of "macs", "params", "keep" is at most its share of the full value.

    The least score goes first, divided by what the removal saves if ``per_cost``; of every site
    one unit stays, and all of those without evidence, which ``fixed`` marks. The target of "keep"
    is rounded to a whole number of units.

    Where units are parts of others (features of flattened channels), a channel takes its features
    with it, and the last feature its channel where nothing else reads it; what a removal saves
    counts all that goes. Of "keep" as many units stay as come back one by one, best first, when the
    last to go took more than one with it.

    Of several budgets, one whose own decision is within all others decides alone: a decision that
    is best under fewer bounds, and within all, is best. Where there is none, two bounds bind, and
    what a unit saves is

    .. math:: \sum_b \frac{d_b(u)}{f_b} \cdot \frac{\max(0, c_b - t_b)}{f_b}

    with :math:`d_b` the saving in budget b, :math:`c_b` the cost that is left, :math:`t_b` the
    target and :math:`f_b` the full cost: how fast the unit lowers half the sum of squared
    excesses. So a budget's price is what it is exceeded by: the one that is further from being met
    counts for more, one that is met for nothing, and nothing jumps where one becomes so.

    With ``round_to`` units are chosen in the same order, and go when as many are chosen in their
    site as make a block (:func:`~.removal.block_sizes`); one block stays in each site, a site that
    is smaller stays whole. Then blocks come back, best first, where they fit.

    Raises:
        DirpruneError: the budgets cannot be met; the message names the smallest that can.
    """
    if len(budgets) > 1:
        for what, share in budgets.items():
            kept = keep_within(
                table, scores, fixed, {what: share}, per_cost=per_cost, round_to=round_to
            )
            if is_within(table, kept, budgets):
                return kept
    cut = _by_score(table, scores, fixed, budgets, per_cost, round_to)
    if cut.costs.met:
        if round_to > 1:
            cut.fill(scores)
        elif "keep" in budgets and not table.nesting.is_flat:
            cut.fill_closed(scores, fixed)
        return cut.kept
    # What is left by score is one unit (or block) a site, and they are too dear. Take the cheapest
    # ones instead, and of the others what fits, best first.
    for cheapest in budgets:
        cut = _smallest(table, fixed, budgets, cheapest, round_to)
        if cut.costs.met:
            if table.nesting.is_flat:
                cut.fill(scores)
            else:
                cut.fill_closed(scores, fixed)
            return cut.kept
    if len(budgets) > 1:  # each can be met alone, or it would have said so above
        named = ", ".join(f"{what}={share}" for what, share in budgets.items())
        raise DirpruneError(f"budgets {named}: no decision was found that is within all of them")
    ((what, share),) = budgets.items()
    full, (least,) = full_cost(table, what), cut.costs.left
    one = "one unit" if round_to == 1 else f"{round_to} channels, or all where there are fewer,"
    rounded = "" if round_to == 1 else f" with round_to={round_to}"
    raise DirpruneError(
        f"budget {what}={share}{rounded}: {target(what, share, full):,} of {full:,} "
        f"{'units' if what == 'keep' else what}, but at least {least:,} must stay ({one} in "
        f"each site, and all without evidence); the smallest possible is {what}="
        f"{up(least, full)}"
    )


def smallest_share(table: CostTable, fixed: Bools, what: str, round_to: int = 1) -> float:
    """The smallest budget in ``what`` that can be met, rounded up to four digits."""
    cut = _smallest(table, fixed, {what: 1.0}, what, round_to)
    return up(cut.costs.left[0], full_cost(table, what))


def is_within(table: CostTable, kept: Bools, budgets: Mapping[str, float]) -> bool:
    """Is a decision within all budgets?"""
    return all(
        cost_of(table, kept, what) <= target(what, share, full_cost(table, what))
        for what, share in budgets.items()
    )


def cost_of(table: CostTable, kept: Bools, what: str) -> int:
    """What the kept units cost."""
    return int(kept.sum()) if what == "keep" else table.total(what, by_site(table, kept))


def full_cost(table: CostTable, what: str) -> int:
    """What all units cost."""
    return table.num_units if what == "keep" else table.total(what)


def target(what: str, share: float, full: int) -> int:
    """What a budget allows; of units the nearest whole number."""
    exact = exactly(share) * full
    return int(exact + Fraction(1, 2)) if what == "keep" else int(exact)


def exactly(share: float) -> Fraction:
    """The decimal that the user wrote: 0.29 of 100 is 29, not 28.999999999999996."""
    return Fraction(repr(float(share)))


def up(part: int, whole: int) -> float:
    """part/whole rounded up to four digits, so that it can be met."""
    return -(-part * 10_000 // whole) / 10_000 if whole else 1.0


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
    budgets: Mapping[str, float],
    per_cost: bool,
    round_to: int,
) -> Blocks:
    sizes = block_sizes(table, round_to)
    removable = Removable(table, fixed, sizes)
    cut = Blocks(table, costs_of(table, budgets), sizes)
    removals = [_cost(Removal, table, what) for what in budgets] if per_cost else []
    savings = [_with_parts(r, table, what) for r, what in zip(removals, budgets, strict=False)]
    full = [full_cost(table, what) for what in budgets]

    def go(unit: int) -> None:
        for u in removable.remove(unit):
            cut.remove(u)
            for removal in removals:
                removal.remove(u)

    def rank() -> Floats:
        if not per_cost:
            return scores
        return _rank(scores, [s(removable.kept) for s in savings], cut.costs.over, full)

    # First what each site has over a multiple, which goes under any budget.
    at_first = rank()
    for units, size in zip(site_units(table), sizes, strict=True):
        over = len(units) % size
        for unit in units[np.argsort(at_first[units], kind="stable")].tolist():
            if over and not removable.blocked[unit]:
                go(unit)
                over -= 1
    order = _savers(rank, removable) if per_cost else _in_order(scores, removable)
    for unit in order:
        if cut.costs.met:
            break
        go(unit)
    return cut


def _in_order(scores: Floats, removable: Removable) -> Iterator[int]:
    for unit in np.argsort(scores, kind="stable").tolist():
        if removable.allows(unit):
            yield unit


def _savers(rank: Callable[[], Floats], removable: Removable) -> Iterator[int]:
    """By score per cost, counted again after each removal."""
    while not removable.blocked.all():
        ranks = rank()
        ranks[removable.blocked] = np.inf
        unit = int(ranks.argmin())
        if removable.allows(unit):
            yield unit


def _rank(
    scores: Floats,
    savings: Sequence[NDArray[np.int64]],
    over: Sequence[int],
    full: Sequence[int],
) -> Floats:
    if not any(over):
        over = full  # all are met: nothing is dearer than anything else
    binding = [i for i, excess in enumerate(over) if excess]
    if len(binding) == 1:
        saving: Floats = np.maximum(savings[binding[0]], 1)
    else:
        saving = np.zeros(len(scores))
        for i in binding:
            saving += savings[i] * (over[i] / full[i] / max(full[i], 1))
        saving = np.maximum(saving, LEAST_SAVING)
    # A negative score says that the unit does harm: such units go first, worst first.
    ranks: Floats = np.where(scores < 0, scores, np.maximum(scores, 0) / saving)
    return ranks


def _smallest(
    table: CostTable, fixed: Bools, budgets: Mapping[str, float], what: str, round_to: int
) -> Blocks:
    """The cheapest decision in ``what``: site by site, all but the cheapest units gone."""
    sizes = block_sizes(table, round_to)
    removable, removal = Removable(table, fixed, sizes), _cost(Removal, table, what)
    cut = Blocks(table, costs_of(table, budgets), sizes)
    saving = _with_parts(removal, table, what)
    for units in site_units(table):
        now = saving(removable.kept)
        for unit in sorted(units.tolist(), key=lambda u: -int(now[u])):
            if removable.allows(unit):
                for u in removable.remove(unit):
                    removal.remove(u)
                    cut.remove(u)
    return cut


def costs_of(table: CostTable, budgets: Mapping[str, float]) -> Costs:
    """The costs of all units in these budgets, beside what each allows."""
    return Costs(
        [_cost(Cost, table, what) for what in budgets],
        [target(what, share, full_cost(table, what)) for what, share in budgets.items()],
    )


def _with_parts(removal: Removal, table: CostTable, what: str) -> SavingWithParts:
    return SavingWithParts(removal, _terms(table, what), table.nesting)


def _cost[C: Cost](kind: Callable[[int, list[Term], int], C], table: CostTable, what: str) -> C:
    return kind(full_cost(table, what), _terms(table, what), table.num_units)


def _terms(table: CostTable, what: str) -> list[Term]:
    if what == "keep":  # as many units as stay
        ones = np.ones(table.num_units, dtype=np.int64)
        return [Term(1, 0, ones, 1, 0 * ones)]
    return table.terms[what][1]
