"""What methods choose, and what that takes: a small network, every pass counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.compare import choice as module
from dirprune.analysis.compare.choice import Chooser
from dirprune.analysis.compare.method import parse_method
from dirprune.analysis.compare.stages import Bench
from dirprune.analysis.evidence import Passes, evidence
from dirprune.inference.fit import fit
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

IMAGES = 40


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Two sites of 8 and 6 units, labels of its own, and a posterior of one epoch."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    ).eval()
    inputs = torch.randn(IMAGES, 5)
    with torch.no_grad():
        labels = network(inputs).argmax(1)
    loader = DataLoader(TensorDataset(inputs, labels), batch_size=20, shuffle=True)
    model = SwitchedNetwork(network, inputs[:2], num_data=IMAGES)
    return Bench(model, loader, seed=3, fit=fit(model, "dirichlet", loader, particles=4))


def test_a_criterion_is_evaluated_once_for_all_budgets(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def counted(*args: object, **options: object) -> object:
        asked.append(args[0])
        return evidence(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "evidence", counted)
    chooser = Chooser(parse_method("removal-cost:draws=2:images=10"), bench, "uniform")
    half, quarter = (chooser.choose({"keep": share}) for share in (0.5, 0.25))
    assert asked == ["removal-cost"]
    assert [len(units) for units in half.decision.kept.values()] == [4, 3]
    # A forward and a backward pass of 10 images under 2 draws; an epoch of SVI sees every image.
    for choice in (half, quarter):
        assert choice.scoring == Passes(20, 20)
        assert choice.learning == Passes(IMAGES, IMAGES)


def test_a_choice_that_keeps_every_unit_cannot_be_refined(bench: Bench) -> None:
    plain, refined = (
        Chooser(parse_method(spec), bench).choose({"keep": 1.0})
        for spec in ("l1-norm", "l1-norm+refine:steps=2")
    )
    assert refined.scoring == plain.scoring == Passes()
    assert [len(units) for units in refined.decision.kept.values()] == [8, 6]


def test_the_seed_is_the_bench_s_unless_the_method_has_one(bench: Bench) -> None:
    def kept(spec: str, seed: int) -> list[list[int]]:
        own = Bench(bench.model, bench.loader, seed=seed)
        found = Chooser(parse_method(spec), own).choose({"keep": 0.5}).decision.kept
        return [units.tolist() for units in found.values()]

    assert kept("random", 0) == kept("random", 0)
    assert len({str(kept("random", seed)) for seed in range(6)}) > 1
    assert len({str(kept("random:seed=4", seed)) for seed in range(6)}) == 1
    assert len({str(kept("random+rounds=2", seed)) for seed in range(6)}) > 1


def test_a_refined_choice_adds_its_passes_and_keeps_the_widths(bench: Bench) -> None:
    plain = Chooser(parse_method("l1-norm"), bench, "uniform").choose({"keep": 0.5})
    choice = Chooser(parse_method("l1-norm+refine:steps=3:images=20"), bench, "uniform").choose(
        {"keep": 0.5}
    )
    assert plain.scoring == Passes()
    # One gradient a step, and at most a forward pass a site to try its swaps.
    assert choice.scoring.backward == 3 * 20
    assert 3 * 20 <= choice.scoring.forward <= 3 * 20 * (1 + 2)
    assert choice.learning == Passes()
    assert [len(u) for u in choice.decision.kept.values()] == [
        len(u) for u in plain.decision.kept.values()
    ]


def test_units_chosen_anew_add_their_passes(bench: Bench) -> None:
    choice = Chooser(parse_method("l1-norm+reselect:sweeps=2:images=30"), bench, "uniform").choose(
        {"keep": 0.5}
    )
    # 20 images fit and 10 judge; the curvature, two networks at two sites three times, a judgement
    # of each
    assert choice.scoring == Passes(20 + 3 * 2 * 2 * 20 + 3 * 10, 20)
    assert [len(u) for u in choice.decision.kept.values()] == [4, 3]


def test_rounds_score_anew_in_each(bench: Bench) -> None:
    chooser = Chooser(parse_method("fisher:images=10+rounds=3"), bench, "uniform")
    choice = chooser.choose({"keep": 0.25})
    assert choice.scoring == Passes(30, 30)
    assert choice.learning == Passes()
    assert [len(u) for u in choice.decision.kept.values()] == [2, 2]
    learned = Chooser(
        parse_method("removal-cost:draws=2:images=10+rounds=2:steps=3"),
        Bench(bench.model, bench.loader, svi={"guide": "normal", "particles": 2, "epochs": 99}),
    ).choose({"keep": 0.5})
    assert learned.scoring == Passes(40, 40)
    assert learned.learning == Passes(2 * 3 * 20, 2 * 3 * 20)  # two posteriors of 3 batches each


def test_a_criterion_of_the_posterior_needs_one(bench: Bench) -> None:
    chooser = Chooser(parse_method("removal-cost"), Bench(bench.model, bench.loader))
    with pytest.raises(DirpruneError, match="needs"):
        chooser.choose({"keep": 0.5})
