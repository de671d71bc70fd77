"""Decisions: budgets, inclusion probabilities, evidence that does not fit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dirprune.analysis.decision.decide import decide
from dirprune.analysis.evidence import Scores, evidence
from dirprune.analysis.tree import load_tree, save_tree
from dirprune.model.cost import count_macs, count_params
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Case = Any  # of conftest.py
SITES = {"0": 6, "2": 5}


@pytest.fixture
def scores() -> dict[str, Tensor]:
    return {site: torch.rand(k, dtype=torch.float64) for site, k in SITES.items()}


def same(a: Decision, b: Decision) -> bool:
    return (
        a.kept.keys() == b.kept.keys()
        and all(torch.equal(v, b.kept[k]) for k, v in a.kept.items())
        and a.probability.keys() == b.probability.keys()
        and all(torch.equal(v, b.probability[k]) for k, v in a.probability.items())
    )


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 1.0])
def test_keep_is_exact_and_global(case: Case, scores: dict[str, Tensor], keep: float) -> None:
    decision = decide(case.model, scores, keep=keep)
    assert sum(len(k) for k in decision.kept.values()) == math.floor(keep * 11 + 0.5)
    # What is left, last units of their sites aside, scores at least as much as all that went.
    kept = [x for s, k in decision.kept.items() if len(k) > 1 for x in scores[s][k].tolist()]
    gone = [
        x
        for s, n in SITES.items()
        for u, x in enumerate(scores[s].tolist())
        if u not in decision.kept[s]
    ]
    assert len(gone) == 11 - math.floor(keep * 11 + 0.5)
    assert min(kept, default=1) >= max(gone, default=0)
    assert decision.settings == {"budget": {"keep": keep}}
    assert decision.probability == {}


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.6}, {"macs": 1.0}])
def test_the_pruned_network_costs_at_most_the_budget(
    case: Case, scores: dict[str, Tensor], budget: dict[str, float]
) -> None:
    ((what, share),) = budget.items()
    decision = decide(case.model, scores, **budget)
    pruned = prune(case.model, decision)
    full, left = (
        count_macs(n, (case.inputs[:2],)) if what == "macs" else count_params(n)
        for n in (case.model.network, pruned)
    )
    assert left <= share * full
    assert left == case.model.costs.total(what, decision.kept)
    assert (left == full) == (share == 1)


def test_no_site_is_emptied(case: Case) -> None:
    poor = {"0": torch.zeros(6), "2": torch.full((5,), 9.0)}
    assert decide(case.model, poor, keep=0.3).kept["0"].tolist() == [5]
    assert len(decide(case.model, poor, params=0.3).kept["0"]) >= 1


def test_a_site_without_evidence_keeps_all(case: Case, scores: dict[str, Tensor]) -> None:
    for budget in ({"keep": 0.7}, {"macs": 0.7}, {"params": 0.7}):
        decision = decide(case.model, {"2": scores["2"]}, **budget)
        assert decision.kept["0"].tolist() == list(range(6))
        assert len(decision.kept["2"]) < 5
    with pytest.raises(DirpruneError, match=r"at least 11 must stay.*keep=1\.0"):
        decide(case.model, {}, keep=0.5)


def test_plain_numbers_of_any_kind_will_do(case: Case) -> None:
    lists: dict[str, Any] = {"0": [1, 2, 3, 4, 5, 6], "2": np.arange(5.0)}
    tensors = {"0": torch.arange(1, 7), "2": torch.arange(5).float().requires_grad_()}
    bare = {"0": Scores(tensors["0"]), "2": Scores(tensors["2"])}
    decisions = [decide(case.model, e, keep=0.5) for e in (lists, tensors, bare)]
    assert all(same(d, decisions[0]) for d in decisions)
    assert decisions[0].kept["0"].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("budget", [{"keep": 0.5}, {"macs": 0.4}, {"params": 0.5}])
def test_inclusion_is_the_share_of_draws_whose_own_decision_keeps_the_unit(
    case: Case, budget: dict[str, Any]
) -> None:
    found = evidence("removal-cost", case.model, case.tree)
    decision = decide(case.model, found, **budget)
    number = 64
    shares = {site: torch.zeros(k, dtype=torch.float64) for site, k in SITES.items()}
    for i in range(number):
        own = decide(case.model, {s: e.draws[i] for s, e in found.items()}, **budget)  # type: ignore[index]
        for site, units in own.kept.items():
            shares[site][units] += 1 / number
    for site, share in shares.items():
        torch.testing.assert_close(decision.probability[site], share, rtol=1e-12, atol=1e-12)
    every = torch.cat(list(decision.probability.values()))
    assert len(every[(every > 0) & (every < 1)]) > 0  # the posterior is not of one mind
    if "keep" in budget:
        assert float(every.sum()) == pytest.approx(6)  # round(5.5) of each draw


def test_draws_of_one_site_alone_give_no_probability(case: Case) -> None:
    mixed = {"0": Scores(torch.rand(6), torch.rand(8, 6)), "2": Scores(torch.rand(5))}
    assert decide(case.model, mixed, keep=0.5).probability == {}
    # of every site that has evidence they do, and a site without stays with certainty
    alone = {"0": Scores(torch.rand(6), torch.rand(8, 6))}
    found = decide(case.model, alone, keep=0.7).probability
    assert found["2"].tolist() == [1.0] * 5
    assert float(found["0"].sum()) == pytest.approx(3)  # 8 of 11 less 5


def test_scores_that_do_not_compare_are_taken_relative_to_their_sites_mean(case: Case) -> None:
    # The second site's scores are a thousand times as large, and say the same.
    first, second = torch.tensor([1.0, 2, 3, 4, 5, 6]), torch.tensor([1.0, 2, 3, 4, 5]) * 1000
    relative = {"0": first / first.mean(), "2": second / second.mean()}
    own = {s: Scores(v, None, "c", across_sites=False) for s, v in (("0", first), ("2", second))}
    plain = {"0": first, "2": second}
    for keep in (0.3, 0.5, 0.8):
        assert same(decide(case.model, own, keep=keep), decide(case.model, relative, keep=keep))
    kept = decide(case.model, plain, keep=0.5).kept
    assert kept["2"].tolist() == [0, 1, 2, 3, 4]  # compared as they are, only the first loses


def test_concentrations_are_not_weighed_against_cost(case: Case) -> None:
    # With a macs budget units go in the order of K phi / Phi, whatever they save.
    found = evidence("concentration", case.model, case.tree)
    relative = {s: e.scores / e.scores.mean() for s, e in found.items()}
    decision = decide(case.model, found, macs=0.5)
    assert decision.probability == {}
    number = 11
    while number:
        by_count = decide(case.model, relative, keep=number / 11)
        if case.model.costs.total("macs", by_count.kept) <= 0.5 * case.model.costs.total("macs"):
            break
        number -= 1
    assert same(by_count, decision)


def test_the_tree_alone_decides_as_the_model_does(case: Case, tmp_path: Any) -> None:
    save_tree(case.tree, tmp_path / "posterior.nc")
    tree = load_tree(tmp_path / "posterior.nc")
    for name in ("removal-cost", "concentration"):
        for budget in ({"keep": 0.4}, {"macs": 0.4}, {"params": 0.6}):
            with_model = decide(case.model, evidence(name, case.model, case.tree), **budget)
            alone = decide(tree, evidence(name, None, tree), **budget)
            assert same(alone, with_model)


# -- bad input -------------------------------------------------------------------------------------


def test_a_budget_is_needed(case: Case, scores: dict[str, Tensor]) -> None:
    with pytest.raises(DirpruneError, match=r"expected a budget of .*, got none"):
        decide(case.model, scores)
    with pytest.raises(DirpruneError, match=r"expected a budget of .*, got none"):
        decide(case.model, scores, widths="uniform")


@pytest.mark.parametrize("share", [0, -0.1, 1.5, math.nan, math.inf, "0.5"])
@pytest.mark.parametrize("what", ["keep", "macs", "params"])
def test_a_share_lies_in_0_to_1(
    case: Case, scores: dict[str, Tensor], what: str, share: Any
) -> None:
    with pytest.raises(
        DirpruneError, match=rf"budget {what}={share}: expected a share in \(0, 1\]"
    ):
        decide(case.model, scores, **{what: share})


@pytest.mark.parametrize("what", ["keep", "macs", "params"])
def test_below_one_unit_a_layer_the_smallest_share_is_named_and_works(
    case: Case, scores: dict[str, Tensor], what: str
) -> None:
    with pytest.raises(DirpruneError, match="the smallest possible is") as caught:
        decide(case.model, scores, **{what: 0.01})
    smallest = float(str(caught.value).rsplit("=", 1)[1])
    decision = decide(case.model, scores, **{what: smallest})
    assert [len(k) for k in decision.kept.values()] == [1, 1]


def test_evidence_of_another_network(case: Case, scores: dict[str, Tensor]) -> None:
    with pytest.raises(DirpruneError, match=r"site 'conv1', which .* \(it has 0, 2\).*another"):
        decide(case.model, {**scores, "conv1": torch.ones(3)}, keep=0.5)
    with pytest.raises(DirpruneError, match=r"site '2': expected 5 finite scores, got shape \[4\]"):
        decide(case.model, {**scores, "2": torch.ones(4)}, keep=0.5)
    network = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3))
    other = SwitchedNetwork(network, torch.zeros(2, 4), num_data=60)
    with pytest.raises(DirpruneError, match="another network"):
        decide(other, evidence("removal-cost", None, case.tree), keep=0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_are_finite(case: Case, scores: dict[str, Tensor], value: float) -> None:
    scores["2"][3] = value
    with pytest.raises(DirpruneError, match=r"site '2': .*with NaN or infinity"):
        decide(case.model, scores, keep=0.5)
    draws = torch.rand(4, 5)
    draws[1, 1] = value
    with pytest.raises(DirpruneError, match=r"site '2': expected finite draws .*NaN or infinity"):
        decide(case.model, {"2": Scores(torch.ones(5), draws)}, keep=0.7)
    with pytest.raises(DirpruneError, match=r"expected finite draws \[S, 5\], got shape \[4, 6\]"):
        decide(case.model, {"2": Scores(torch.ones(5), torch.rand(4, 6))}, keep=0.7)


def test_a_residual_stream_that_grows_keeps_a_channel_of_its_first_layers() -> None:
    # The first layers of resnet20 own 16 of the stream's 64 units: poor as they are, one must stay,
    # or the first convolution would have no output. What decide returns can be pruned.
    network = build_network("resnet20", num_classes=10, in_channels=3, size=32)
    model = SwitchedNetwork(network, torch.randn(2, 3, 32, 32), num_data=10)
    assert [len(units) for units in model.costs.needed] == [16]
    poor = {name: torch.rand(site.size) + 1 for name, site in model.sites.items()}
    first = next(iter(poor))
    poor[first][model.costs.needed[0]] = 0.01
    for budget in ({"keep": 0.1}, {"macs": 0.02}, {"params": 0.03}):
        decision = decide(model, poor, **budget)
        assert set(decision.kept[first].tolist()) & set(model.costs.needed[0])
        pruned = prune(model, decision)
        assert pruned(torch.randn(2, 3, 32, 32)).shape == (2, 10)
