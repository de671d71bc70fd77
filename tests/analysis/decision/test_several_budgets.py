"""Two and three budgets at once, against naive versions of the rule."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from dirprune.analysis.decision.budget import cost_of, keep_within, smallest_share
from dirprune.analysis.decision.decide import decide
from dirprune.analysis.decision.removal import block_sizes
from dirprune.analysis.evidence import Scores, evidence
from dirprune.model.cost import CostTable, Term
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

from .cost_tables import come_back, total, units_of

Case = Any  # of conftest.py
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@st.composite
def tables(draw: st.DrawFn) -> CostTable:
    """Sites of 1 to 6 units that cost alike within a site, as channels do, in both costs."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))

    def axis() -> NDArray[np.int64]:
        return np.repeat([draw(st.integers(0, 3)) for _ in sizes], sizes)

    def terms() -> tuple[int, list[Term]]:
        return draw(st.integers(0, 20)), [
            Term(draw(st.integers(1, 9)), draw(st.integers(0, 3)), axis(),
                 draw(st.integers(0, 3)), axis())
            for _ in range(draw(st.integers(1, 4)))
        ]  # fmt: skip

    return CostTable({f"site{i}": k for i, k in enumerate(sizes)}, terms(), terms())


def target_of(table: CostTable, what: str, share: float) -> int:
    full = cost_of(table, np.ones(table.num_units, dtype=bool), what)
    exact = Fraction(str(share)) * full
    return int(exact + Fraction(1, 2)) if what == "keep" else int(exact)


SHARES = st.integers(1, 20).map(lambda n: n / 20)
PAIRS = st.lists(st.sampled_from(["macs", "params", "keep"]), min_size=2, max_size=3, unique=True)


@settings(max_examples=200)
@given(st.data(), tables(), PAIRS, st.booleans(), st.integers(1, 3))
def test_all_hold_and_are_full(
    data: st.DataObject, table: CostTable, names: list[str], per_cost: bool, round_to: int
) -> None:
    n = table.num_units
    scores = np.random.default_rng(data.draw(st.integers(0, 999))).random(n) - 0.1
    none = np.zeros(n, dtype=bool)
    budgets = {what: data.draw(SHARES) for what in names}
    feasible = all(
        smallest_share(table, none, what, round_to) <= share
        or _least(table, what, round_to) <= target_of(table, what, share)
        for what, share in budgets.items()
    )
    try:
        kept = keep_within(table, scores, none, budgets, per_cost=per_cost, round_to=round_to)
    except DirpruneError:
        assert not feasible  # the smallest network is one and the same for all budgets here
        return
    assert feasible
    for what, share in budgets.items():
        assert total(table, what, kept) <= target_of(table, what, share)
    assert all(kept[units].any() for units in units_of(table))
    if round_to > 1:
        return
    # Every unit that is gone would exceed one of the budgets, but for those that do harm.
    for u in np.flatnonzero(~kept & (scores > 0 if per_cost else True)):
        assert any(
            total(table, what, kept | (np.arange(n) == u)) > target_of(table, what, share)
            for what, share in budgets.items()
        )


def _least(table: CostTable, what: str, round_to: int) -> int:
    """What the smallest network costs, from the definition."""
    kept = np.zeros(table.num_units, dtype=bool)
    for units, size in zip(units_of(table), block_sizes(table, round_to), strict=True):
        kept[units[: size if size <= len(units) else None]] = True
    return total(table, what, kept)


@settings(max_examples=100)
@given(st.data(), tables(), PAIRS, st.booleans())
def test_where_one_decides_alone_it_is_its_own_decision(
    data: st.DataObject, table: CostTable, names: list[str], per_cost: bool
) -> None:
    n = table.num_units
    scores = np.random.default_rng(data.draw(st.integers(0, 999))).random(n)
    none = np.zeros(n, dtype=bool)
    first = names[0]
    share = max(data.draw(SHARES), smallest_share(table, none, first))
    alone = keep_within(table, scores, none, {first: share}, per_cost=per_cost)
    # The others allow just what it costs.
    others = {}
    for what in names[1:]:
        full = cost_of(table, ~none, what)
        others[what] = max(
            -(-10_000 * cost_of(table, alone, what) // max(full, 1)) / 10_000, 0.0001
        )
    both = keep_within(table, scores, none, {first: share, **others}, per_cost=per_cost)
    assert both.tolist() == alone.tolist()
    # In whatever order they come, all hold: another one's decision may be within all too.
    backwards = dict(reversed(({first: share, **others}).items()))
    kept = keep_within(table, scores, none, backwards, per_cost=per_cost)
    for what, s in backwards.items():
        assert cost_of(table, kept, what) <= target_of(table, what, s)


def naive(table: CostTable, scores: Floats, budgets: dict[str, float]) -> Bools | None:
    """What is left when all are met, as the docstring has it; None where it gets stuck."""
    n = len(scores)
    kept = np.ones(n, dtype=bool)
    full = {what: total(table, what, kept) for what in budgets}
    targets = {what: target_of(table, what, share) for what, share in budgets.items()}
    while True:
        cost = {what: total(table, what, kept) for what in budgets}
        over = {w: cost[w] - targets[w] for w in budgets if cost[w] > targets[w]}
        if not over:
            return kept
        best, unit = np.inf, None
        for u in range(n):
            without = kept & (np.arange(n) != u)
            if not kept[u] or not all(without[units].any() for units in units_of(table)):
                continue
            saved = {w: cost[w] - total(table, w, without) for w in over}
            if len(over) == 1:
                saving = float(max(1, *saved.values(), 1))
            else:
                saving = sum(saved[w] * (over[w] / full[w] / full[w]) for w in over)
                saving = max(saving, np.finfo(np.float64).tiny)
            if scores[u] / saving < best:
                best, unit = scores[u] / saving, u
        if unit is None:
            return None
        kept[unit] = False


@settings(max_examples=150)
@given(st.data(), tables(), SHARES, SHARES)
def test_the_rule_is_the_one_in_its_docstring(
    data: st.DataObject, table: CostTable, macs: float, params: float
) -> None:
    n = table.num_units
    scores = np.random.default_rng(data.draw(st.integers(0, 999))).random(n)
    none = np.zeros(n, dtype=bool)
    budgets = {"macs": macs, "params": params}
    targets = {what: target_of(table, what, share) for what, share in budgets.items()}
    for deciding in ([what] for what in budgets):
        kept = naive(table, scores, {what: budgets[what] for what in deciding})
        if kept is None:  # the cheapest network is its decision
            return
        if all(total(table, w, kept) <= most for w, most in targets.items()):
            break
    else:
        deciding, kept = list(budgets), naive(table, scores, budgets)
        if kept is None:
            return
    want = come_back(table, scores, none, kept, targets, True, deciding)
    got = keep_within(table, scores, none, budgets, per_cost=True)
    assert got.tolist() == want.tolist()


def test_what_one_budget_took_comes_back_when_the_other_leaves_room() -> None:
    # Four units of each of two sites; the macs are a x b, so that they fall with either. Both
    # budgets are exceeded at first, the macs by more, and units of a go, which save most of them;
    # for the parameters, which b has, three of b go as well. Then the macs are far below.
    zero = np.zeros(8, dtype=np.int64)
    a, b = np.repeat([1, 0], 4), np.repeat([0, 1], 4)
    table = CostTable(
        {"a": 4, "b": 4}, (0, [Term(1, 0, a, 0, b)]), (0, [Term(1, 0, a, 1, zero),
        Term(20, 0, b, 1, zero)]),
    )  # fmt: skip
    none, scores = np.zeros(8, dtype=bool), np.array([1.0, 1.1, 1.2, 1.3, 9.0, 9.1, 9.2, 9.3])
    budgets = {"macs": 4 / 16, "params": 24.5 / 84}
    kept = keep_within(table, scores, none, budgets, per_cost=True)
    # All four units of a fit beside one of b: 4 of 4 macs, 24 of 24 parameters.
    assert kept.tolist() == [True, True, True, True, False, False, False, True]


def plain_table(macs: list[int], params: list[int]) -> CostTable:
    """One site; every unit has costs of its own, and they add up."""
    n = len(macs)
    eye, zero = np.eye(n, dtype=np.int64), np.zeros(n, dtype=np.int64)

    def terms(costs: list[int]) -> tuple[int, list[Term]]:
        return 0, [Term(c, 0, eye[i], 1, zero) for i, c in enumerate(costs)]

    return CostTable({"a": n}, terms(macs), terms(params))


def test_the_price_of_a_budget_is_what_it_is_exceeded_by() -> None:
    # Unit 0 saves macs, unit 1 parameters, at equal scores. Both budgets are exceeded; that of the
    # parameters by more: unit 1 goes first, and after it the parameters are met, so unit 0 goes.
    table = plain_table([40, 10, 50], [10, 40, 50])
    none, scores = np.zeros(3, dtype=bool), np.array([1.0, 1.0, 100.0])
    kept = keep_within(table, scores, none, {"macs": 0.8, "params": 0.61}, per_cost=True)
    assert kept.tolist() == [False, False, True]
    kept = keep_within(table, scores, none, {"macs": 0.95, "params": 0.61}, per_cost=True)
    assert kept.tolist() == [True, False, True]  # 90 of 100 macs: the parameters decide alone


def test_what_no_decision_is_within_is_refused() -> None:
    # Each can be met by one unit, but not both by the same, and one has to stay.
    table = plain_table([1, 99], [99, 1])
    none = np.zeros(2, dtype=bool)
    for what in ("macs", "params"):
        assert keep_within(table, np.ones(2), none, {what: 0.01}, per_cost=True).sum() == 1
    with pytest.raises(DirpruneError, match=r"budgets macs=0.01, params=0.01: no decision"):
        keep_within(table, np.ones(2), none, {"macs": 0.01, "params": 0.01}, per_cost=True)
    # and what one of them cannot be alone is said of that one
    with pytest.raises(DirpruneError, match=r"budget params=0.001: .* possible is params=0.01"):
        keep_within(table, np.ones(2), none, {"macs": 0.5, "params": 0.001}, per_cost=True)


# -- through decide --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("digits-cnn", 1, 8),
        pytest.param("lenet5", 1, 28, marks=pytest.mark.slow),
        pytest.param("resnet20", 3, 32, marks=pytest.mark.slow),
    ],
)
def test_on_networks(name: str, channels: int, size: int) -> None:
    network = build_network(name, num_classes=10, in_channels=channels, size=size)
    model = SwitchedNetwork(network, torch.randn(2, channels, size, size), num_data=10)
    scores = {n: torch.rand(s.size) for n, s in model.sites.items()}
    costs = model.costs
    shares = {}
    for budget in ({"macs": 0.3}, {"params": 0.3}):
        kept = decide(model, scores, **budget).kept  # type: ignore[arg-type]
        shares |= {
            (*budget, what): costs.total(what, kept) / costs.total(what)
            for what in ("macs", "params")
        }
    # Alone, each leaves the other above three tenths: both bind.
    assert shares["macs", "params"] > 0.3 or shares["params", "macs"] > 0.3
    decision = decide(model, scores, macs=0.3, params=0.3)
    assert decision.settings == {"budget": {"macs": 0.3, "params": 0.3}}
    for what in ("macs", "params"):
        assert costs.total(what, decision.kept) <= 0.3 * costs.total(what)
    three = decide(model, scores, macs=0.5, params=0.4, keep=0.5)
    assert sum(len(k) for k in three.kept.values()) <= round(0.5 * costs.num_units)
    assert prune(model, three)(torch.randn(2, channels, size, size)).shape == (2, 10)


def test_inclusion_is_that_of_both(case: Case) -> None:
    found = evidence("removal-cost", case.model, case.tree)
    decision = decide(case.model, found, macs=0.5, keep=0.6)
    shares = {
        site: torch.zeros(len(p), dtype=torch.float64) for site, p in decision.probability.items()
    }
    for i in range(64):
        own = decide(case.model, {s: e.draws[i] for s, e in found.items()}, macs=0.5, keep=0.6)  # type: ignore[index]
        for site, units in own.kept.items():
            shares[site][units] += 1 / 64
    for site, share in shares.items():
        torch.testing.assert_close(decision.probability[site], share, rtol=1e-12, atol=1e-12)


def test_concentrations_go_in_their_order_until_all_hold(case: Case) -> None:
    scores = {
        site: Scores(torch.rand(k), None, "c", across_sites=False)
        for site, k in {"0": 6, "2": 5}.items()
    }
    both = decide(case.model, scores, macs=0.5, keep=0.5).kept
    by = [decide(case.model, scores, macs=0.5).kept, decide(case.model, scores, keep=0.5).kept]
    fewest: dict[str, Tensor] = min(by, key=lambda kept: sum(map(len, kept.values())))
    assert all(torch.equal(units, fewest[site]) for site, units in both.items())


def test_a_unit_that_saves_nothing_overflows_nothing(case: Case) -> None:
    # Warnings are errors. Three budgets of one: none is ever over.
    scores = {"0": torch.rand(6) * 1e6, "2": torch.rand(5)}
    found = decide(case.model, scores, macs=1, params=1, keep=1)
    assert [len(kept) for kept in found.kept.values()] == [6, 5]
    rounded = decide(case.model, scores, macs=1, params=1, keep=1, round_to=2)
    assert [len(kept) for kept in rounded.kept.values()] == [6, 4]
    assert decide(case.model, scores, macs=np.float32(0.5)).settings["budget"] == {"macs": 0.5}
