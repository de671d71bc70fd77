"""A model with single features of a flattened map through evidence, decisions and compensation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.decision.decide import decide
from dirprune.analysis.decision.predicted_accuracy import predict_accuracy
from dirprune.analysis.decision.rounds import prune_in_rounds
from dirprune.analysis.evidence import CRITERIA, Scores, evidence
from dirprune.analysis.feature_maps import feature_maps
from dirprune.analysis.masked import masked_gains
from dirprune.analysis.posterior import posterior
from dirprune.analysis.subnetworks.posterior import subnetwork_posterior
from dirprune.analysis.subnetworks.search import refine
from dirprune.analysis.tree import load_tree, save_tree
from dirprune.inference.compensation import compensate
from dirprune.inference.fit import Fit, fit
from dirprune.inference.train_time.layers import kept_units, living_units
from dirprune.inference.train_time.spp import structured_probabilistic_pruning
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.selected import SelectedLinear
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork


@dataclass(frozen=True)
class Case:
    """A small convolutional classifier in float64, 60 images, and a fit."""

    model: SwitchedNetwork
    fit: Fit
    inputs: Tensor
    targets: Tensor

    @property
    def loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.inputs, self.targets), batch_size=20)

    @property
    def network(self) -> Any:
        return self.model.network


@pytest.fixture(scope="module")
def case() -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),  # 4 x 2 x 2
            nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3),
        ).double().eval()  # fmt: skip
        inputs = torch.randn(60, 1, 6, 6, dtype=torch.float64)
        with torch.no_grad():
            network[6].weight *= 10
            network[6].bias -= network(inputs).mean(0)
            targets = network(inputs).softmax(1).multinomial(1)[:, 0]
        model = SwitchedNetwork(
            network, inputs[:2], num_data=60, temperature=0.5, flatten="features"
        )
        loader = DataLoader(TensorDataset(inputs, targets), batch_size=20)
        return Case(model, fit(model, "dirichlet", loader, epochs=5), inputs, targets)


# Channels 0, 1 and 3; of these all features, two and one.
DECISION = Decision(
    {
        "0": torch.tensor([0, 1, 3]),
        "4.inputs": torch.tensor([0, 1, 2, 3, 4, 6, 13]),
        "4": torch.tensor([0, 1, 2, 4]),
    }
)


def test_sites(case: Case) -> None:
    sizes = {name: site.size for name, site in case.model.sites.items()}
    assert sizes == {"0": 4, "4.inputs": 16, "4": 6}


SLOW = ("sbp", "bmrs", "bmrs-uniform")  # they learn for a while


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in sorted(set(CRITERIA) - {"bn-scale"})
    ],
)
def test_every_criterion_scores_them_and_decides(case: Case, name: str) -> None:
    found: Mapping[str, Scores] = evidence(name, case.model, case.fit, case.loader)
    scores = found["4.inputs"].scores
    assert scores.shape == (16,)
    assert bool(scores.isfinite().all())
    assert len(scores.unique()) > 4
    decision = decide(case.model, found, params=0.5)
    pruned: Any = prune(case.model, decision)
    assert pruned[4].in_features == len(decision.kept["4.inputs"])
    assert sum(p.numel() for p in pruned.parameters()) <= 0.5 * case.model.costs.total("params")


def test_batch_norm_scales_are_refused(case: Case) -> None:
    with pytest.raises(DirpruneError, match="no batch norm with a scale"):
        evidence("bn-scale", case.model, None)


def test_norms_of_features_are_those_of_the_columns(case: Case) -> None:
    columns = case.network[4].weight.detach().abs().sum(0)
    found = evidence("l1-norm", case.model, None)["4.inputs"].scores
    torch.testing.assert_close(found, columns / columns.mean(), rtol=1e-12, atol=0)
    model = SwitchedNetwork(
        case.network, case.inputs[:2], num_data=60, flatten="features", prior="weight-norm"
    )
    alpha = model.prior(model.sites["4.inputs"]).concentration
    squares = case.network[4].weight.detach().norm(dim=0)
    torch.testing.assert_close(alpha, squares / squares.mean(), rtol=1e-12, atol=0)


def test_decisions_from_the_file_are_those_of_the_model(case: Case, tmp_path: Path) -> None:
    tree = posterior(case.model, case.fit, case.loader, images=50, cost_images=30)
    save_tree(tree, tmp_path / "posterior.nc")
    again = load_tree(tmp_path / "posterior.nc")
    found = evidence("removal-cost", None, again)
    for budget in ({"params": 0.4}, {"keep": 0.5}, {"macs": 0.6, "params": 0.6}):
        first, second = (decide(source, found, **budget) for source in (case.model, again))
        for name, kept in first.kept.items():
            assert kept.tolist() == second.kept[name].tolist()
            assert torch.equal(first.probability[name], second.probability[name])
    decision = decide(again, found, keep=0.5)
    assert sum(map(len, decision.kept.values())) == 13  # of 26
    predicted = predict_accuracy(case.model, decision, again, case.loader, evidence=found)
    assert 0 <= predicted.network.low <= predicted.network.high <= 100


def test_gains_fold_into_the_columns(case: Case) -> None:
    torch.manual_seed(1)
    gains = {n: torch.rand(s.size, dtype=torch.float64) for n, s in case.model.sites.items()}
    pruned = prune(case.model, DECISION)
    folded = compensate("fold-gains", case.model, DECISION, pruned, gains=gains).network
    kept = masked_gains(case.model, DECISION.kept)
    rows = {name: gain[None] * kept[name] for name, gain in gains.items()}
    with torch.no_grad():
        want, got = case.model.outputs_at_gains(case.inputs, rows), folded(case.inputs)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-12)


def test_least_squares_reads_the_selected_inputs(case: Case) -> None:
    pruned: Any = prune(case.model, DECISION)
    assert isinstance(pruned[4], SelectedLinear)
    better = compensate("least-squares:ridge=1e-9", case.model, DECISION, pruned, case.loader)
    figures = better.reports[0][1].layers
    assert set(figures) == {"4", "6"}
    assert figures["4"]["after"] < figures["4"]["before"]
    # The regression of the original's outputs on what is read, by another solver.
    with torch.no_grad():
        read = pruned[4].selected(pruned[:4](case.inputs))
        rows = torch.cat([read, torch.ones(60, 1, dtype=torch.float64)], 1)
        wanted = case.network[:5](case.inputs)[:, DECISION.kept["4"]]
        solution = torch.linalg.lstsq(rows, wanted).solution
        fitted: Any = better.network
        torch.testing.assert_close(fitted[4].weight, solution[:-1].T, rtol=1e-5, atol=1e-6)


def test_maps_of_the_channels_are_shown_and_features_have_none(case: Case) -> None:
    maps = feature_maps(case.model, "0", case.inputs[:3])
    with torch.no_grad():
        torch.testing.assert_close(maps, case.network[:3](case.inputs[:3]).float())
    with pytest.raises(DirpruneError, match="no channels of two-dimensional maps"):
        feature_maps(case.model, "4.inputs", case.inputs[:3])


def test_a_search_swaps_features_within_the_channels_that_stay(case: Case) -> None:
    found = refine(case.model, DECISION, case.loader, steps=20, images=60)
    assert found.settings["refined"]["flips"] > 0
    log_prob = found.settings["refined"]["log_prob"]
    assert log_prob["after"] > log_prob["before"]
    assert found.kept["0"].tolist() == DECISION.kept["0"].tolist()
    assert {n: len(k) for n, k in found.kept.items()} == {"0": 3, "4.inputs": 7, "4": 4}
    channels = found.kept["4.inputs"] // 4
    assert channels.unique().tolist() == [0, 1, 3]  # each has a feature, and no other
    assert found.kept["4.inputs"].tolist() != DECISION.kept["4.inputs"].tolist()


def test_rounds_remove_features_and_channels(case: Case) -> None:
    found = prune_in_rounds(case.model, case.loader, rounds=3, params=0.4, steps=4)
    left: Any = found.network
    kept = found.decision.kept
    assert [r.units["4.inputs"] for r in found.rounds][-1] == len(kept["4.inputs"]) < 16
    assert left[4].in_features == len(kept["4.inputs"])
    assert left[0].out_channels == len(kept["0"])
    with torch.no_grad():
        once = prune(case.model, found.decision)(case.inputs)
        torch.testing.assert_close(left(case.inputs), once, rtol=0, atol=0)


def test_what_else_knows_parts_or_says_that_it_does_not(case: Case) -> None:
    graph = case.model.graph
    mask = torch.ones_like(case.network[0].weight)
    mask[2] = 0
    kept = kept_units(graph, living_units(graph, {"0.weight": mask}))
    assert kept["0"].tolist() == [0, 1, 3]
    assert kept["4.inputs"].tolist() == [*range(8), *range(12, 16)]
    with pytest.raises(DirpruneError, match="without flatten='features'"):
        subnetwork_posterior(case.model, DECISION, case.loader)
    with pytest.raises(DirpruneError, match="without flatten='features'"):
        structured_probabilistic_pruning(case.model, case.loader, epochs=1)
