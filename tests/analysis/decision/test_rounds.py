"""Removal in rounds: against the same rounds by hand, one shot, and the physical network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.decision import rounds as rounds_file
from dirprune.analysis.decision.budget import target
from dirprune.analysis.decision.decide import decide, draws_masks
from dirprune.analysis.decision.rounds import Round, Rounds, prune_in_rounds
from dirprune.analysis.decision.schedule import share_of
from dirprune.analysis.evidence import (
    CRITERIA,
    Criterion,
    Evidence,
    Material,
    Passes,
    Scores,
    evidence,
)
from dirprune.guides import AutoDirichlet
from dirprune.inference.compensation import compensate
from dirprune.inference.fit import fit
from dirprune.inference.loop import seed_of
from dirprune.inference.steps import Steps
from dirprune.model.cost import count_macs, count_params
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import CifarResNet
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Case = Any  # of conftest.py: a 4-6-5-3 perceptron
SITES = {"0": 6, "2": 5}
FEW = "removal-cost:draws=8:images=20"


def quick(case: Case, **options: Any) -> Rounds:
    return prune_in_rounds(case.model, case.loader, **{"evidence": FEW, "steps": 6, **options})


def equal_networks(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def equal_tensors(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def equal(a: Rounds, b: Rounds) -> bool:
    return (
        equal_networks(a.network, b.network)
        and equal_tensors(a.decision.kept, b.decision.kept)
        and equal_tensors(a.decision.probability, b.decision.probability)
        and a.decision.settings == b.decision.settings
        and [r.units for r in a.rounds] == [r.units for r in b.rounds]
    )


@pytest.fixture(scope="module")
def residual(randomise_norms: Callable[[nn.Module], nn.Module]) -> Case:
    """A residual network in float64 whose stream grows, and 20 images of noise."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = randomise_norms(CifarResNet(8, num_classes=4, in_channels=2).eval()).double()
        images = torch.randn(20, 2, 8, 8, dtype=torch.float64)
        targets = network(images).argmax(1)

    class Residual:
        model = SwitchedNetwork(network, images[:2], num_data=20, temperature=0.5)
        loader = DataLoader(TensorDataset(images, targets), batch_size=10)

    return Residual


# -- what is left --------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "rounds"), [(0.4, 3), (0.75, 2), (0.19, 2)])
def test_units_fall_by_the_same_factor_and_end_where_one_shot_does(
    case: Case, keep: float, rounds: int
) -> None:
    found = quick(case, keep=keep, rounds=rounds, evidence="l1-norm")
    left = [sum(one.units.values()) for one in found.rounds]
    expected = [math.floor(11 * keep ** (r / rounds) + 0.5) for r in range(1, rounds)]
    assert left == [*expected, math.floor(11 * keep + 0.5)]
    assert [one.budget["keep"] for one in found.rounds] == pytest.approx(
        [keep ** (r / rounds) for r in range(1, rounds + 1)]
    )
    assert found.rounds[-1].budget == {"keep": keep}
    assert {name: len(units) for name, units in found.decision.kept.items()} == dict(
        found.rounds[-1].units
    )


@pytest.mark.parametrize("budget", [{"macs": 0.35}, {"macs": 0.5, "params": 0.45}])
def test_costs_are_shares_of_the_original_after_every_round(
    case: Case, budget: dict[str, float]
) -> None:
    found = quick(case, rounds=3, evidence="removal-cost:draws=4:images=10", steps=2, **budget)
    costs = case.model.costs
    for number, one in enumerate(found.rounds, start=1):
        # the same widths, whichever units: all units of a site cost the same here
        some = {name: torch.arange(k) for name, k in one.units.items()}
        for what, share in budget.items():
            assert costs.total(what, some) <= share ** (number / 3) * costs.total(what)
        more = [
            {**some, name: torch.arange(k + 1)} for name, k in one.units.items() if k < SITES[name]
        ]
        # and the unit that went last would exceed a budget, were it there
        assert any(
            costs.total(what, wider) > share ** (number / 3) * costs.total(what)
            for what, share in budget.items()
            for wider in more
        )
    example = (next(iter(case.loader))[0][:2],)
    measured = {"macs": count_macs(found.network, example), "params": count_params(found.network)}
    for what, share in budget.items():
        assert measured[what] == costs.total(what, found.decision.kept)
        assert measured[what] <= share * costs.total(what)


def test_a_share_allows_what_it_stands_for_to_the_unit() -> None:
    generator = torch.Generator().manual_seed(0)
    for digits in (1, 4, 8, 12):
        for cost in torch.randint(1, 10**digits, (200,), generator=generator).tolist():
            allowed = int(torch.randint(1, cost + 1, (1,), generator=generator))
            assert target("macs", share_of("macs", allowed, cost), cost) == allowed
            assert target("keep", share_of("keep", allowed, cost), cost) == allowed
    assert share_of("macs", 7, 5) == 1


def test_one_round_is_fit_evidence_decide_and_prune(case: Case) -> None:
    for budget in ({"macs": 0.4}, {"keep": 0.5, "widths": "uniform"}):
        found = quick(case, rounds=1, seed=4, particles=2, **budget)
        posterior = fit(case.model, "dirichlet", Steps(case.loader, 6), seed=4, particles=2)
        decision = decide(case.model, evidence(FEW, case.model, posterior, case.loader), **budget)
        assert equal_tensors(found.decision.kept, decision.kept)
        assert equal_tensors(found.decision.probability, decision.probability)
        assert equal_networks(found.network, prune(case.model, decision))
        told = {
            "rounds": 1, "evidence": FEW, "guide": "dirichlet", "guide_options": {}, "steps": 6,
            "particles": 2, "compensate": [], "seed": 4,
        }  # fmt: skip
        assert found.decision.settings == {**decision.settings, **told}


def test_two_rounds_are_those_made_by_hand(case: Case) -> None:
    found = quick(case, keep=0.45, rounds=2, seed=9)
    first = fit(case.model, "dirichlet", Steps(case.loader, 6), seed=9)
    one = decide(case.model, evidence(FEW, case.model, first, case.loader), keep=0.45**0.5)
    half = prune(case.model, one)
    model = SwitchedNetwork(half, case.inputs[:2], num_data=60, temperature=0.5)
    second = fit(model, "dirichlet", Steps(case.loader, 6), seed=seed_of([9, 2]))
    # 7 of 11 units, then 5 of these 7
    assert [sum(s.size for s in m.sites.values()) for m in (case.model, model)] == [11, 7]
    two = decide(model, evidence(FEW, model, second, case.loader), keep=5 / 7)
    for site, size in SITES.items():
        kept, gone = one.kept[site], set(range(size)) - set(one.kept[site].tolist())
        assert found.decision.kept[site].tolist() == [int(kept[i]) for i in two.kept[site]]
        probability = found.decision.probability[site]
        assert probability.dtype == torch.float64
        for unit in gone:  # of the round that removed it
            assert probability[unit] == one.probability[site][unit]
        for i, unit in enumerate(kept.tolist()):  # of the last round, removed there or not
            assert probability[unit] == two.probability[site][i]
    assert equal_networks(found.network, prune(model, two))
    # the rule of one shot, applied to draws over all units, says nothing of such a decision
    scores = evidence(FEW, case.model, first, case.loader)
    assert draws_masks(case.model, scores, found.decision, 4) == []
    assert len(draws_masks(case.model, scores, one, 4)) == 4


@pytest.mark.parametrize(
    "budget",
    [{"macs": 0.3}, pytest.param({"keep": 0.5, "widths": "uniform"}, marks=pytest.mark.slow)],
)
def test_the_network_is_the_original_cut_at_once(residual: Case, budget: dict[str, Any]) -> None:
    found = quick(residual, rounds=2, evidence="removal-cost:draws=4:images=10", steps=2, **budget)
    cut = prune(residual.model, found.decision)
    assert equal_networks(found.network, cut)
    images = torch.randn(5, 2, 8, 8, dtype=torch.float64)
    assert torch.equal(found.network(images), cut(images))
    # the growing stream's units stay known, though each round numbers them anew
    stream = next(iter(residual.model.sites))
    sizes = [one.units[stream] for one in found.rounds]
    assert residual.model.sites[stream].size > sizes[0] > sizes[1]
    needed = set(residual.model.costs.needed[0])
    assert set(found.decision.kept[stream].tolist()) & needed


def test_a_site_of_one_unit_stays_while_others_go_on(case: Case) -> None:
    found = quick(case, widths={"0": 1, "2": 2}, rounds=3)
    # 6 (1/6)^(r/3) and 5 (2/5)^(r/3): at one unit the site is none any more
    assert [dict(one.units) for one in found.rounds] == [
        {"0": 3, "2": 4}, {"0": 2, "2": 3}, {"0": 1, "2": 2}
    ]  # fmt: skip
    # Of 11 units the least is 2, one of each site: 11 (2/11)^(r/8) is below 2.5 after round 7, and
    # nothing can go in round 8.
    least = quick(case, keep=0.182, rounds=8, evidence="l1-norm")
    assert {name: len(k) for name, k in least.decision.kept.items()} == {"0": 1, "2": 1}
    assert len(least.rounds) == 7
    assert equal_networks(least.network, prune(case.model, least.decision))


def test_given_widths_shrink_by_the_same_factor(case: Case) -> None:
    found = quick(case, widths={"0": 2}, rounds=3)
    assert [one.units["0"] for one in found.rounds] == [4, 3, 2]  # 6 (1/3)^(r/3): 4.16, 2.88, 2
    assert [one.units["2"] for one in found.rounds] == [5, 5, 5]
    assert [dict(one.budget) for one in found.rounds] == [{}, {}, {}]
    assert found.decision.settings["widths"] == {"0": 2}


def test_uniform_widths_are_those_of_one_shot_at_each_share(case: Case) -> None:
    ones = {name: torch.ones(size) for name, size in SITES.items()}
    for budget in ({"keep": 0.3}, {"macs": 0.3}):
        found = quick(case, **budget, widths="uniform", rounds=3, evidence="l1-norm")
        for one in found.rounds:
            expected = decide(case.model, ones, **one.budget, widths="uniform")
            assert dict(one.units) == {name: len(k) for name, k in expected.kept.items()}
        last = decide(case.model, ones, **budget, widths="uniform")
        assert found.decision.settings["share"] == last.settings["share"]


def test_a_site_that_shrinks_to_one_unit_keeps_its_share_of_the_cost() -> None:
    """It is no site of the smaller network, and is not priced whole for that."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 60), nn.ReLU(), nn.Linear(60, 60), nn.ReLU(),
            nn.Linear(60, 3),
        )  # fmt: skip
        inputs = torch.randn(8, 6)
    model = SwitchedNetwork(network, inputs[:2], num_data=8)
    ones = {name: torch.ones(site.size) for name, site in model.sites.items()}
    expected = decide(model, ones, params=0.03, widths="uniform")
    found = prune_in_rounds(
        model, [(inputs, torch.zeros(8).long())], rounds=6, evidence="l1-norm", params=0.03,
        widths="uniform",
    )  # fmt: skip
    widths = {name: len(units) for name, units in expected.kept.items()}
    assert {name: len(units) for name, units in found.decision.kept.items()} == widths
    assert widths["0"] == 1
    assert min(widths["2"], widths["4"]) > 5


@pytest.mark.slow
def test_channels_stay_in_multiples(residual: Case) -> None:
    found = quick(residual, macs=0.3, round_to=4, rounds=2, evidence="l2-norm")
    for one in found.rounds:
        assert all(k % 4 == 0 for k in one.units.values())
    assert residual.model.costs.total("macs", found.decision.kept) <= 0.3 * (
        residual.model.costs.total("macs")
    )
    assert found.decision.settings["round_to"] == 4


# -- any criterion, any guide ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "learns"),
    [
        ("taylor:batch=16", False), ("shapley:permutations=1:images=10", False),
        ("concentration", True),
    ],
)  # fmt: skip
def test_criteria_with_and_without_a_posterior(case: Case, name: str, learns: bool) -> None:
    found = quick(case, keep=0.4, rounds=2, evidence=name)
    assert [sum(one.units.values()) for one in found.rounds] == [7, 4]
    learned = Passes(6 * 20, 6 * 20) if learns else Passes()  # steps of 20 examples
    assert [one.learning for one in found.rounds] == [learned, learned]
    assert ("guide" in found.decision.settings) == ("steps" in found.decision.settings) == learns
    assert found.decision.probability == {}
    assert equal_networks(found.network, prune(case.model, found.decision))


def test_norms_are_read_anew_in_each_round() -> None:
    # Unit 1 of the second site has the largest weights, but most of them read the very unit of the
    # first site that goes first.
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[9.0, 9], [8, 8], [0.1, 0], [0.2, 0]]))
        network[2].weight.copy_(torch.tensor([[1.0, 1, 0, 0], [0, 0, 5, 1], [2, 2, 0, 0]]))
    model = SwitchedNetwork(network, torch.randn(2, 2), num_data=10)
    widths = {"0": 2, "2": 1}
    shot = decide(model, evidence("l1-norm", model, None), widths=widths)
    assert {name: units.tolist() for name, units in shot.kept.items()} == {"0": [0, 1], "2": [1]}
    found = prune_in_rounds(model, None, widths=widths, rounds=2, evidence="l1-norm")
    # 4 (2/4)^(1/2) = 2.8 and 3 (1/3)^(1/2) = 1.7; the norms are then 1 and 4, no longer 6 and 4
    assert [dict(one.units) for one in found.rounds] == [{"0": 3, "2": 2}, {"0": 2, "2": 1}]
    assert {name: units.tolist() for name, units in found.decision.kept.items()} == {
        "0": [0, 1], "2": [2],
    }  # fmt: skip


def test_passes_add_up(case: Case) -> None:
    found = quick(case, keep=0.4, rounds=3)
    scoring, learning = Passes(8 * 20, 8 * 20), Passes(6 * 20, 6 * 20)
    assert [(one.passes, one.learning) for one in found.rounds] == [(scoring, learning)] * 3
    assert found.passes == Passes(3 * 280, 3 * 280)
    assert all(one.seconds > 0 for one in found.rounds)
    unknown = Round({}, {}, Passes(1), None, 0.1)
    assert Rounds(found.network, found.decision, (unknown, *found.rounds)).passes is None
    assert Round.from_dict(found.rounds[0].to_dict()) == found.rounds[0]


def test_a_guide_by_class_and_the_first_posterior_by_hand(case: Case) -> None:
    found = quick(case, keep=0.4, rounds=2, guide=AutoDirichlet)
    assert found.decision.settings["guide"] == "AutoDirichlet"
    # What is known of the whole network already makes the first cut, and is not learned again.
    given = quick(case, keep=0.4, rounds=2, source=case.fit)
    assert given.rounds[0].learning == Passes(case.fit.examples, case.fit.examples)
    assert given.rounds[1].learning == Passes(120, 120)
    first = decide(case.model, evidence(FEW, case.model, case.fit, case.loader), keep=0.4**0.5).kept
    assert dict(given.rounds[0].units) == {name: len(units) for name, units in first.items()}
    for name, units in given.decision.kept.items():
        assert set(units.tolist()) <= set(first[name].tolist())


def test_each_round_has_the_models_own_prior_and_settings(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(model: SwitchedNetwork, *args: Any, **options: Any) -> Any:
        seen.append(model)
        return fit(model, *args, **options)

    monkeypatch.setattr(rounds_file, "fit", watched)
    model = SwitchedNetwork(
        case.model.network, case.inputs[:2], num_data=60, temperature=0.25, prior="weight-norm:2",
        scaling="simplex", exclude=["0"],
    )  # fmt: skip
    prune_in_rounds(model, case.loader, widths={"2": 2}, rounds=2, evidence="snr", steps=2)
    assert seen[0] is model
    again = seen[1]
    assert (again.temperature, again.scaling, again.num_data) == (0.25, "simplex", 60)
    assert {name: site.size for name, site in again.sites.items()} == {"2": 3}  # 5 (2/5)^(1/2)
    # the norms of the rows that are left: mean concentration 2
    norms = again.network[2].weight.norm(dim=1)
    torch.testing.assert_close(
        again.prior(again.sites["2"]).concentration, 2 * norms / norms.mean()
    )


def test_same_seed_same_result_and_nothing_of_the_callers_is_changed(case: Case) -> None:
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(
        TensorDataset(case.inputs, case.targets), batch_size=20, shuffle=True, generator=generator
    )
    before = {name: value.clone() for name, value in case.model.network.state_dict().items()}
    states = generator.get_state(), torch.get_rng_state()

    def run(seed: int) -> Rounds:
        return prune_in_rounds(
            case.model, loader, keep=0.4, rounds=2, evidence=FEW, steps=4, seed=seed,
            compensate="least-squares:images=40",
        )  # fmt: skip

    first = run(1)
    assert torch.equal(generator.get_state(), states[0])
    assert torch.equal(torch.get_rng_state(), states[1])
    torch.rand(3)
    assert equal(first, run(1))
    other = run(2)
    assert not equal_tensors(first.decision.probability, other.decision.probability)
    assert equal_tensors(before, case.model.network.state_dict())


# -- compensation ----------------------------------------------------------------------------------


def test_least_squares_between_rounds_recovers_what_is_redundant() -> None:
    # Units 3 to 5 are tenths of units 0 to 2: ReLUs of a tenth of the weights. What reads them
    # loses nothing by reading the others.
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in network[0].parameters():
            parameter[3:] = parameter[:3] / 10
    x = torch.randn(200, 4, dtype=torch.float64)
    loader = DataLoader(TensorDataset(x, network(x).argmax(1)), batch_size=50)
    model = SwitchedNetwork(network, x[:2], num_data=200)
    found = prune_in_rounds(
        model, loader, widths={"0": 3}, rounds=3, evidence="l1-norm",
        compensate="least-squares:ridge=1e-12",
    )  # fmt: skip
    assert found.decision.kept["0"].tolist() == [0, 1, 2]
    assert [one.units["0"] for one in found.rounds] == [5, 4, 3]
    for one in found.rounds:
        ((name, report),) = one.compensation
        assert (name, set(report.layers)) == ("least-squares:ridge=1e-12", {"2"})
        assert report.layers["2"]["after"] < 1e-18 < report.layers["2"]["before"]
    # the error is of ridge x condition number of a 3 x 3 matrix
    torch.testing.assert_close(found.network(x), network(x), rtol=1e-8, atol=1e-8)
    cut = prune(model, found.decision)
    assert float((cut(x) - network(x)).detach().abs().max()) > 1e-2
    assert found.decision.settings["compensate"] == ["least-squares:ridge=1e-12"]


def test_the_next_round_sees_the_compensated_network_and_the_originals_outputs(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def watched(
        names: Any, model: SwitchedNetwork, decision: Decision, network: nn.Module, *rest: Any,
        **options: Any,
    ) -> Any:  # fmt: skip
        result = compensate(names, model, decision, network, *rest, **options)
        seen.append((model, decision, network, result.network))
        return result

    monkeypatch.setattr(rounds_file, "apply_compensations", watched)
    found = quick(case, widths={"0": 2}, rounds=2, evidence="l1-norm", compensate="least-squares")
    (first, _, _, better), (second, decision, cut, last) = seen
    assert first is second is case.model
    assert equal_tensors(decision.kept, found.decision.kept)
    # what the second round cut is what the first one's compensation made of it
    kept = decision.kept["0"]
    before = seen[0][1].kept["0"]
    columns = torch.isin(before, kept)
    assert torch.equal(cut[2].weight, better[2].weight[:, columns])  # type: ignore[index,union-attr]
    assert equal_networks(found.network, last)
    assert not equal_networks(found.network, prune(case.model, found.decision))


def test_gains_of_the_rounds_own_posterior_are_folded(case: Case) -> None:
    found = quick(case, widths={"0": 3}, rounds=2, compensate=["fold-gains"])
    cut = prune(case.model, found.decision)
    ratio = (found.network[2].weight / cut[2].weight).detach()  # type: ignore[index,union-attr]
    # each column has been multiplied by one number, which is not one
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-12, atol=0)
    assert float((ratio[0] - 1).abs().min()) > 1e-6
    assert torch.equal(found.network[0].weight, cut[0].weight)  # type: ignore[index,union-attr]


def test_compensation_reads_the_images_it_is_given(residual: Case) -> None:
    x, y = next(iter(residual.loader))
    shifted = DataLoader(TensorDataset(x + 3, y), batch_size=10)
    options: dict[str, Any] = {"keep": 0.8, "rounds": 1, "evidence": "l1-norm"}
    found = quick(residual, **options, compensate="recalibrate", compensation_loader=shifted)
    plain = quick(residual, **options)
    expected = compensate("recalibrate", residual.model, plain.decision, plain.network, shifted)
    assert equal_networks(found.network, expected.network)


# -- interrupted -----------------------------------------------------------------------------------


def test_resumed_rounds_end_as_undisturbed_ones(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Gaussian likelihood learns its noise beside the guide: rounds go on from what it is.
    outputs = case.model.network(case.inputs).detach()
    loader = DataLoader(TensorDataset(case.inputs, outputs), batch_size=20)
    scored = []

    def score(name: str, model: SwitchedNetwork, *rest: Any) -> Any:
        scored.append(sum(site.size for site in model.sites.values()))
        if len(scored) == 3:
            raise KeyboardInterrupt
        return evidence(name, model, *rest)

    def run(**options: Any) -> Rounds:
        model = SwitchedNetwork(
            case.model.network, case.inputs[:2], num_data=60, likelihood="gaussian"
        )
        return prune_in_rounds(
            model, loader, keep=0.4, rounds=3, evidence=FEW, steps=4,
            compensate="least-squares", **options,
        )  # fmt: skip

    undisturbed = run()
    monkeypatch.setattr(rounds_file, "score", score)
    path = tmp_path / "checkpoints" / "rounds"
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint=path, resume=True)
    assert scored == [11, 8, 6]
    resumed = run(checkpoint=path, resume=True)
    assert scored == [11, 8, 6, 6]
    assert equal(resumed, undisturbed)
    assert [one.compensation for one in resumed.rounds] == [
        one.compensation for one in undisturbed.rounds
    ]
    # and all of it is there: nothing is learned again
    assert equal(run(checkpoint=path, resume=True), undisturbed)
    assert len(scored) == 4
    with pytest.raises(DirpruneError, match=r"is of another run \(differs in seed\)"):
        run(checkpoint=path, resume=True, seed=1)


# -- what is refused -------------------------------------------------------------------------------


class Empty:
    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds: expected a whole number of at least 1, got 0"),
        ({"rounds": 2.0}, "rounds: expected a whole number of at least 1, got 2.0"),
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"keep": 1.5}, r"budget keep=1.5: expected a share in \(0, 1\]"),
        ({"keep": 0.05}, r"at least 2 must stay.*the smallest possible is keep=0\.1819"),
        ({"keep": None}, "expected a budget"),
        ({"widths": {"0": 3}}, "given widths need no budget, and take none: got keep too"),
        ({"keep": None, "widths": {"7": 3}}, "widths name the site '7'"),
        ({"keep": None, "widths": {"0": 7}}, "7 units of site '0': expected .* from 1 to 6"),
        ({"evidence": "magic"}, "unknown evidence 'magic'"),
        ({"compensate": "magic"}, "unknown compensation 'magic'"),
        ({"guide": "magic"}, "unknown guide 'magic'"),
        ({"loader": Empty()}, "the loader is empty"),
        ({"loader": None}, "evidence 'removal-cost.*' needs a loader of training images"),
        (
            {"loader": None, "evidence": "l1-norm", "compensate": "least-squares"},
            "compensation 'least-squares' needs a loader of training images",
        ),
        (
            {"evidence": "l1-norm", "compensate": "fold-gains"},
            "'fold-gains' needs a posterior, and evidence 'l1-norm' reads none",
        ),
    ],
)
def test_refused_before_anything_is_learned(
    case: Case, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    def scored(*args: Any, **options: Any) -> Any:
        raise AssertionError("too late")

    monkeypatch.setattr(rounds_file, "score", scored)
    arguments: dict[str, Any] = {"loader": case.loader, "keep": 0.4, "evidence": FEW, **options}
    with pytest.raises(DirpruneError, match=message):
        prune_in_rounds(case.model, **arguments)


def test_a_guide_that_is_made_serves_one_round(case: Case) -> None:
    guide = AutoDirichlet(case.model)
    assert len(quick(case, keep=0.5, rounds=1, guide=guide).rounds) == 1
    with pytest.raises(DirpruneError, match="AutoDirichlet of one model cannot serve"):
        quick(case, keep=0.5, rounds=2, guide=AutoDirichlet(case.model))
    with pytest.raises(DirpruneError, match="has no concentrations"):
        quick(case, keep=0.5, rounds=2, guide="logistic-normal", evidence="concentration")


def test_a_site_without_evidence_stays(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_site(material: Material) -> Evidence:
        sizes = {name: s.size for name, s in material.model.sites.items() if name == "0"}
        return Evidence({name: Scores(torch.arange(k).double()) for name, k in sizes.items()})

    monkeypatch.setitem(CRITERIA, "one-site", Criterion(one_site, "of one site alone"))
    for options in ({"keep": 0.7}, {"keep": 0.5, "widths": "uniform"}):
        found = quick(case, rounds=2, evidence="one-site", **options)
        assert found.decision.kept["0"].tolist() == [3, 4, 5]
        assert found.decision.kept["2"].tolist() == [0, 1, 2, 3, 4]
    # 6 units are left after the first round: all 5 of the other site, which have to stay
    with pytest.raises(DirpruneError, match=r"round 2 of 2: .*at least 5 must stay"):
        quick(case, rounds=2, evidence="one-site", keep=0.3)
