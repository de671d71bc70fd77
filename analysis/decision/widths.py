"""Widths that the scores do not choose: the same share in every site, or given numbers."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model.cost import CostTable
from ...model.errors import DirpruneError
from .budget import cost_of, exactly, full_cost, is_within, target, up
from .removal import Removable, block_sizes, site_units

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
UNIFORM = "uniform"


def keep_uniform(
    table: CostTable,
    scores: Floats,
    fixed: Bools,
    budgets: Mapping[str, float],
    round_to: int = 1,
) -> tuple[Bools, float]:
    r"""Keep the same share p of every site, the largest that is within the budgets.

    Of a site of K units the best :math:`\max(1, \lfloor p K + \frac12 \rfloor)` stay, and of those
    layers that own only some of them at least one each; with ``round_to`` that number goes down to
    a multiple, of at least one block. A site without evidence, or smaller than a block, stays
    whole. "keep" bounds p itself.

    Returns:
        What stays, and p; where a cost set it, as the shortest decimal that gives these widths.

    Raises:
        DirpruneError: one unit or block in each site is too much already.
    """

    def keep(share: Fraction) -> Bools:
        return _keep_share(table, scores, fixed, share, round_to)

    most = exactly(budgets.get("keep", 1.0))
    costs = {what: share for what, share in budgets.items() if what != "keep"}
    # Widths change where a site's share is half a unit over a whole number, and costs grow with
    # the share.
    steps = {Fraction(2 * j - 1, 2 * k) for k in table.sites.values() for j in range(2, k + 1)}
    shares = [Fraction(0), *sorted(step for step in steps if step <= most)]
    low, high = 0, len(shares) - 1
    _check_smallest(table, keep(shares[0]), costs, round_to)
    while low < high:
        middle = ceil((low + high) / 2)
        if is_within(table, keep(shares[middle]), costs):
            low = middle
        else:
            high = middle - 1
    if low == len(shares) - 1:
        return keep(most), float(most)
    return keep(shares[low]), _shortest(shares[low], shares[low + 1])


def keep_widths(table: CostTable, scores: Floats, fixed: Bools, widths: Mapping[str, int]) -> Bools:
    """Keep so many units of each site, the best by score; a site that is not named stays whole.

    Raises:
        DirpruneError: the site has no evidence to choose by, or layers that own only some of its
            units (in a residual stream that grows) need more, or the channels that stay have fewer
            features, or each needs one.
    """
    kept = _keep_best(table, scores, fixed, widths)
    for (name, size), units in zip(table.sites.items(), site_units(table), strict=True):
        wanted, left = widths.get(name, size), int(kept[units].sum())
        if left < wanted and name in widths:
            raise DirpruneError(
                f"widths: {wanted} of {size} units of site {name!r}, but the channels that stay "
                f"have {left} of them"
            )
        if left > wanted:
            why = (
                "there is no evidence to choose them by"
                if fixed[units].all()
                else f"at least {left} must stay: one for each layer that owns only some of the "
                "units, and of features one for each channel that stays"
            )
            raise DirpruneError(f"widths: {wanted} of {size} units of site {name!r}, but {why}")
    return kept


def smallest_uniform_share(
    table: CostTable, scores: Floats, fixed: Bools, what: str, round_to: int = 1
) -> float:
    """The smallest budget in ``what`` that uniform widths can meet, rounded up to four digits."""
    smallest = _keep_share(table, scores, fixed, Fraction(0), round_to)
    return up(cost_of(table, smallest, what), full_cost(table, what))


def check_widths(table: CostTable, widths: Any) -> None:
    """Refuse widths that do not fit the sites.

    Raises:
        DirpruneError: neither None, "uniform" nor a mapping; an unknown site; no whole number,
            less than one unit or more than there are.
    """
    if widths is None or widths == UNIFORM:
        return
    if not isinstance(widths, Mapping) or not widths:
        raise DirpruneError(
            f"widths={widths!r}: expected 'uniform', or units by site as in "
            f"{{{next(iter(table.sites))!r}: 1}}"
        )
    for name, number in widths.items():
        if name not in table.sites:
            raise DirpruneError(
                f"widths name the site {name!r}, which this network does not have "
                f"(it has {', '.join(table.sites)})"
            )
        size = table.sites[name]
        if type(number) is not int or not 1 <= number <= size:
            raise DirpruneError(
                f"widths: {number!r} units of site {name!r}: expected a whole number from 1 to "
                f"{size}, the units that it has"
            )


def _keep_share(
    table: CostTable, scores: Floats, fixed: Bools, share: Fraction, round_to: int
) -> Bools:
    widths = {}
    blocks = block_sizes(table, round_to)
    for (name, size), units, block in zip(
        table.sites.items(), site_units(table), blocks, strict=True
    ):
        number = max(1, floor(share * size + Fraction(1, 2)))
        if size < block or fixed[units].all():
            number = size
        elif block > 1:
            number = max(block, number // block * block)
        widths[name] = number
    return _keep_best(table, scores, fixed, widths)


def _keep_best(table: CostTable, scores: Floats, fixed: Bools, widths: Mapping[str, int]) -> Bools:
    """The best units of each site, so many or as few as its layers allow; ties go by index."""
    kept = np.ones(table.num_units, dtype=bool)
    removable = Removable(table, fixed, [1] * len(table.sites))
    # Channels come before their features, of which they take some with them.
    for (name, size), units in zip(table.sites.items(), site_units(table), strict=True):
        over = int(kept[units].sum()) - widths.get(name, size)
        for unit in units[np.argsort(scores[units], kind="stable")].tolist():
            if over <= 0 or not removable.allows(unit):
                continue
            if table.nesting.is_part[unit] and len(table.nesting.going(kept, unit)) > 1:
                continue  # its channel, whose number is given, would go with it
            kept[removable.remove(unit)] = False
            over -= 1
    return kept


def _check_smallest(
    table: CostTable, smallest: Bools, budgets: Mapping[str, float], round_to: int
) -> None:
    for what, share in budgets.items():
        least, full = cost_of(table, smallest, what), full_cost(table, what)
        if least > target(what, share, full):
            rounded = "" if round_to == 1 else f" and round_to={round_to}"
            raise DirpruneError(
                f"budget {what}={share} with uniform widths{rounded}: "
                f"{target(what, share, full):,} of {full:,} {what}, but at least {least:,} must "
                f"stay; the smallest possible is {what}={up(least, full)}"
            )


def _shortest(low: Fraction, high: Fraction) -> float:
    """The shortest decimal in [low, high), above 0."""
    power = 10
    while (number := max(1, ceil(low * power))) >= high * power:
        power *= 10
    return number / power
