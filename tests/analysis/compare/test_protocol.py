"""What protocols do to a cut network, against the same done by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.compare.protocol import PROTOCOLS, Training, measure, refresh
from dirprune.inference.compensation import compensate
from dirprune.inference.evaluate import evaluate
from dirprune.inference.loop import seed_of
from dirprune.inference.training import finetune
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork


class Case:
    """A network with a batch norm on its own labels, cut to half."""

    def __init__(self, randomise_norms: Callable[[nn.Module], nn.Module]) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)
        )
        randomise_norms(self.network).eval()
        images = torch.randn(120, 1, 5, 5)
        with torch.no_grad():
            labels = self.network(images).argmax(1)
        self.loader = DataLoader(
            TensorDataset(images[:60], labels[:60]), batch_size=20, shuffle=True
        )
        held = DataLoader(TensorDataset(images[60:], labels[60:]), batch_size=20)
        self.parts = {"test": held}
        self.model = SwitchedNetwork(self.network, images[:2], num_data=60)
        self.decision = Decision({next(iter(self.model.sites)): torch.tensor([0, 2, 5])})

    def measure(self, protocol: str, **options: Any) -> Any:
        return measure(
            protocol, self.model, self.decision, loader=self.loader, parts=self.parts, **options
        )

    def percent(self, network: nn.Module) -> dict[str, float]:
        return {"test": evaluate(network, self.parts["test"]).percent}


@pytest.fixture(scope="module")
def case(randomise_norms: Callable[[nn.Module], nn.Module]) -> Case:
    return Case(randomise_norms)


def test_one_shot_is_the_pruned_network(case: Case) -> None:
    found = case.measure("one-shot")
    assert found.accuracy == case.percent(prune(case.model, case.decision))
    assert found.accuracy["test"] < case.percent(case.network)["test"]
    assert found.untrained is None
    assert found.seconds["training"] == 0


def test_compensation_comes_in_its_order(case: Case) -> None:
    names = ["least-squares", "recalibrate"]
    pruned = prune(case.model, case.decision)
    by_hand = compensate(names, case.model, case.decision, pruned, case.loader).network
    assert case.measure("one-shot", compensations=names).accuracy == case.percent(by_hand)


@pytest.mark.parametrize("protocol", ["finetune", "low-data"])
def test_fine_tuning_begins_with_the_compensated_network(case: Case, protocol: str) -> None:
    pruned = prune(case.model, case.decision)
    by_hand = compensate("recalibrate", case.model, case.decision, pruned, case.loader).network
    untrained = case.percent(by_hand)
    finetune(by_hand, case.loader, epochs=3, seed=seed_of([5, 4]), teacher=case.network)
    found = case.measure(protocol, compensations=["recalibrate"], training=Training(3), seed=5)
    assert found.untrained == untrained
    assert found.accuracy == case.percent(by_hand)
    assert found.accuracy != untrained


def test_scratch_has_the_widths_and_nothing_of_the_weights(case: Case) -> None:
    pruned = prune(case.model, case.decision)
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    state = torch.random.get_rng_state()
    refresh(pruned, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    after: dict[str, Tensor] = pruned.state_dict()
    assert {n: v.shape for n, v in after.items()} == {n: v.shape for n, v in before.items()}
    for name in ("0.weight", "0.bias", "4.weight", "4.bias", "1.weight", "1.running_mean"):
        assert not bool((after[name] == before[name]).any()), name
    # The bound of torch's uniform start for the pruned fan-in, 27 inputs.
    assert float(after["4.weight"].abs().max()) <= 27**-0.5
    again, other = copy.deepcopy(pruned), copy.deepcopy(pruned)
    refresh(again, 1)
    refresh(other, 2)
    assert torch.equal(again.state_dict()["4.weight"], after["4.weight"])
    assert not torch.equal(other.state_dict()["4.weight"], after["4.weight"])


def test_scratch_is_trained_as_the_others_are(case: Case) -> None:
    by_hand = prune(case.model, case.decision)
    refresh(by_hand, seed_of([5, 6]))
    fresh = case.percent(by_hand)
    finetune(by_hand, case.loader, epochs=3, seed=seed_of([5, 4]), teacher=case.network)
    found = case.measure("scratch", training=Training(3), seed=5)
    assert found.untrained == fresh
    assert found.accuracy == case.percent(by_hand)


def test_no_epoch_no_training(case: Case) -> None:
    found = case.measure("finetune", training=Training(0))
    assert found.accuracy == found.untrained == case.measure("one-shot").accuracy


def test_what_cannot_be_done_is_said(case: Case) -> None:
    with pytest.raises(DirpruneError, match="expected training="):
        case.measure("finetune")
    with pytest.raises(DirpruneError, match="nothing to make up for, got the compensation recal"):
        case.measure("scratch", compensations=["recalibrate"], training=Training(1))

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(3))

    with pytest.raises(DirpruneError, match="Own 'own' has weights and no method reset_parameters"):
        refresh(nn.ModuleDict({"own": Own()}), 0)


def test_protocols_are_those_of_the_command() -> None:
    assert list(PROTOCOLS) == ["one-shot", "low-data", "finetune", "scratch"]
