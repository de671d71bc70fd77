"""APoZ against activations that are written out by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.analysis.evidence import Passes, evidence
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import CifarResNet
from dirprune.model.switched import SwitchedNetwork

Problem = Any  # of conftest.py


def loader_of(x: Tensor, batch: int = 5) -> list[tuple[Tensor, Tensor]]:
    return [(part, torch.zeros(len(part), dtype=torch.long)) for part in x.split(batch)]


def test_it_counts_what_the_next_layer_reads(problem: Problem) -> None:
    net, x = problem.network, problem.inputs
    with torch.no_grad():
        if "stem" in problem.model.sites:
            a = F.relu(net.norm0(net.stem(x)))
            h = F.relu(net.norm1(net.conv1(a)))
            b = F.relu(a + net.norm2(net.conv2(h))).mean((2, 3))  # pooled: what ``out`` reads
            percent = {
                "stem": ((a == 0).double().mean((0, 2, 3)) + (b == 0).double().mean(0)) / 2,
                "conv1": (h == 0).double().mean((0, 2, 3)),
            }
        else:
            first = F.relu(net[0](x))
            second = F.relu(net[2](first))
            percent = {"0": (first == 0).double().mean(0), "2": (second == 0).double().mean(0)}
    found = evidence("apoz", problem.model, None, problem.loader)
    for site, scores in found.items():
        torch.testing.assert_close(scores.scores, 1 - percent[site], rtol=0, atol=1e-12)
        assert not scores.across_sites
    assert found.passes == Passes(11, 0)


class Joined(nn.Module):
    """Two convolutions that one layer reads joined and flattened, and pooled before that."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 2, 3)
        self.out = nn.Linear(5 * 9 + 2, 3)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.max_pool2d(F.relu(self.one(x)), 2), F.max_pool2d(F.relu(self.two(x)), 2)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat(self.parts(x), 1).flatten(1)
        return self.out(torch.cat([joined, x.flatten(1)[:, :2]], 1))


def test_joined_flattened_and_pooled() -> None:
    # Inputs of ``out`` belong to two sites, and two of them to none.
    net = Joined().double()
    x = torch.randn(12, 1, 8, 8, dtype=torch.float64)
    model = SwitchedNetwork(net, x[:2], num_data=12)
    with torch.no_grad():
        one, two = ((part == 0).double().mean((0, 2, 3)) for part in net.parts(x))
    found = evidence("apoz", model, None, loader_of(x))
    torch.testing.assert_close(found["one"].scores, 1 - one, rtol=0, atol=1e-12)
    torch.testing.assert_close(found["two"].scores, 1 - two, rtol=0, atol=1e-12)


def test_a_stream_that_grows() -> None:
    # Of its 64 units, 16 are read by all blocks and 32 by the last layer only.
    net = CifarResNet(8, num_classes=4).double().eval()
    x = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    model = SwitchedNetwork(net, x[:2], num_data=6)
    (stream,) = (s for s in model.sites.values() if len(s.producers) > 1)
    start, layers = model.graph.offsets[stream.name], dict(net.named_modules())
    expected: list[list[float]] = [[] for _ in range(stream.size)]
    for consumer in stream.consumers:
        seen: list[Tensor] = []
        hook = layers[consumer].register_forward_pre_hook(lambda _, x, s=seen: s.append(x[0]))
        net(x)
        hook.remove()
        zeros = (seen[0] == 0).double().movedim(1, 0).flatten(1).mean(1).tolist()
        units = model.graph.axes[f"{consumer}.weight", 1].tolist()
        for unit, share in zip(units, zeros, strict=True):
            expected[unit - start].append(1 - share)
    assert sorted({len(shares) for shares in expected}) == [1, 2, 4]
    means = torch.tensor([sum(shares) / len(shares) for shares in expected]).double()
    found = evidence("apoz", model, None, loader_of(x))
    torch.testing.assert_close(found[stream.name].scores, means, rtol=0, atol=1e-6)


def test_silent_and_loud_units() -> None:
    net: Any = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
        net[0].bias.copy_(torch.tensor([-1.0, 1.0, 0.0]))  # never, always, half of the time
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0], [-2.0, 0.0]]).double()
    model = SwitchedNetwork(net, x[:2], num_data=4)
    assert evidence("apoz", model, None, loader_of(x))["0"].scores.tolist() == [0, 1, 0.5]


def test_activations_that_are_never_zero_are_refused() -> None:
    net = nn.Sequential(
        nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 2)
    ).double()
    x = torch.randn(20, 2).double()
    model = SwitchedNetwork(net, x[:2], num_data=20)
    with pytest.raises(DirpruneError, match=r"'apoz' counts .* of 2 never are: leave such sites"):
        evidence("apoz", model, None, loader_of(x))
    model = SwitchedNetwork(net, x[:2], num_data=20, exclude=["2"])
    assert list(evidence("apoz", model, None, loader_of(x))) == ["0"]


def test_nothing_is_left_on_the_model(problem: Problem) -> None:
    evidence("apoz", problem.model, None, problem.loader)
    assert not any(module._forward_pre_hooks for module in problem.model.modules())
