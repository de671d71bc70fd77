"""``round_to``: whole blocks of channels, by enumeration on small networks and on real ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from dirprune.analysis.decision.budget import keep_within, smallest_share
from dirprune.analysis.decision.decide import decide
from dirprune.analysis.decision.removal import block_sizes
from dirprune.analysis.evidence import Scores
from dirprune.model.cost import CostTable, Term
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

from .cost_tables import units_of

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# -- small networks, as their costs ----------------------------------------------------------------


@st.composite
def tables(draw: st.DrawFn, uniform: bool = True) -> CostTable:
    """At most 11 units in sites; those of a site cost the same, as channels mostly do."""
    sites = st.lists(st.sampled_from([4, 5, 6, 3, 2, 1]), min_size=2, max_size=4)
    sizes = draw(sites.filter(lambda s: sum(s) <= 11))
    starts = np.cumsum([0, *sizes])

    def axis() -> NDArray[np.int64]:
        if uniform:
            return np.repeat([draw(st.integers(0, 2)) for _ in sizes], sizes)
        return np.array([draw(st.integers(0, 2)) for _ in range(sum(sizes))])

    terms = [
        Term(draw(st.integers(1, 3)), draw(st.integers(0, 3)), axis(), draw(st.integers(0, 3)),
             axis())
        for _ in range(draw(st.integers(1, 4)))
    ]  # fmt: skip
    params = [
        Term(draw(st.sampled_from([1, 20, 5])), 0, np.repeat(np.arange(len(sizes)) == i, sizes) * 1,
             1, np.zeros(sum(sizes), dtype=np.int64))
        for i in range(len(sizes))
    ]  # fmt: skip
    needed = [
        list(range(start, start + size - 1))
        for start, size in zip(starts[:-1].tolist(), sizes, strict=True)
        if size > 2 and draw(st.booleans())
    ]
    names = {f"site{i}": size for i, size in enumerate(sizes)}
    return CostTable(names, (draw(st.integers(0, 50)), terms + params), (0, params), needed)


def cost(table: CostTable, what: str, kept: Bools) -> int:
    if what == "keep":
        return int(kept.sum())
    kept_by_site = {
        name: torch.tensor([i for i, u in enumerate(units) if kept[u]], dtype=torch.long)
        for name, units in zip(table.sites, units_of(table), strict=True)
    }
    return table.total(what, kept_by_site)


def allowed(table: CostTable, kept: Bools, fixed: Bools, round_to: int) -> bool:
    """Multiples in every site, and what has to stay stays."""
    for units in units_of(table):
        number = int(kept[units].sum())
        if fixed[units].all() or len(units) < round_to:
            if number < len(units):
                return False
        elif number == 0 or number % round_to:
            return False
    return all(kept[units].any() for units in table.needed)


def decisions(table: CostTable, fixed: Bools, round_to: int) -> Iterator[Bools]:
    for kept in itertools.product([False, True], repeat=table.num_units):
        candidate = np.array(kept)
        if allowed(table, candidate, fixed, round_to):
            yield candidate


def target_of(what: str, share: float, full: int) -> int:
    exact = Fraction(str(share)) * full
    return int(exact + Fraction(1, 2)) if what == "keep" else int(exact)


WHAT = st.sampled_from(["macs", "params", "keep"])
PLACES = st.integers(-10, 100)  # of 100, between the smallest that is possible and all; or below


def share_at(table: CostTable, fixed: Bools, what: str, round_to: int, place: int) -> float:
    smallest = smallest_share(table, fixed, what, round_to)
    return min(1.0, max(0.0001, round(smallest + (1 - smallest) * place / 100, 4)))


@settings(max_examples=150)
@given(st.data(), tables(), PLACES, WHAT, st.sampled_from([2, 3, 4, 1]), st.booleans())
def test_the_decision_is_one_of_all_that_there_are_and_not_needlessly_small(
    data: st.DataObject, table: CostTable, place: int, what: str, round_to: int, per_cost: bool
) -> None:
    n = table.num_units
    scores = np.random.default_rng(data.draw(st.integers(0, 999))).random(n) - 0.1
    fixed = np.concatenate([np.full(k, data.draw(st.booleans())) for k in table.sites.values()])
    share = share_at(table, fixed, what, round_to, place)
    target = target_of(what, share, cost(table, what, np.ones(n, dtype=bool)))
    every = [cost(table, what, kept) for kept in decisions(table, fixed, round_to)]
    options: dict[str, Any] = {"per_cost": per_cost and what != "keep", "round_to": round_to}
    said = ""
    try:
        kept = keep_within(table, scores, fixed, {what: share}, **options)
    except DirpruneError as error:
        said = str(error)
    # It refuses exactly where nothing fits, and names what would.
    assert bool(said) == (min(every) > target)
    if said:
        smallest = float(said.rsplit("=", 1)[1])
        assert smallest == smallest_share(table, fixed, what, round_to) > share
        assert f"at least {min(every):,} must stay" in said
        keep_within(table, scores, fixed, {what: smallest}, **options)
        return
    assert cost(table, what, kept) <= target
    assert allowed(table, kept, fixed, round_to)
    harmless = scores > 0 if options["per_cost"] else scores < np.inf
    for units in units_of(table):
        gone = [u for u in units if not kept[u] and harmless[u]]
        for block in itertools.combinations(gone, round_to):
            more = kept.copy()
            more[list(block)] = True
            assert cost(table, what, more) > target


@given(st.data(), tables(uniform=False), PLACES, WHAT, st.integers(2, 4), st.booleans())
def test_units_of_a_site_may_differ_in_cost(
    data: st.DataObject, table: CostTable, place: int, what: str, round_to: int, per_cost: bool
) -> None:
    n = table.num_units
    scores = np.array(data.draw(st.lists(st.floats(-1, 9), min_size=n, max_size=n)))
    none = np.zeros(n, dtype=bool)
    share = share_at(table, none, what, round_to, max(place, 0))
    kept = keep_within(
        table, scores, none, {what: share}, per_cost=per_cost and what != "keep", round_to=round_to
    )
    assert cost(table, what, kept) <= target_of(what, share, cost(table, what, ~none))
    assert allowed(table, kept, none, round_to)


def naive(
    table: CostTable, scores: Floats, what: str, target: int, round_to: int, per_cost: bool
) -> Bools:
    """The rule as its docstring says it, all costs counted anew."""
    sites = units_of(table)
    ahead, kept = np.ones((2, len(scores)), dtype=bool)

    def rank(unit: int) -> float:
        if not per_cost or scores[unit] < 0:
            return float(scores[unit])
        without = ahead.copy()
        without[unit] = False
        saved = cost(table, what, ahead) - cost(table, what, without)
        return float(scores[unit]) / max(1, saved)

    def candidates() -> list[int]:
        found = []
        for units in sites:
            if int(ahead[units].sum()) <= round_to:
                continue
            for unit in units:
                without = ahead.copy()
                without[unit] = False
                if ahead[unit] and all(without[needed].any() for needed in table.needed):
                    found.append(unit)
        return found

    first = [rank(u) for u in range(len(scores))]
    for units in sites:
        if len(units) >= round_to:
            for _ in range(len(units) % round_to):
                unit = min((u for u in candidates() if u in units), key=lambda u: first[u])
                ahead[unit] = kept[unit] = False
    while cost(table, what, kept) > target:
        unit = min(candidates(), key=rank)
        ahead[unit] = False
        for units in sites:
            if unit in units and int((kept[units] & ~ahead[units]).sum()) == round_to:
                kept[units] = ahead[units]
    while True:
        fitting = []
        for units in sites:
            gone = sorted((u for u in units if not kept[u]), key=lambda u: -scores[u])[:round_to]
            more = kept.copy()
            more[gone] = True
            if len(gone) == round_to and cost(table, what, more) <= target:
                merit = scores[gone].sum()
                if per_cost:
                    each = [kept | (np.arange(len(kept)) == u) for u in gone]
                    merit /= sum(
                        max(1, cost(table, what, k) - cost(table, what, kept)) for k in each
                    )
                fitting.append((merit, more))
        if not fitting:
            return kept
        kept = max(fitting, key=lambda f: f[0])[1]


@settings(max_examples=150)
@given(st.data(), tables(), PLACES, WHAT, st.integers(2, 3), st.booleans())
def test_the_rule_is_the_one_in_its_docstring(
    data: st.DataObject, table: CostTable, place: int, what: str, round_to: int, per_cost: bool
) -> None:
    n = table.num_units
    # Scores that differ: ties go by index, which the naive rule has no care for.
    scores = np.array(data.draw(st.permutations(range(n))), dtype=float) + 1
    per_cost = per_cost and what != "keep"
    none = np.zeros(n, dtype=bool)
    share = share_at(table, none, what, round_to, max(place, 0))
    target = target_of(what, share, cost(table, what, ~none))
    try:
        want = naive(table, scores, what, target, round_to, per_cost)
    except ValueError:  # no candidate is left
        return
    got = keep_within(table, scores, none, {what: share}, per_cost=per_cost, round_to=round_to)
    assert got.tolist() == want.tolist()


def plain_table(sizes: dict[str, int], channels: dict[str, list[int]]) -> CostTable:
    """Every site has layers with so many channels a unit."""
    terms, start = [], 0
    units = sum(sizes.values())
    for name, size in sizes.items():
        for count in channels[name]:
            rows = np.zeros(units, dtype=np.int64)
            rows[start : start + size] = count
            terms.append(Term(3, 0, rows, 1, 0 * rows))
        start += size
    return CostTable(sizes, (0, terms), (0, terms))


def test_channels_are_counted_and_not_units() -> None:
    sizes = dict.fromkeys("abcdefg", 12)
    channels = {
        "a": [1], "b": [4], "c": [8], "d": [64, 128], "e": [6], "f": [2, 1], "g": [],
    }  # fmt: skip
    table = plain_table(sizes, channels)
    # lcm(8, c) / c units, c being the common divisor: 4 channels a unit make 8 with 2 units, 6 make
    # 24 with 4, and 2 in one layer beside 1 in another need 8 units. A site without parameters of
    # its own counts units.
    assert block_sizes(table, 8) == [8, 2, 1, 1, 4, 8, 8]
    assert block_sizes(table, 1) == [1] * 7


def test_what_a_site_has_over_a_multiple_goes_under_any_budget() -> None:
    table = plain_table({"a": 20, "b": 7, "c": 16}, {name: [1] for name in "abc"})
    kept = keep_within(table, np.arange(43.0), np.zeros(43, dtype=bool), {"macs": 1.0}, round_to=8)
    assert (~kept).nonzero()[0].tolist() == [0, 1, 2, 3]  # the least of the first site, and no more
    fixed = np.arange(43) < 20
    assert keep_within(table, np.ones(43), fixed, {"macs": 1.0}, round_to=8).all()


def test_slack_is_filled_with_what_went_before() -> None:
    # 64 in all, 40 may stay. The first block of a, the worst, goes (-4), then one of b (-28), which
    # leaves 32: there is room again for a's.
    table = plain_table({"a": 8, "b": 8}, {"a": [1], "b": [7]})
    scores, none = np.array([1.0] * 8 + [2.0] * 8), np.zeros(16, dtype=bool)
    kept = keep_within(table, scores, none, {"macs": 40 / 64}, round_to=4)
    assert [int(kept[:8].sum()), int(kept[8:].sum())] == [8, 4]
    assert cost(table, "macs", kept) == 3 * 36
    # not where it would exceed the budget by one
    kept = keep_within(table, scores, none, {"macs": 35 / 64}, round_to=4)
    assert [int(kept[:8].sum()), int(kept[8:].sum())] == [4, 4]


# -- through decide --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lenet() -> SwitchedNetwork:
    network = build_network("lenet5", num_classes=10, in_channels=1, size=28)
    return SwitchedNetwork(network, torch.randn(2, 1, 28, 28), num_data=10)


def random_scores(model: SwitchedNetwork) -> dict[str, Tensor]:
    return {name: torch.rand(site.size) for name, site in model.sites.items()}


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.2}, {"keep": 0.3}, {"macs": 1.0}])
@pytest.mark.parametrize("round_to", [4, 8])
def test_layers_of_the_pruned_network_have_multiples(
    lenet: SwitchedNetwork, budget: dict[str, float], round_to: int
) -> None:
    ((what, share),) = budget.items()
    decision = decide(lenet, random_scores(lenet), **budget, round_to=round_to)  # type: ignore[arg-type]
    assert decision.settings == {"budget": budget, "round_to": round_to}
    smaller: Any = prune(lenet, decision)
    widths = [smaller.conv1.out_channels, smaller.conv2.out_channels, smaller.fc1.out_features]
    assert [w % round_to for w in widths] == [0, 0, 0]
    assert widths == [len(units) for units in decision.kept.values()]
    if what == "keep":
        assert sum(widths) <= round(share * 570)
        assert sum(widths) + round_to > round(share * 570)
    else:
        left = lenet.costs.total(what, decision.kept)
        assert left <= share * lenet.costs.total(what)
    if share == 1:
        assert widths == [20 - 20 % round_to, 50 - 50 % round_to, 500 - 500 % round_to]


def test_groups_of_a_grouped_convolution_count_by_their_channels() -> None:
    network: Any = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=8), nn.ReLU(),
        nn.Conv2d(32, 24, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 5),
    )  # fmt: skip
    model = SwitchedNetwork(network, torch.randn(2, 3, 8, 8), num_data=10)
    # The grouped convolution goes by whole groups of 4 channels: two of them make 8 channels.
    units = {name: site.size for name, site in model.sites.items()}
    assert set(units.values()) == {8, 24}
    for macs in (0.3, 0.5, 0.7, 0.9):
        decision = decide(model, random_scores(model), macs=macs, round_to=8)
        smaller: Any = prune(model, decision)
        widths = [smaller[i].out_channels for i in (0, 2, 4)]
        assert [w % 8 for w in widths] == [0, 0, 0]
        assert model.costs.total("macs", decision.kept) <= macs * model.costs.total("macs")
    assert any(len(k) % 8 for k in decision.kept.values())  # by units it would be coarser


def test_inclusion_is_that_of_the_rounded_rule(lenet: SwitchedNetwork) -> None:
    draws = {name: torch.rand(5, site.size) for name, site in lenet.sites.items()}
    scores = {name: Scores(d.mean(0), d) for name, d in draws.items()}
    decision = decide(lenet, scores, macs=0.4, round_to=8)
    for name, chance in decision.probability.items():
        own = [
            decide(lenet, {n: d[i] for n, d in draws.items()}, macs=0.4, round_to=8).kept[name]
            for i in range(5)
        ]
        want = torch.zeros(lenet.sites[name].size, dtype=torch.float64)
        for units in own:
            assert len(units) % 8 == 0
            want[units] += 0.2
        torch.testing.assert_close(chance, want)


def test_a_growing_residual_stream_keeps_what_its_first_layers_need() -> None:
    network = build_network("resnet20", num_classes=10, in_channels=3, size=32)
    model = SwitchedNetwork(network, torch.randn(2, 3, 32, 32), num_data=10)
    poor = {name: torch.rand(site.size) + 1 for name, site in model.sites.items()}
    first = next(iter(poor))
    poor[first][model.costs.needed[0]] = 0.01
    decision = decide(model, poor, macs=0.1, round_to=8)
    assert set(decision.kept[first].tolist()) & set(model.costs.needed[0])
    assert {len(units) % 8 for units in decision.kept.values()} == {0}
    assert prune(model, decision)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("round_to", [0, -1, 1.5, "8", True])
def test_round_to_is_a_whole_number(lenet: SwitchedNetwork, round_to: Any) -> None:
    with pytest.raises(
        DirpruneError, match=rf"round_to={round_to}: expected a whole number of at least 1"
    ):
        decide(lenet, random_scores(lenet), macs=0.5, round_to=round_to)


def test_larger_than_every_site_leaves_all_and_says_what_is_possible(
    lenet: SwitchedNetwork,
) -> None:
    scores = random_scores(lenet)
    kept = decide(lenet, scores, macs=1.0, round_to=512).kept
    assert [len(units) for units in kept.values()] == [20, 50, 500]
    with pytest.raises(DirpruneError) as caught:
        decide(lenet, scores, macs=0.5, round_to=512)
    assert str(caught.value) == (
        "budget macs=0.5 with round_to=512: 1,146,500 of 2,293,000 macs, but at least 2,293,000 "
        "must stay (512 channels, or all where there are fewer, in each site, and all without "
        "evidence); the smallest possible is macs=1.0"
    )


def test_one_is_as_if_nothing_were_said(lenet: SwitchedNetwork) -> None:
    scores = random_scores(lenet)
    for budget in ({"macs": 0.3}, {"params": 0.7}, {"keep": 0.5}):
        one, none = (decide(lenet, scores, **budget, round_to=r).kept for r in (1, None))  # type: ignore[arg-type]
        assert all(torch.equal(units, none[name]) for name, units in one.items())
