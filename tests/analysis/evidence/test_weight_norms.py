"""L1 and L2 norms against the layers' own weights."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dirprune.analysis.evidence import Passes, evidence
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import CifarResNet
from dirprune.model.switched import SwitchedNetwork

Problem = Any  # of conftest.py
ORDERS = {"l1-norm": 1, "l2-norm": 2}


def relative(weight: Tensor, p: int) -> Tensor:
    norm = torch.linalg.vector_norm(weight.detach().double().flatten(1), p, dim=1)
    return norm / norm.mean()


@pytest.mark.parametrize("name", ORDERS)
def test_norms_are_relative_and_averaged_over_layers(problem: Problem, name: str) -> None:
    p, net = ORDERS[name], problem.network
    if "stem" in problem.model.sites:
        expected = {
            "stem": (relative(net.stem.weight, p) + relative(net.conv2.weight, p)) / 2,
            "conv1": relative(net.conv1.weight, p),
        }
    else:
        expected = {"0": relative(net[0].weight, p), "2": relative(net[2].weight, p)}
    found = evidence(name, problem.model, None)
    assert list(found) == list(expected)
    for site, scores in found.items():
        torch.testing.assert_close(scores.scores, expected[site], rtol=1e-12, atol=0)
        assert not scores.across_sites
    assert (found.passes, found.learning) == (Passes(), Passes())


def test_no_source_is_needed(problem: Problem) -> None:
    given, left_out = evidence("l1-norm", problem.model, None), evidence("l1-norm", problem.model)
    for site, scores in given.items():
        assert torch.equal(left_out[site].scores, scores.scores)
    with pytest.raises(DirpruneError, match="evidence 'mean' needs"):
        evidence("mean", problem.model)


@pytest.mark.parametrize("name", ORDERS)
def test_the_scale_of_a_layer_has_no_say(problem: Problem, name: str) -> None:
    before = evidence(name, problem.model, None)
    net = copy.deepcopy(problem.network)
    with torch.no_grad():
        next(net.parameters()).mul_(100)
    model = SwitchedNetwork(net, problem.inputs[:2], num_data=11)
    for site, scores in evidence(name, model, None).items():
        torch.testing.assert_close(scores.scores, before[site].scores, rtol=1e-12, atol=0)


def test_a_stream_that_grows() -> None:
    # Padding shortcuts: units that the stream has from the start are written by more layers.
    net = CifarResNet(8, num_classes=4)
    model = SwitchedNetwork(net, torch.randn(2, 3, 8, 8), num_data=10)
    layers = dict(net.named_modules())
    graph = model.graph
    (stream,) = (s for s in model.sites.values() if len(s.producers) > 1)
    start = graph.offsets[stream.name]
    expected: list[list[float]] = [[] for _ in range(stream.size)]
    for layer in stream.producers:
        norms = relative(layers[layer].weight, 1)  # type: ignore[arg-type]
        for channel, unit in enumerate(graph.axes[f"{layer}.weight", 0].tolist()):
            expected[unit - start].append(float(norms[channel]))
    assert sorted({len(votes) for votes in expected}) == [1, 2, 4]
    means = torch.tensor([sum(votes) / len(votes) for votes in expected], dtype=torch.float64)
    found = evidence("l1-norm", model, None)
    torch.testing.assert_close(found[stream.name].scores, means, rtol=1e-6, atol=0)


def test_groups_of_channels_count_as_one_unit() -> None:
    # A grouped convolution: a unit is a group of two channels, which both layers write.
    first, grouped = nn.Conv2d(4, 6, 1, bias=False), nn.Conv2d(6, 6, 1, groups=3)
    net = nn.Sequential(first, nn.ReLU(), grouped, nn.ReLU(), nn.Conv2d(6, 2, 1))
    model = SwitchedNetwork(net, torch.randn(2, 4, 3, 3), num_data=10)
    assert model.sites["0"].size == 3
    votes = [relative(layer.weight.reshape(3, -1), 2) for layer in (first, grouped)]
    found = evidence("l2-norm", model, None)["0"].scores
    torch.testing.assert_close(found, (votes[0] + votes[1]) / 2, rtol=1e-12, atol=0)


def test_weights_that_are_all_zero_give_no_votes() -> None:
    net: Any = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.zeros_(net[0].weight)
    model = SwitchedNetwork(net, torch.randn(2, 2), num_data=10)
    assert evidence("l1-norm", model, None)["0"].scores.tolist() == [0, 0, 0]


class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("basis", torch.randn(3, 2))
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(nn.functional.linear(x, self.basis)))


def test_units_without_weights_are_refused() -> None:
    model = SwitchedNetwork(Fixed(), torch.randn(2, 2), num_data=10)
    with pytest.raises(DirpruneError, match="'l1-norm': site 'basis': 3 of 3 units have no param"):
        evidence("l1-norm", model, None)
