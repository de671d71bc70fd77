"""Held-out swaps: what they cost, and whether probabilities are borne out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.diagnostics.swaps import swap_calibration
from dirprune.analysis.evidence import Scores
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Parts = tuple[SwitchedNetwork, Any, Tensor, Tensor, Decision]


@pytest.fixture(scope="module")
def parts() -> Parts:
    """4-60-3 and 200 images: 30 kept and 30 removed units."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 60), nn.ReLU(), nn.Linear(60, 3)).double()
        inputs, targets = torch.randn(200, 4).double(), torch.randint(3, (200,))
    model = SwitchedNetwork(network, inputs[:2], num_data=200)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=64)
    return model, loader, inputs, targets, Decision({"0": torch.arange(30)})


def test_a_swaps_rise_is_that_of_the_pruned_network(parts: Parts) -> None:
    model, loader, inputs, targets, decision = parts
    found = swap_calibration(model, decision, {"0": torch.zeros(2, 60)}, loader, images=200)
    assert len(found.swaps) == 30
    assert {s.kept for s in found.swaps} == set(range(30))  # each unit in one pair
    assert {s.removed for s in found.swaps} == set(range(30, 60))

    def loss(kept: Tensor) -> float:
        outputs = prune(model, Decision({"0": kept}))(inputs)
        return float(nn.functional.cross_entropy(outputs, targets).detach())

    for swap in found.swaps[:3]:
        units = torch.arange(30)
        units[swap.kept] = swap.removed
        assert swap.rise == pytest.approx(loss(units) - loss(torch.arange(30)), abs=1e-12)
        assert swap.probability == 0.5  # draws that tie say nothing


def test_draws_that_know_the_truth_are_right_and_sure(parts: Parts) -> None:
    model, loader, *_, decision = parts
    blind = swap_calibration(model, decision, {"0": torch.zeros(2, 60)}, loader, images=200)
    scores = torch.zeros(60)
    for swap in blind.swaps:  # the same seed pairs the same units
        scores[swap.kept] = 1.0 if swap.rise > 0 else -1.0
    sure = {"0": Scores(scores, draws=scores.expand(8, -1))}
    found = swap_calibration(model, decision, sure, loader, images=200)
    assert found.calibration.mean_confidence == found.calibration.mean_accuracy == 1.0
    assert found.to_dict()["verdict"] == "reliable"
    wrong = swap_calibration(model, decision, {"0": -scores.expand(8, -1)}, loader, images=200)
    assert wrong.calibration.mean_accuracy == 0.0
    assert wrong.to_dict()["verdict"] == "over-confident"
    share = sum(s.rise > 0 for s in blind.swaps) / 30
    assert 0.1 < share < 0.9  # both happen, so that the two tests above can fail


def test_a_probability_is_the_share_of_draws(parts: Parts) -> None:
    model, loader, *_, decision = parts
    draws = torch.zeros(4, 60)
    draws[:3, :30] = 1.0  # three of four draws prefer every kept unit, one ties: 7/8
    found = swap_calibration(model, decision, {"0": draws}, loader, images=50)
    assert {s.probability for s in found.swaps} == {0.875}


def test_pairs_of_dead_units_are_split_at_random(parts: Parts) -> None:
    """They are neither right nor wrong: 30 coins, 5 to 25 of them heads but once in 5,000."""
    _, loader, inputs, _, decision = parts
    dead: Any = nn.Sequential(nn.Linear(4, 60), nn.ReLU(), nn.Linear(60, 3)).double()
    with torch.no_grad():
        dead[2].weight.zero_()
    model = SwitchedNetwork(dead, inputs[:2], num_data=200)
    found = swap_calibration(model, decision, {"0": torch.zeros(2, 60)}, loader, images=50)
    assert {s.rise for s in found.swaps} == {0.0}
    assert 5 / 30 <= found.calibration.mean_accuracy <= 25 / 30


def test_bad_input_is_refused(parts: Parts) -> None:
    model, loader, *_, decision = parts
    with pytest.raises(DirpruneError, match="has no draws"):
        swap_calibration(model, decision, {"0": Scores(torch.zeros(60))}, loader)
    with pytest.raises(DirpruneError, match=r"expected \[S, 60\], got \[2, 5\]"):
        swap_calibration(model, decision, {"0": torch.zeros(2, 5)}, loader)
    few = Decision({"0": torch.arange(55)})
    with pytest.raises(
        DirpruneError, match="leaves 5 pairs of a kept and a removed unit of one site"
    ):
        swap_calibration(model, few, {"0": torch.zeros(2, 60)}, loader)
    with pytest.raises(DirpruneError, match="loader is empty"):
        swap_calibration(model, decision, {"0": torch.zeros(2, 60)}, [])
