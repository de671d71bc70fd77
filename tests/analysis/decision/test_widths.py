"""Uniform and given widths: by definition, on random costs and on real networks."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from dirprune.analysis.decision.budget import cost_of, is_within
from dirprune.analysis.decision.decide import decide
from dirprune.analysis.decision.widths import keep_uniform, keep_widths, smallest_uniform_share
from dirprune.analysis.evidence import Scores, evidence
from dirprune.model.cost import CostTable
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

from .cost_tables import tables, units_of

Case = Any  # of conftest.py
Bools = NDArray[np.bool_]


def by_definition(size: int, share: float | Fraction) -> int:
    """Half a unit is rounded up; of the decimal that was written."""
    exact = share if isinstance(share, Fraction) else Fraction(str(share))
    return max(1, floor(exact * size + Fraction(1, 2)))


SHARES = st.integers(1, 100).map(lambda n: n / 100)
BUDGETS = st.dictionaries(st.sampled_from(["macs", "params", "keep"]), SHARES, min_size=1)


@settings(max_examples=200)
@given(st.data(), tables(9), BUDGETS)
def test_the_largest_common_share_within_the_budgets(
    data: st.DataObject, table: CostTable, budgets: dict[str, float]
) -> None:
    n = table.num_units
    scores = np.random.default_rng(data.draw(st.integers(0, 999))).permutation(n).astype(float)
    fixed = np.concatenate([np.full(k, data.draw(st.booleans())) for k in table.sites.values()])
    costs = {what: share for what, share in budgets.items() if what != "keep"}
    try:
        kept, share = keep_uniform(table, scores, fixed, budgets)
    except DirpruneError as error:
        what, smallest = str(error).rsplit(" ", 1)[1].split("=")
        assert float(smallest) == smallest_uniform_share(table, scores, fixed, what)
        assert float(smallest) > budgets[what]
        return
    assert is_within(table, kept, costs)
    assert 0 < share <= budgets.get("keep", 1.0)
    for size, units in zip(table.sites.values(), units_of(table), strict=True):
        number = int(kept[units].sum())
        if fixed[units].all():
            assert number == size
            continue
        assert number == by_definition(size, share)
        # The best by score, but for the one that a layer of the site needs.
        best = sorted(units, key=lambda u: -scores[u])[:number]
        needed = [s for s in table.needed if set(s) <= set(units)]
        if all(set(best) & set(s) for s in needed):
            assert set(np.flatnonzero(kept)) & set(units) == set(best)
        assert all(kept[s].any() for s in needed)
    # The same again under its own share, and nothing larger fits.
    assert keep_uniform(table, scores, fixed, {"keep": share})[0].tolist() == kept.tolist()
    steps = [Fraction(2 * j - 1, 2 * k) for k in table.sites.values() for j in range(1, k + 1)]
    larger = [
        s for s in steps if Fraction(repr(share)) < s <= Fraction(str(budgets.get("keep", 1)))
    ]
    if larger:
        more = keep_uniform(table, scores, fixed, {"keep": _decimal(min(larger), larger)})[0]
        assert more.tolist() == kept.tolist() or not is_within(table, more, costs)


def _decimal(step: Fraction, larger: list[Fraction]) -> float:
    """A decimal at or a little above a step, and below the next one."""
    above = [s for s in larger if s > step]
    return float(step + (min(above) - step) / 1000) if above else float(step) + 1e-12


@given(st.data(), tables(9))
def test_so_many_units_as_were_given(data: st.DataObject, table: CostTable) -> None:
    n = table.num_units
    table.needed = []
    scores = np.random.default_rng(data.draw(st.integers(0, 999))).permutation(n).astype(float)
    widths = {
        name: data.draw(st.integers(1, k))
        for name, k in table.sites.items()
        if data.draw(st.booleans())
    }
    kept = keep_widths(table, scores, np.zeros(n, dtype=bool), widths)
    for (name, size), units in zip(table.sites.items(), units_of(table), strict=True):
        best = sorted(units, key=lambda u: -scores[u])[: widths.get(name, size)]
        assert set(np.flatnonzero(kept)) & set(units) == set(best)


def test_ties_go_by_index() -> None:
    table = CostTable({"a": 4, "b": 3}, (0, []), (0, []))
    none, equal = np.zeros(7, dtype=bool), np.ones(7)
    kept, share = keep_uniform(table, equal, none, {"keep": 0.5})
    assert kept.tolist() == [False, False, True, True, False, True, True]  # 1.5 is rounded up
    assert share == 0.5
    kept = keep_widths(table, equal, none, {"a": 1})
    assert kept.tolist() == [False, False, False, True, True, True, True]


def test_every_site_keeps_one_unit() -> None:
    table = CostTable({"a": 40, "b": 2, "c": 1}, (0, []), (0, []))
    kept, _ = keep_uniform(table, np.ones(43), np.zeros(43, dtype=bool), {"keep": 0.1})
    assert [int(kept[units].sum()) for units in units_of(table)] == [4, 1, 1]


# -- through decide --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> SwitchedNetwork:
    """A perceptron with the widths of LeNet-5: 20, 50 and 500 units."""
    network = nn.Sequential(
        nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 50), nn.ReLU(), nn.Linear(50, 500), nn.ReLU(),
        nn.Linear(500, 10),
    )  # fmt: skip
    return SwitchedNetwork(network, torch.randn(2, 8), num_data=10)


def random_scores(model: SwitchedNetwork) -> dict[str, Tensor]:
    return {name: torch.rand(site.size) for name, site in model.sites.items()}


def test_the_same_share_of_every_site(model: SwitchedNetwork) -> None:
    scores = random_scores(model)
    decision = decide(model, scores, keep=0.3, widths="uniform")
    assert {n: len(k) for n, k in decision.kept.items()} == {"0": 6, "2": 15, "4": 150}
    assert decision.settings == {"budget": {"keep": 0.3}, "widths": "uniform", "share": 0.3}
    for name, kept in decision.kept.items():
        best = scores[name].argsort(descending=True)[: len(kept)]
        assert kept.tolist() == sorted(best.tolist())


@pytest.mark.parametrize("budget", [{"macs": 0.3}, {"params": 0.1}, {"macs": 0.2, "params": 0.3}])
def test_budgets_hold_and_the_next_share_exceeds_one(
    model: SwitchedNetwork, budget: dict[str, float]
) -> None:
    scores, costs = random_scores(model), model.costs
    decision = decide(model, scores, **budget, widths="uniform")  # type: ignore[arg-type]
    share = decision.settings["share"]
    assert all(costs.total(w, decision.kept) <= s * costs.total(w) for w, s in budget.items())
    # Of 500 units: the next step is at most a five-hundredth away. One unit in each site takes
    # 20 of 31,160 multiply-adds.
    more = decide(model, scores, keep=share + 0.002, widths="uniform").kept
    assert any(costs.total(w, more) > s * costs.total(w) for w, s in budget.items())
    with pytest.raises(DirpruneError, match=r"uniform widths: .* smallest possible is macs=0.0007"):
        decide(model, scores, macs=0.0005, widths="uniform")


def test_criteria_that_do_not_compare_across_sites_do_here(case: Case) -> None:
    scores = {"0": torch.arange(6.0), "2": torch.arange(5.0)}
    scaled = {s: Scores(v * 7, None, "c", across_sites=False) for s, v in scores.items()}
    for budget in ({"macs": 0.5}, {"keep": 0.5}):
        plain = decide(case.model, scores, **budget, widths="uniform")  # type: ignore[arg-type]
        other = decide(case.model, scaled, **budget, widths="uniform")  # type: ignore[arg-type]
        assert all(torch.equal(units, other.kept[n]) for n, units in plain.kept.items())


@pytest.mark.parametrize(
    "options", [{"macs": 0.5, "widths": "uniform"}, {"widths": {"0": 2, "2": 3}}]
)
def test_inclusion_is_that_of_the_same_rule(case: Case, options: dict[str, Any]) -> None:
    found = evidence("removal-cost", case.model, case.tree)
    decision = decide(case.model, found, **options)
    shares = {s: torch.zeros(len(p), dtype=torch.float64) for s, p in decision.probability.items()}
    for i in range(64):
        own = decide(case.model, {s: e.draws[i] for s, e in found.items()}, **options)  # type: ignore[index]
        for site, units in own.kept.items():
            shares[site][units] += 1 / 64
    for site, share in shares.items():
        torch.testing.assert_close(decision.probability[site], share, rtol=1e-12, atol=1e-12)
        assert float(share.sum()) == pytest.approx(len(decision.kept[site]))


def test_the_tree_alone_will_do(case: Case) -> None:
    found = evidence("removal-cost", None, case.tree)
    decision = decide(case.tree, found, widths={"2": 2})
    assert {n: len(k) for n, k in decision.kept.items()} == {"0": 6, "2": 2}
    assert decision.settings == {"budget": {}, "widths": {"2": 2}}


def test_multiples_of_uniform_widths_are_rounded_down(model: SwitchedNetwork) -> None:
    decision = decide(model, random_scores(model), keep=0.5, widths="uniform", round_to=8)
    # 10, 25 and 250
    assert {n: len(k) for n, k in decision.kept.items()} == {"0": 8, "2": 24, "4": 248}
    decision = decide(model, random_scores(model), macs=0.5, widths="uniform", round_to=16)
    assert [len(k) % 16 for k in decision.kept.values()] == [0, 0, 0]
    assert model.costs.total("macs", decision.kept) <= 0.5 * model.costs.total("macs")
    # one that is smaller than a block stays whole
    decision = decide(model, random_scores(model), keep=0.1, widths="uniform", round_to=32)
    assert {n: len(k) for n, k in decision.kept.items()} == {"0": 20, "2": 32, "4": 32}


@pytest.mark.slow
def test_a_growing_residual_stream_keeps_what_its_first_layers_need() -> None:
    network = build_network("resnet20", num_classes=10, in_channels=3, size=32)
    model = SwitchedNetwork(network, torch.randn(2, 3, 32, 32), num_data=10)
    poor = {name: torch.rand(site.size) + 1 for name, site in model.sites.items()}
    first = next(iter(poor))
    poor[first][model.costs.needed[0]] = 0.01
    for options in ({"keep": 0.2, "widths": "uniform"}, {"widths": {first: 3}}):
        decision = decide(model, poor, **options)  # type: ignore[arg-type]
        assert set(decision.kept[first].tolist()) & set(model.costs.needed[0])
        assert prune(model, decision)(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert len(decision.kept[first]) == 3


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ({"conv1": 3}, r"widths name the site 'conv1', which .* \(it has 0, 2\)"),
        ({"0": 7}, r"7 units of site '0': expected a whole number from 1 to 6"),
        ({"0": 0}, r"0 units of site '0': expected a whole number from 1 to 6"),
        ({"0": 2.0}, r"2\.0 units of site '0'"),
        ({"0": True}, r"True units of site '0'"),
        ({}, r"widths={}: expected 'uniform', or units by site as in \{'0': 1\}"),
        ("unifrom", r"widths='unifrom': expected 'uniform'"),
        (3, r"widths=3: expected 'uniform'"),
    ],
)
def test_widths_that_do_not_fit(case: Case, widths: Any, said: str) -> None:
    scores = {"0": torch.rand(6), "2": torch.rand(5)}
    with pytest.raises(DirpruneError, match=said):
        decide(case.model, scores, widths=widths)


def test_what_does_not_go_together(case: Case) -> None:
    scores = {"0": torch.rand(6), "2": torch.rand(5)}
    with pytest.raises(DirpruneError, match="need no budget, and take none: got macs too"):
        decide(case.model, scores, widths={"0": 2}, macs=0.5)
    with pytest.raises(DirpruneError, match="round_to rounds widths that follow from a budget"):
        decide(case.model, scores, widths={"0": 2}, round_to=2)
    with pytest.raises(DirpruneError, match=r"2 of 6 units of site '0', but there is no evidence"):
        decide(case.model, {"2": scores["2"]}, widths={"0": 2})


def test_layers_that_own_a_part_may_need_more_than_was_given() -> None:
    table = CostTable({"a": 4}, (0, []), (0, []), [[0, 1], [2, 3]])
    with pytest.raises(DirpruneError, match=r"1 of 4 units of site 'a', but at least 2 must stay"):
        keep_widths(table, np.ones(4), np.zeros(4, dtype=bool), {"a": 1})
    assert cost_of(table, np.ones(4, dtype=bool), "keep") == 4


def test_a_draw_that_cannot_have_the_widths_is_left_out(
    monkeypatch: pytest.MonkeyPatch, model: SwitchedNetwork
) -> None:
    # Layers that own the units {0, 1}, {1, 2} and {3} of one site: by scores that spare unit 1 two
    # units can stay, by scores that take it first three have to.
    table = CostTable({"a": 4}, (0, []), (0, []), [[0, 1], [1, 2], [3]])
    monkeypatch.setattr(model, "costs", table)
    good, bad = torch.tensor([0.0, 3, 0, 3]), torch.tensor([3.0, 0, 3, 3])
    scores = Scores(good, torch.stack([good, bad, good]))
    found = decide(model, {"a": scores}, widths={"a": 2})
    assert found.kept["a"].tolist() == [1, 3]
    assert found.settings["draws_left_out"] == 1
    assert found.probability["a"].tolist() == [0, 1, 0, 1]
