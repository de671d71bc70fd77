"""The two rules behind a decision, against naive versions of themselves."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dirprune.analysis.decision.budget import _cost, keep_within
from dirprune.analysis.decision.removal import Removal
from dirprune.model.cost import CostTable, Term
from dirprune.model.errors import DirpruneError

from .cost_tables import come_back, tables, total, units_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def scores_of(data: st.DataObject, table: CostTable, least: float = 0) -> Floats:
    values = st.floats(least, 10, allow_subnormal=False) | st.integers(int(least), 3).map(float)
    n = table.num_units
    return np.array(data.draw(st.lists(values, min_size=n, max_size=n)), dtype=np.float64)


def fixed_of(data: st.DataObject, table: CostTable) -> Bools:
    return np.concatenate([np.full(k, data.draw(st.booleans())) for k in table.sites.values()])


def sets_of(table: CostTable) -> list[list[int]]:
    """The units of each site, and the sets inside sites that need a unit."""
    return units_of(table) + table.needed


def valid(table: CostTable, kept: Bools, fixed: Bools) -> bool:
    return bool(kept[fixed].all()) and all(kept[units].any() for units in sets_of(table))


def naive_within(
    table: CostTable, scores: Floats, fixed: Bools, what: str, share: float, per_cost: bool
) -> Bools | None:
    """The rule as its docstring says it, all costs counted anew; None where it gets stuck."""
    kept = np.ones(len(scores), dtype=bool)
    target = Fraction(str(share)) * total(table, what, kept)
    while total(table, what, kept) > target:
        best, unit = np.inf, None
        for u in range(len(scores)):
            without = kept.copy()
            without[u] = False
            if not kept[u] or not valid(table, without, fixed):
                continue
            saving = max(1, total(table, what, kept) - total(table, what, without))
            rank = scores[u] if scores[u] < 0 or not per_cost else scores[u] / saving
            if rank < best:
                best, unit = rank, u
        if unit is None:
            return None
        kept[unit] = False
    return come_back(table, scores, fixed, kept, {what: int(target)}, per_cost)


SHARES = st.integers(1, 100).map(lambda n: n / 100)

# -- costs -----------------------------------------------------------------------------------------


@given(st.data(), tables(), st.sampled_from(["macs", "params"]))
def test_savings_kept_up_to_date_are_the_differences_of_totals(
    data: st.DataObject, table: CostTable, what: str
) -> None:
    removal = _cost(Removal, table, what)
    kept = np.ones(table.num_units, dtype=bool)
    for unit in data.draw(st.lists(st.integers(0, table.num_units - 1), max_size=12)):
        (removal.remove if kept[unit] else removal.restore)(unit)
        kept[unit] = not kept[unit]
        assert removal.cost == total(table, what, kept)
    for unit in range(table.num_units):
        other = kept.copy()
        other[unit] = not other[unit]
        difference = abs(total(table, what, other) - total(table, what, kept))
        assert difference == (removal.saving[unit] if kept[unit] else removal.price(unit))
    by_site, start = {}, 0
    for name, size in table.sites.items():
        by_site[name] = torch.from_numpy(kept[start : start + size].nonzero()[0])
        start += size
    assert table.total(what, by_site) == total(table, what, kept)


# -- keep ------------------------------------------------------------------------------------------


@given(st.data(), tables(), SHARES)
def test_exactly_so_many_units_stay(data: st.DataObject, table: CostTable, share: float) -> None:
    scores, fixed = scores_of(data, table, least=-3), fixed_of(data, table)
    units = table.num_units
    wanted = int(Fraction(str(share)) * units + Fraction(1, 2))
    try:
        kept = keep_within(table, scores, fixed, {"keep": share})
    except DirpruneError as error:
        smallest = float(str(error).rsplit("keep=", 1)[1])
        assert smallest > share
        assert keep_within(table, scores, fixed, {"keep": smallest}).sum() > wanted
        return
    assert kept.sum() == wanted
    assert valid(table, kept, fixed)
    # No kept unit could have gone instead of a gone one with a larger score (or an equal one and a
    # later number).
    for k in np.flatnonzero(kept):
        for g in np.flatnonzero(~kept):
            swapped = kept.copy()
            swapped[[k, g]] = [False, True]
            if valid(table, swapped, fixed):
                assert (scores[k], k) > (scores[g], g)


def test_ties_go_by_index() -> None:
    table = CostTable({"a": 4, "b": 2}, (0, []), (0, []))
    none = np.zeros(6, dtype=bool)
    kept = keep_within(table, np.ones(6), none, {"keep": 0.5})
    assert kept.tolist() == [False, False, False, True, True, True]
    # never the last of a site
    assert keep_within(table, np.arange(6.0), none, {"keep": 1 / 3}).tolist() == [
        False, False, False, True, False, True,
    ]  # fmt: skip


def test_half_a_unit_is_rounded_up_and_shares_are_decimals() -> None:
    table = CostTable({"a": 5}, (0, []), (0, []))
    none = np.zeros(5, dtype=bool)
    assert keep_within(table, np.arange(5.0), none, {"keep": 0.5}).sum() == 3
    assert keep_within(table, np.arange(5.0), none, {"keep": 0.3}).sum() == 2  # 1.5
    table = CostTable({"a": 50}, (0, []), (0, []))
    # 0.29 x 50 = 14.499999999999998 in floating point, and 14.5 on paper
    assert keep_within(table, np.arange(50.0), np.zeros(50, dtype=bool), {"keep": 0.29}).sum() == 15


# -- macs and params -------------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.data(), tables(), SHARES, st.sampled_from(["macs", "params"]), st.booleans())
def test_within_the_budget_and_full_and_valid(
    data: st.DataObject, table: CostTable, share: float, what: str, per_cost: bool
) -> None:
    scores, fixed = scores_of(data, table), fixed_of(data, table)
    target = Fraction(str(share)) * total(table, what, np.ones(len(scores), dtype=bool))
    try:
        kept = keep_within(table, scores, fixed, {what: share}, per_cost=per_cost)
    except DirpruneError as error:
        smallest = float(str(error).rsplit("=", 1)[1])
        assert smallest > share
        assert valid(
            table, keep_within(table, scores, fixed, {what: smallest}, per_cost=per_cost), fixed
        )
        return
    assert total(table, what, kept) <= target
    assert valid(table, kept, fixed)
    # every unit that is gone would exceed the budget, but for those that are worth no cost
    for u in np.flatnonzero(~kept & (scores > 0 if per_cost else True)):
        assert total(table, what, kept | (np.arange(len(kept)) == u)) > target


@settings(max_examples=200)
@given(st.data(), tables(most=4), SHARES, st.sampled_from(["macs", "params"]), st.booleans())
def test_the_rule_is_the_one_in_its_docstring(
    data: st.DataObject, table: CostTable, share: float, what: str, per_cost: bool
) -> None:
    scores, fixed = scores_of(data, table, least=-3), fixed_of(data, table)
    expected = naive_within(table, scores, fixed, what, share, per_cost)
    if expected is not None:
        kept = keep_within(table, scores, fixed, {what: share}, per_cost=per_cost)
        assert kept.tolist() == expected.tolist()


def plain_table(sizes: dict[str, int], cost: list[int]) -> CostTable:
    """Every unit has a cost of its own, and the costs add up."""
    units = sum(sizes.values())
    eye = np.eye(units, dtype=np.int64)
    zero = np.zeros(units, dtype=np.int64)
    terms = [Term(c, 0, eye[i], 1, zero) for i, c in enumerate(cost)]
    return CostTable(sizes, (0, terms), (0, terms))


def test_a_site_whose_best_unit_is_too_dear_keeps_a_cheaper_one() -> None:
    # By score the dear unit 1 would be the last one of its site, and exceed the budget alone.
    table = plain_table({"a": 3}, [1, 90, 2])
    none = np.zeros(3, dtype=bool)
    kept = keep_within(table, np.array([1.0, 1e6, 2.0]), none, {"macs": 0.05}, per_cost=True)
    assert kept.tolist() == [True, False, True]  # 3 of 93, at most 4
    # and where it fits it stays
    kept = keep_within(table, np.array([1.0, 1e6, 2.0]), none, {"macs": 0.97}, per_cost=True)
    assert kept.tolist() == [False, True, False]  # unit 0 at 1/1 before unit 2 at 2/2: by index


def test_per_cost_prefers_what_saves_most() -> None:
    table = plain_table({"a": 3}, [1, 10, 10])
    none, scores = np.zeros(3, dtype=bool), np.array([1.0, 2.0, 3.0])
    # 2/10 < 3/10 < 1/1: unit 1 goes first, then 2; by score alone unit 0 goes, then 1
    assert keep_within(table, scores, none, {"macs": 0.6}, per_cost=True).tolist() == [
        True,
        False,
        True,
    ]
    assert keep_within(table, scores, none, {"macs": 0.5}, per_cost=True).tolist() == [
        True,
        False,
        False,
    ]
    assert keep_within(table, scores, none, {"macs": 0.5}, per_cost=False).tolist() == [
        False,
        False,
        True,
    ]


def test_a_unit_that_does_harm_goes_first() -> None:
    table = plain_table({"a": 4}, [10, 10, 10, 1])
    none, scores = np.zeros(4, dtype=bool), np.array([1.0, 2.0, 3.0, -0.1])
    assert keep_within(table, scores, none, {"macs": 0.99}, per_cost=True).tolist() == [
        True,
        True,
        True,
        False,
    ]
    # at the full budget nothing has to go
    assert keep_within(table, scores, none, {"macs": 1.0}, per_cost=True).all()


def test_units_that_fit_come_back() -> None:
    # By score per cost 0 goes first, then 1 and 2, which leaves 31 of 66.
    table = plain_table({"a": 4}, [5, 10, 20, 31])
    none, scores = np.zeros(4, dtype=bool), np.array([0.5, 2.0, 10.0, 99.0])
    back = {46: [0, 1], 45: [1], 40: [0], 36: [0], 35: []}
    back[41] = [1]  # both would fit alone: the one with the higher score per cost
    for most, units in back.items():
        kept = keep_within(table, scores, none, {"macs": (most + 0.5) / 66}, per_cost=True)
        assert kept.nonzero()[0].tolist() == [*units, 3], most
    # What does harm stays away, where a score is a loss; elsewhere a score is but an order.
    scores[0] = -0.5
    for per_cost in (True, False):
        kept = keep_within(table, scores, none, {"macs": 36.5 / 66}, per_cost=per_cost)
        assert kept.nonzero()[0].tolist() == ([3] if per_cost else [0, 3])


@given(st.integers(1, 999))
def test_a_budget_is_the_decimal_that_was_written(part: int) -> None:
    # 29 of 100 fits macs=0.29, though 0.29 * 100 is 28.999999999999996.
    table = plain_table({"a": 2}, [part, 1000 - part])
    none, scores = np.zeros(2, dtype=bool), np.array([1e6, 0.0])
    kept = keep_within(table, scores, none, {"macs": part / 1000}, per_cost=True)
    assert kept.tolist() == [True, False]


def test_the_least_unit_of_a_set_inside_a_site_stays() -> None:
    # Units 0 and 1 are all that an early layer has: one of them stays, whatever its score.
    table = plain_table({"a": 4}, [1, 1, 1, 1])
    table.needed = [[0, 1]]
    none, scores = np.zeros(4, dtype=bool), np.array([1.0, 2.0, 3.0, 4.0])
    assert keep_within(table, scores, none, {"keep": 0.25}).tolist() == [False, True, False, False]
    assert keep_within(table, scores, none, {"keep": 0.5}).tolist() == [False, True, False, True]
    kept = keep_within(table, scores, none, {"params": 0.25}, per_cost=True)
    assert kept.tolist() == [False, True, False, False]


def test_ten_thousand_units_and_four_draws() -> None:
    # Not timed; a rule of cubic time would not end here.
    sizes = {f"s{i}": 1000 for i in range(10)}
    terms = []
    for i in range(9):
        rows, columns = np.zeros((2, 10_000), dtype=np.int64)
        rows[1000 * i : 1000 * (i + 1)] = 1
        columns[1000 * (i + 1) : 1000 * (i + 2)] = 1
        terms.append(Term(9, 0, rows, 0, columns))
    table = CostTable(sizes, (0, terms), (0, terms))
    generator: Any = np.random.default_rng(0)
    none = np.zeros(10_000, dtype=bool)
    for _ in range(4):
        kept = keep_within(table, generator.random(10_000), none, {"macs": 0.3}, per_cost=True)
        assert total_fast(table, kept) <= 0.3 * 9 * 9 * 10**6
        assert total_fast(table, kept) > 0.299 * 9 * 9 * 10**6


def total_fast(table: CostTable, kept: Bools) -> int:
    return sum(
        t.coefficient * int(t.rows[kept].sum()) * int(t.columns[kept].sum())
        for t in table.terms["macs"][1]
    )


@pytest.mark.parametrize("share", [0.001, 0.01])
def test_an_impossible_budget_names_the_smallest_possible(share: float) -> None:
    table = plain_table({"a": 3, "b": 3}, [1, 2, 3, 4, 5, 6])
    none = np.zeros(6, dtype=bool)
    with pytest.raises(DirpruneError, match=r"least 5 must stay.*possible is macs=0\.2381"):
        keep_within(table, np.ones(6), none, {"macs": share}, per_cost=True)
    assert keep_within(table, np.ones(6), none, {"macs": 0.2381}, per_cost=True).sum() == 2
    with pytest.raises(DirpruneError, match=r"at least 2 must stay.*keep=0\.3334"):
        keep_within(table, np.ones(6), none, {"keep": share})
