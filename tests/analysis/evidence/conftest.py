"""Two small networks with their own second forward pass, in which gates stand for the gains."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dirprune.model.switched import SwitchedNetwork

Gates = Mapping[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """A network in float64 with 11 examples.

    ``logits`` writes the network out once more, with a factor on what the next layer reads of every
    unit; ``unread`` holds a unit of each site that nobody reads.
    """

    network: Any
    inputs: Tensor
    targets: Tensor
    logits: Callable[[Gates], Tensor]
    unread: Mapping[str, int]

    def __post_init__(self) -> None:
        model = SwitchedNetwork(self.network, self.inputs[:2], num_data=len(self.targets))
        object.__setattr__(self, "model", model)

    model: SwitchedNetwork = None  # type: ignore[assignment]  # made above

    @property
    def loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.inputs, self.targets), batch_size=4)

    def gates(self) -> dict[str, Tensor]:
        return {n: torch.ones(s.size, dtype=torch.float64) for n, s in self.model.sites.items()}

    def losses(self, gates: Gates) -> Tensor:
        return F.cross_entropy(self.logits(gates), self.targets, reduction="none")


class Residual(nn.Module):
    """A stream of 4 units, which ``stem`` and ``conv2`` write, and 5 units within a block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv1, self.norm1 = nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5)
        self.conv2, self.norm2 = nn.Conv2d(5, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm0(self.stem(x)))
        x = F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))
        return self.out(x.mean((2, 3)))


def perceptron() -> Problem:
    net: Any = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()
    with torch.no_grad():
        net[0].bias.fill_(0.5)  # no unit is silent for good, none is always loud
        net[2].bias.fill_(0.2)
        net[2].weight[:, 1] = 0
        net[4].weight[:, 2] = 0
        net[4].weight *= 5
    x = torch.randn(11, 4, dtype=torch.float64)

    def logits(gates: Gates) -> Tensor:
        h = F.relu(net[0](x)) * gates["0"]
        return net[4](F.relu(net[2](h)) * gates["2"])

    return Problem(net, x, torch.randint(3, (11,)), logits, {"0": 1, "2": 2})


def residual() -> Problem:
    net: Any = Residual().double().eval()
    with torch.no_grad():
        for norm in (net.norm0, net.norm1, net.norm2):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.1, 0.3)
            norm.weight.uniform_(0.5, 1.5)
            norm.weight[0] *= -1
            norm.bias.uniform_(-0.2, 0.4)
        net.conv1.weight[:, 1] = 0
        net.out.weight[:, 1] = 0
        net.out.weight *= 5
        net.conv2.weight[:, 3] = 0
    x = torch.randn(11, 3, 5, 5, dtype=torch.float64)

    def logits(gates: Gates) -> Tensor:
        stream, inner = (gates[n].reshape(-1, gates[n].shape[-1], 1, 1) for n in ("stem", "conv1"))
        a = F.relu(net.norm0(net.stem(x)))
        h = F.relu(net.norm1(net.conv1(a * stream)))
        b = F.relu(a + net.norm2(net.conv2(h * inner)))
        return net.out((b * stream).mean((2, 3)))

    return Problem(net, x, torch.randint(3, (11,)), logits, {"stem": 1, "conv1": 3})


@pytest.fixture(scope="session", params=["perceptron", "residual"])
def problem(request: pytest.FixtureRequest) -> Problem:
    """Nothing of it is to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return perceptron() if request.param == "perceptron" else residual()
