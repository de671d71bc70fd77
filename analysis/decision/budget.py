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
from .refill import Room, refill, refill_blocks
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

    Of several budgets, one whose own removals leave the network within all others decides alone: a
    decision that is best under fewer bounds, and within all, is best. Where there is none, two
    bounds bind, and what a unit saves is

    .. math:: \sum_b \frac{d_b(u)}{f_b} \cdot \frac{\max(0, c_b - t_b)}{f_b}

    with :math:`d_b` the saving in budget b, :math:`c_b` the cost that is left, :math:`t_b` the
    target and :math:`f_b` the full cost: how fast the unit lowers half the sum of squared
    excesses. So a budget's price is what it is exceeded by: the one that is further from being met
    counts for more, one that is met for nothing, and nothing jumps where one becomes so.

    Then removed units come back one by one, while all budgets stay met: the last to go may have
    been a large one, and what went for one budget may have become cheap by what went for another.
    Of those that fit, the best is next: the one with the highest score, divided if ``per_cost`` by
    what it costs now in the budget that decided alone, or by the largest share
    :math:`\max_b p_b(u) / (t_b - c_b)` that its price takes of what is left, where several did. Of
    equals the one with the last index comes first, since it would have gone last. Of scores
    per cost, a unit whose score is zero or less is worth no cost, and stays away. In the end no
    other unit fits. Decisions
    under a smaller and a larger budget need not be nested.

    Where units are parts of others (features of flattened channels), a channel takes its features
    with it, and the last feature its channel where nothing else reads it; what a removal saves
    counts all that goes. A feature brings its channel back, a channel those of its features that
    there is no evidence about, and the price is that of all that comes; without ``per_cost`` these
    come after all that come alone.

    With ``round_to`` units are chosen in the same order, and go when as many are chosen in their
    site as make a block (:func:`~.removal.block_sizes`); one block stays in each site, a site that
    is smaller stays whole. Then blocks come back, of each site the units with the highest scores,
    by their mean score, divided if ``per_cost`` by the mean of what they cost each alone.

    Raises:
        DirpruneError: the budgets cannot be met; the message names the smallest that can.
    """
    # First each of several alone.
    deciders = [[what] for what in budgets] if len(budgets) > 1 else []
    for deciding in [*deciders, list(budgets)]:
        kept = _decided(table, scores, fixed, budgets, deciding, per_cost, round_to)
        if kept is not None and is_within(table, kept, budgets):
            room = _room(table, kept, budgets, deciding)
            if round_to > 1:
                sizes = block_sizes(table, round_to)
                return refill_blocks(table, room, scores, kept, sizes, per_cost=per_cost)
            return refill(table, room, scores, fixed, kept, per_cost=per_cost)
    for what, share in budgets.items():
        least = _smallest(table, fixed, {what: share}, what, round_to).costs.left[0]
        full = full_cost(table, what)
        if least <= (most := target(what, share, full)):
            continue
        one = "one unit" if round_to == 1 else f"{round_to} channels, or all where there are fewer,"
        rounded = "" if round_to == 1 else f" with round_to={round_to}"
        raise DirpruneError(
            f"budget {what}={share}{rounded}: {most:,} of {full:,} "
            f"{'units' if what == 'keep' else what}, but at least {least:,} must stay ({one} in "
            f"each site, and all without evidence); the smallest possible is {what}="
            f"{up(least, full)}"
        )
    named = ", ".join(f"{what}={share}" for what, share in budgets.items())
    raise DirpruneError(f"budgets {named}: no decision was found that is within all of them")


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


def _decided(
    table: CostTable,
    scores: Floats,
    fixed: Bools,
    budgets: Mapping[str, float],
    deciding: Sequence[str],
    per_cost: bool,
    round_to: int,
) -> Bools | None:
    """What is left when the deciding budgets are met; None where no way to that is known."""
    own = {what: budgets[what] for what in deciding}
    cut = _by_score(table, scores, fixed, own, per_cost, round_to)
    # What is left by score is one unit (or block) a site, and they may be too dear. Then the
    # cheapest ones stay instead.
    for cheapest in deciding:
        if cut.costs.met:
            return cut.kept
        cut = _smallest(table, fixed, own, cheapest, round_to)
    return cut.kept if cut.costs.met else None


def _room(
    table: CostTable, kept: Bools, budgets: Mapping[str, float], deciding: Sequence[str]
) -> Room:
    return Room(
        [_cost(Removal, table, what, kept) for what in budgets],
        [target(what, share, full_cost(table, what)) for what, share in budgets.items()],
        [i for i, what in enumerate(budgets) if what in deciding],
    )


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


def _cost[C: Cost](
    kind: Callable[[int, list[Term], Bools], C],
    table: CostTable,
    what: str,
    kept: Bools | None = None,
) -> C:
    """A cost of what is kept, by default of all."""
    kept = np.ones(table.num_units, dtype=bool) if kept is None else kept
    return kind(cost_of(table, kept, what), _terms(table, what), kept)


def _terms(table: CostTable, what: str) -> list[Term]:
    if what == "keep":  # as many units as stay
        ones = np.ones(table.num_units, dtype=np.int64)
        return [Term(1, 0, ones, 1, 0 * ones)]
    return table.terms[what][1]
