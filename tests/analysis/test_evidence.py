"""Evidence: the removal cost against closed forms and finite differences; concentrations."""

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.analysis.evidence import (
    CRITERIA,
    Criterion,
    Evidence,
    Material,
    Passes,
    Scores,
    evidence,
    register_criterion,
    removal_cost,
    store_evidence,
    stored_evidence,
)
from dirprune.analysis.evidence.stored import read_evidence
from dirprune.analysis.evidence.switches import draw_switches, grid
from dirprune.inference.fit import fit
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

Case = Any  # of conftest.py


def draws_on_the_simplex(units: int, number: int) -> Tensor:
    return torch.distributions.Dirichlet(torch.ones(units).double()).sample((number,))


@pytest.mark.parametrize("scaling", ["mean-one", "simplex"])
def test_linear_gaussian_closed_form(scaling: str) -> None:
    # f(x) = sum_k v_k g_k h_k(x), l = (y - f)^2 / (2 sigma^2): g_k dl/dg_k = -(y - f) v_k g_k h_k /
    # sigma^2, at each draw's own gains.
    net: Any = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double()
    x, y = torch.randn(20, 3).double(), torch.randn(20, 1).double()
    model = SwitchedNetwork(
        net, x[:2], num_data=20, scaling=scaling,
        likelihood=lambda out: dist.Normal(out, 0.7).to_event(1),
    )  # fmt: skip
    s = draws_on_the_simplex(4, 5)
    gains = s * (4 if scaling == "mean-one" else 1)
    with torch.no_grad():
        terms = net[1].weight[0] * net[0](x) * gains[:, None]  # [draw, example, unit]
        residual = y[:, 0] - terms.sum(-1) - net[1].bias
        expected = ((residual[..., None] * terms / 0.49) ** 2).mean(1)
    found = removal_cost(model, {"0": s}, x, y, batch_size=7)
    torch.testing.assert_close(found["0"], expected, rtol=1e-10, atol=1e-14)


def test_softmax_closed_form() -> None:
    # logits_c = sum_k V_ck g_k h_k: dl/dg_k = sum_c (p_c - [c = y]) V_ck h_k.
    net: Any = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)).double()
    x, y = torch.randn(20, 3).double(), torch.randint(5, (20,))
    model = SwitchedNetwork(net, x[:2], num_data=20)
    s = draws_on_the_simplex(4, 3)
    with torch.no_grad():
        h = net[0](x) * 4 * s[:, None]
        error = net[1](h).softmax(-1) - F.one_hot(y, 5)
        expected = ((error @ net[1].weight * h) ** 2).mean(1)
    found = removal_cost(model, {"0": s}, x, y)
    torch.testing.assert_close(found["0"], expected, rtol=1e-10, atol=1e-14)


def test_finite_differences(case: Case) -> None:
    # (g_k dl_i/dg_k)^2 of every example by central differences: with step 1e-4 their error is about
    # 1e-8 (third derivatives of order 1), so the square's is below 1e-6 relative.
    s = {site: draws_on_the_simplex(k, 2) for site, k in (("0", 6), ("2", 5))}
    found = removal_cost(case.model, s, case.inputs, case.targets)
    gains = case.model.gains(s)
    step = 1e-4

    def loss(draw: int, site: str, unit: int, factor: float) -> Tensor:
        moved = {name: g[draw : draw + 1].clone() for name, g in gains.items()}
        moved[site][0, unit] *= factor
        outputs = case.model.outputs_at_gains(case.inputs, moved)
        return F.cross_entropy(outputs, case.targets, reduction="none")

    with torch.no_grad():
        for draw in range(2):
            for site, k in (("0", 6), ("2", 5)):
                for unit in range(k):
                    up, down = (loss(draw, site, unit, 1 + d) for d in (step, -step))
                    expected = float((((up - down) / (2 * step)) ** 2).mean())
                    assert float(found[site][draw, unit]) == pytest.approx(
                        expected, rel=1e-5, abs=1e-12
                    )


def test_half_of_it_is_the_rise_of_the_loss_where_the_model_is_right() -> None:
    # Near the truth E (g dl/dg)^2 = E d2l/dg2 (Fisher's identity), and a linear-Gaussian loss is a
    # parabola, so removing one unit costs C/2 in expectation over the noise. With 20,000 examples
    # C's relative error is about sqrt(8/20,000) = 2 %, the rise's own sd(h)/sqrt(20,000) = .006.
    net: Any = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double()
    x = torch.randn(20_000, 3).double()
    with torch.no_grad():
        net[1].weight *= 5
        h = net[1].weight[0] * net[0](x)
        y = h.sum(1, keepdim=True) + net[1].bias + torch.randn(20_000, 1).double()
    model = SwitchedNetwork(
        net, x[:2], num_data=20_000, likelihood=lambda out: dist.Normal(out, 1.0).to_event(1)
    )
    cost = removal_cost(model, {"0": torch.full((1, 4), 0.25).double()}, x, y, batch_size=5000)
    with torch.no_grad():
        residual = y[:, 0] - h.sum(1) - net[1].bias
        rise = 0.5 * ((residual[:, None] + h) ** 2 - residual[:, None] ** 2).mean(0)
    assert bool((rise > 0.03).all())
    torch.testing.assert_close(0.5 * cost["0"][0], rise, rtol=0.1, atol=0.02)


def test_a_unit_that_nobody_reads_costs_nothing(case: Case) -> None:
    found = evidence("removal-cost", case.model, case.fit, case.loader)
    draws = found["2"].draws
    assert draws is not None
    assert bool((draws[:, 2] == 0).all())  # exactly
    others = [0, 1, 3, 4]
    assert bool((draws[:, others] > 0).all())
    # and a unit of gain 0 costs nothing either: it has been removed already
    s = {"0": torch.full((1, 6), 1 / 6).double(), "2": torch.tensor([[0.0, 0.4, 0.2, 0.2, 0.2]])}
    assert removal_cost(case.model, s, case.inputs, case.targets)["2"][0, 0] == 0


def test_the_batch_size_changes_nothing(case: Case) -> None:
    s = {site: draws_on_the_simplex(k, 3) for site, k in (("0", 6), ("2", 5))}
    whole = removal_cost(case.model, s, case.inputs, case.targets, batch_size=1000)
    for size in (1, 7, 60):
        parts = removal_cost(case.model, s, case.inputs, case.targets, batch_size=size)
        for site, value in whole.items():
            torch.testing.assert_close(parts[site], value, rtol=1e-10, atol=1e-15)
    assert whole["0"].shape == (3, 6)
    # a draw's value is its own: alone, it is the same
    alone = removal_cost(
        case.model, {site: v[1:2] for site, v in s.items()}, case.inputs, case.targets
    )
    torch.testing.assert_close(alone["2"][0], whole["2"][1], rtol=1e-10, atol=1e-15)


def test_the_grid_covers_every_draw_and_example_once() -> None:
    rows = torch.cat(list(grid(3, 5, 4)))
    assert rows.tolist() == list(range(15))


def test_no_gradient_reaches_weights_or_guides(case: Case) -> None:
    evidence("removal-cost", case.model, case.fit, case.loader)
    assert all(p.grad is None for p in case.model.network.parameters())


def test_scores_are_the_means_of_their_draws(case: Case) -> None:
    found = evidence("removal-cost", case.model, case.fit, case.loader)
    assert list(found) == ["0", "2"]
    for scores in found.values():
        assert scores.draws is not None
        assert scores.draws.shape[0] == 64  # 32 of each restart
        torch.testing.assert_close(scores.scores, scores.draws.mean(0))
        assert scores.unit == "nats"
        assert scores.across_sites


def test_a_fit_and_its_tree_give_the_same_evidence(case: Case) -> None:
    from dirprune.analysis.posterior import posterior

    tree = posterior(case.model, case.fit, case.loader)
    from_fit = evidence("removal-cost", case.model, case.fit, case.loader)
    for model in (case.model, None):  # the tree needs no model, and no data
        from_tree = evidence("removal-cost", model, tree)
        for site, scores in from_fit.items():
            stored = from_tree[site].draws
            assert stored is not None
            assert scores.draws is not None
            assert torch.equal(stored, scores.draws)
            assert torch.equal(from_tree[site].scores, scores.scores)
    # and those draws are the first 32 of the tree's own
    drawn = draw_switches(case.model, case.fit, 400).switches["0"]
    assert torch.equal(drawn, torch.from_numpy(np.array(tree["posterior"]["0"])))


def test_concentrations_are_averaged_over_restarts(case: Case) -> None:
    expected = {
        site: torch.stack([g.concentration()[site] for g in case.fit.guides]).mean(0)
        for site in ("0", "2")
    }
    for model, source in ((case.model, case.fit), (case.model, case.tree), (None, case.tree)):
        for site, scores in evidence("concentration", model, source).items():
            assert torch.equal(scores.scores, expected[site])
            assert scores.draws is None
            assert not scores.across_sites


def test_an_unknown_criterion_has_near_misses(case: Case) -> None:
    with pytest.raises(DirpruneError, match="unknown evidence 'removal_cost'; did you mean 'remov"):
        evidence("removal_cost", case.model, case.fit)
    assert set(CRITERIA) >= {"removal-cost", "concentration"}


def test_a_tree_of_another_network_is_refused(case: Case) -> None:
    net: Any = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 3))
    other = SwitchedNetwork(net, torch.zeros(2, 4), num_data=60)
    for name in ("removal-cost", "concentration"):
        with pytest.raises(DirpruneError, match=r"of another network.*0 \(6\), 2 \(5\).*0 \(7\)"):
            evidence(name, other, case.tree)


def test_what_is_missing_is_named(case: Case) -> None:
    empty = xr.DataTree()
    for model, source, loader in (
        (None, case.fit, case.loader),
        (case.model, case.fit, None),
        (case.model, None, case.loader),
        (None, empty, None),
    ):
        with pytest.raises(DirpruneError, match="'removal-cost' needs a model, a Fit and a loader"):
            evidence("removal-cost", model, source, loader)
    with pytest.raises(DirpruneError, match="'concentration' needs a posterior"):
        evidence("concentration", case.model, None)
    with pytest.raises(DirpruneError, match=r"needs --guide dirichlet.* no group 'conc"):
        evidence("concentration", None, empty)
    normal = fit(case.model, AutoNormal, case.loader)
    with pytest.raises(DirpruneError, match="'AutoNormal' has no concentrations"):
        evidence("concentration", case.model, normal)


def test_scores_hold_what_they_are_given() -> None:
    scores = Scores(torch.ones(3))
    assert scores.draws is None
    assert scores.across_sites
    assert math.isclose(float(scores.scores.sum()), 3)


def test_what_it_took_is_counted(case: Case) -> None:
    # conftest.py: two restarts; every epoch passes the 60 images once, forward and backward.
    steps = sum(len(losses) for losses in case.fit.history)
    assert case.fit.examples == 20 * steps
    found = evidence("removal-cost", case.model, case.fit, case.loader, draws=3, images=10)
    assert found.passes == Passes(60, 60)  # 2 restarts x 3 draws x 10 images
    assert found.learning == Passes(20 * steps, 20 * steps)
    assert found.passes.forwards == 180
    assert evidence("removal-cost", None, case.tree).learning == found.learning


def test_options_follow_the_name(case: Case) -> None:
    spec = "removal-cost:draws=3:images=10"
    found = evidence(spec, case.model, case.fit, case.loader)
    other = evidence("removal-cost", case.model, case.fit, case.loader, draws=3, images=10)
    assert found.criterion == other.criterion == spec
    assert torch.equal(found["0"].scores, other["0"].scores)
    for name, options, message in (
        ("removal-cost:draw=3", {}, "has no option 'draw'. It has: draws=32, images=256"),
        ("removal-cost:draws=2.5", {}, "expected a whole number, as in draws=32, got 2.5"),
        ("removal-cost", {"draws": 0}, "expected at least 1, got 0"),
        ("removal-cost:draws=3", {"draws": 3}, "draws given twice"),
        ("removal-cost:3", {}, "expected removal-cost:OPTION=NUMBER"),
    ):
        with pytest.raises(DirpruneError, match=message):
            evidence(name, case.model, case.fit, case.loader, **options)


def test_stored_evidence_comes_back(case: Case) -> None:
    tree = case.tree.copy(deep=True)
    drawn = evidence("removal-cost:draws=3", case.model, case.fit, case.loader)
    plain = Evidence(
        {"0": Scores(torch.arange(6.0).double(), unit="images", across_sites=False),
         "2": Scores(torch.ones(5).double(), unit="images", across_sites=False)},
        Passes(7), criterion="mine:k=2",
    )  # fmt: skip
    store_evidence(tree, drawn)
    store_evidence(tree, plain)
    again = evidence("removal-cost", None, tree)
    assert again.criterion == "removal-cost:draws=3"
    assert torch.equal(again["2"].draws, drawn["2"].draws)
    with pytest.raises(DirpruneError, match="needs a model, a Fit and a loader"):
        evidence("removal-cost:draws=4", None, tree)
    mine = read_evidence(tree, "mine")
    assert mine["0"].draws is None
    assert torch.equal(mine["0"].scores, plain["0"].scores)
    assert not mine["0"].across_sites
    assert (mine.passes, mine["0"].unit, mine.criterion) == (Passes(7), "images", "mine:k=2")
    # What the posterior took is charged to what was read from it, and to nothing else.
    assert mine.learning == Passes()
    assert again.learning == drawn.learning != Passes()


def test_scores_that_are_not_the_means_of_their_draws_are_not_stored(case: Case) -> None:
    draws = torch.rand(8, 6).double()
    odd = Evidence({"0": Scores(draws.max(0).values, draws)}, criterion="odd")
    with pytest.raises(DirpruneError, match="'odd': the scores of site '0' are not the means"):
        store_evidence(case.tree.copy(deep=True), odd)


def test_another_seed_is_not_taken_for_the_stored_one(case: Case) -> None:
    tree = case.tree.copy(deep=True)
    one = evidence("random:seed=12345678", case.model, None)
    assert one.criterion == "random:seed=12345678"
    store_evidence(tree, one)
    other = evidence("random:seed=12345679", case.model, tree)
    assert other.criterion == "random:seed=12345679"
    assert not torch.equal(other["0"].scores, one["0"].scores)
    assert evidence("random", case.model, None, seed=np.int64(3)).criterion == "random:seed=3"


def test_a_criterion_is_a_function_and_a_name(case: Case) -> None:
    def index(material: Material, *, factor: float = 1.0) -> Evidence:
        return Evidence(
            {n: Scores(factor * torch.arange(s.size)) for n, s in material.model.sites.items()}
        )

    register_criterion("index", Criterion(index, "the unit's number"))
    try:
        found = evidence("index:factor=2", case.model, None)
        assert found["0"].scores.tolist() == [0, 2, 4, 6, 8, 10]
        assert (found.passes, found.learning) == (Passes(), Passes())
        with pytest.raises(DirpruneError, match="exists already"):
            register_criterion("index", Criterion(index, ""))
        with pytest.raises(DirpruneError, match="'index' needs a model"):
            evidence("index", None, None)
    finally:
        del CRITERIA["index"]
    with pytest.raises(DirpruneError, match="expected a name without"):
        register_criterion("a:b", Criterion(index, ""))
    with pytest.raises(DirpruneError, match="expected a name without"):
        register_criterion("a/b", Criterion(index, ""))  # a slash parts groups in a file


def test_what_the_tree_holds_is_not_scored_again(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = case.tree.copy(deep=True)
    arguments = case.model, case.fit, case.loader
    first = stored_evidence(tree, "random:seed=3", *arguments)  # not there: scored, and kept

    def score(material: Material, *, seed: int = 0) -> Evidence:
        raise AssertionError("scored again")

    for name in ("removal-cost", "random"):
        monkeypatch.setitem(CRITERIA, name, Criterion(score, ""))
    assert torch.equal(
        stored_evidence(tree, "random:seed=3", *arguments)["0"].scores, first["0"].scores
    )
    held = stored_evidence(tree, "removal-cost", *arguments)
    assert torch.equal(held["0"].scores, evidence("removal-cost", None, case.tree)["0"].scores)
    with pytest.raises(AssertionError, match="scored again"):
        stored_evidence(tree, "random:seed=4", *arguments)
