"""What holds of every criterion: options, what it needs, the file, and units that nobody reads."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dirprune.analysis.decision.decide import decide
from dirprune.analysis.evidence import CRITERIA, evidence, store_evidence
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

Problem = Any  # of conftest.py
Case = Any  # of ../conftest.py

OF_THE_LOSS = ["taylor", "fisher", "leave-one-out", "shapley"]
WITH_IMAGES = [*OF_THE_LOSS, "apoz", "reconstruction"]
WITHOUT_POSTERIOR = [*WITH_IMAGES, "l1-norm", "l2-norm", "bn-scale", "random"]


def test_they_have_names() -> None:
    assert set(CRITERIA) >= {*WITHOUT_POSTERIOR, "mean", "snr", "among-best"}
    for name in WITHOUT_POSTERIOR:
        assert "posterior" not in CRITERIA[name].reads
        assert ("images" in CRITERIA[name].reads) == (name in WITH_IMAGES)


@pytest.mark.parametrize("name", OF_THE_LOSS)
def test_a_unit_that_nobody_reads_scores_lowest(problem: Problem, name: str) -> None:
    # Of leave-one-out it is so in size: a unit may do harm.
    found = evidence(name, problem.model, None, problem.loader)
    for site, unit in problem.unread.items():
        scores = found[site].scores.abs()
        assert int(scores.argmin()) == unit
        assert float(scores[unit]) < 1e-14


@pytest.mark.parametrize("name", WITHOUT_POSTERIOR)
def test_scores_are_finite_float64_and_the_same_again(problem: Problem, name: str) -> None:
    if name == "bn-scale" and "stem" not in problem.model.sites:
        pytest.skip("no batch norm")
    state = torch.get_rng_state()
    found = evidence(name, problem.model, None, problem.loader)
    again = evidence(name, problem.model, None, problem.loader)
    assert torch.equal(torch.get_rng_state(), state)
    assert found.criterion == name
    for site, scores in found.items():
        assert scores.scores.shape == (problem.model.sites[site].size,)
        assert scores.scores.dtype == torch.float64
        assert bool(scores.scores.isfinite().all())
        assert scores.draws is None
        assert torch.equal(scores.scores, again[site].scores)


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_the_batch_size_of_the_loader_changes_nothing(problem: Problem, name: str) -> None:
    whole = [(problem.inputs, problem.targets)]
    first = evidence(name, problem.model, None, problem.loader)
    for site, scores in evidence(name, problem.model, None, whole).items():
        torch.testing.assert_close(scores.scores, first[site].scores, rtol=1e-9, atol=1e-12)


# Which positions of an image are drawn follows from the batches; there are 25.
@pytest.mark.parametrize("name", [*OF_THE_LOSS, "apoz", "reconstruction:positions=25"])
def test_batches_that_are_cut_change_nothing(
    problem: Problem, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evidence(name, problem.model, None, problem.loader)
    for module in ("apoz", "curvature", "switches"):
        monkeypatch.setattr(f"dirprune.analysis.evidence.{module}.usual_batch", lambda _: 3)
    for site, scores in evidence(name, problem.model, None, problem.loader).items():
        torch.testing.assert_close(scores.scores, whole[site].scores, rtol=1e-9, atol=1e-12)


def test_single_precision_and_another_scaling_give_nearly_the_same() -> None:
    # Gains of one are the network's own under any scaling. Float32 leaves 1e-5 of losses of 1.
    net: Any = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    x, y = torch.randn(9, 3), torch.randint(3, (9,))
    single = SwitchedNetwork(net, x[:2], num_data=9, scaling="simplex")
    double = SwitchedNetwork(copy.deepcopy(net).double(), x[:2].double(), num_data=9)
    for name in WITH_IMAGES:
        found = evidence(name, single, None, [(x, y)])["0"].scores
        exact = evidence(name, double, None, [(x.double(), y)])["0"].scores
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", WITHOUT_POSTERIOR)
def test_what_is_missing_is_named(problem: Problem, name: str) -> None:
    with pytest.raises(DirpruneError, match=f"'{name}' needs a model"):
        evidence(name, None, None, problem.loader)
    if name in WITH_IMAGES:
        with pytest.raises(DirpruneError, match=f"'{name}' needs a loader of training images"):
            evidence(name, problem.model, None)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("shapley:permutations=0", "'permutations': expected at least 1, got 0"),
        ("shapley:permutation=5", "no option 'permutation'. It has: permutations=5, images=256"),
        ("taylor:batch=0.5", "'batch': expected a whole number"),
        ("taylor:images=-1", "'images': expected at least 1, got -1"),
        ("l1-norm:p=1", "no option 'p'. It has: none"),
        ("random:seed=0.5", "'seed': expected a whole number"),
        ("leave-one-out:images=x", "expected leave-one-out:OPTION=NUMBER"),
    ],
)
def test_options_that_do_not_exist_are_refused(problem: Problem, spec: str, message: str) -> None:
    with pytest.raises(DirpruneError, match=message):
        evidence(spec, problem.model, None, problem.loader)


def test_random_scores_are_uniform_and_seeded(problem: Problem) -> None:
    net = nn.Sequential(nn.Linear(2, 1000), nn.ReLU(), nn.Linear(1000, 2))
    model = SwitchedNetwork(net, torch.randn(2, 2), num_data=10)
    first, again, other = (evidence("random", model, None, seed=s)["0"].scores for s in (0, 0, 1))
    assert torch.equal(first, again)
    # 1000 uniform numbers: sd of the mean .009, of the correlation .032
    assert float(first.mean()) == pytest.approx(0.5, abs=0.05)
    assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.16
    assert first.min() >= 0
    assert first.max() < 1


@pytest.mark.parametrize("name", ["taylor", "shapley:permutations=1", "l2-norm", "mean", "snr"])
def test_a_decision_is_made_again_from_the_tree_alone(case: Case, name: str) -> None:
    tree = case.tree.copy(deep=True)
    found = evidence(name, case.model, case.fit, case.loader)
    store_evidence(tree, found)
    again = evidence(name.partition(":")[0], None, tree)
    assert again.passes == found.passes
    for budget in ({"keep": 0.5}, {"macs": 0.5}):
        first, second = decide(case.model, found, **budget), decide(tree, again, **budget)
        for site, kept in first.kept.items():
            assert torch.equal(kept, second.kept[site])
        assert bool(first.probability) == (name == "mean")
        assert sum(len(units) for units in first.kept.values()) < 11
