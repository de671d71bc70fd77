"""Small networks of every kind that a compensation meets, in float64, with their images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dirprune.model.decision import Decision
from dirprune.model.networks import CifarResNet
from dirprune.model.surgery import prune, without_empty_layers
from dirprune.model.switched import SwitchedNetwork


class Plain(nn.Module):
    """Convolutions with batch norm, of all shapes, and flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 5, 3, stride=2, padding=1, padding_mode="reflect")
        self.depthwise = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.c = nn.ConvTranspose2d(5, 4, 3, stride=2, padding=1, output_padding=1)
        self.d = nn.Linear(4 * 36, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        x = F.relu(self.c(self.depthwise(F.relu(self.b(x), inplace=True))))
        return self.out(torch.tanh(self.d(x.flatten(1))))


class Twice(nn.Module):
    """One convolution that is called twice, and weights that no module calls."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.mix = nn.Conv2d(6, 6, 1)
        self.by_hand = nn.Linear(6, 8)
        self.free = nn.Parameter(torch.randn(5, 8))
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mix(F.relu(self.mix(F.relu(self.a(x))))))
        x = F.linear(x.mean((2, 3)), self.by_hand.weight, self.by_hand.bias)
        return self.out(F.relu(F.linear(F.relu(x), self.free)))


class Tokens(nn.Module):
    """A transformer's block: attention by heads, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(8, 4, 12, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(x).mean(1))


@dataclass(frozen=True)
class Case:
    """A switched network, 24 examples in batches of 7, and a decision."""

    model: SwitchedNetwork
    inputs: Tensor
    targets: Tensor
    decision: Decision

    @property
    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(self.inputs, self.targets), batch_size=7, shuffle=True)

    @property
    def pruned(self) -> nn.Module:
        return prune(self.model, self.decision).eval()

    def random_gains(self) -> dict[str, Tensor]:
        return {
            name: 0.2 + 1.6 * torch.rand(site.size, dtype=torch.float64)
            for name, site in self.model.sites.items()
        }


BUILD: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "plain": lambda: (Plain(), (2, 6, 6)),
    "twice": lambda: (Twice(), (2, 5, 5)),
    "tokens": lambda: (Tokens(), (5, 8)),
    "resnet8": lambda: (CifarResNet(8, num_classes=3), (3, 8, 8)),
}


@pytest.fixture(scope="session")
def case(randomise_norms: Callable[[nn.Module], nn.Module]) -> Callable[[str], Case]:
    """A case by its name. Nothing of it is to be changed."""

    @cache
    def make(name: str) -> Case:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            network, shape = BUILD[name]()
            network = randomise_norms(network).double().eval()
            inputs = torch.randn(24, *shape, dtype=torch.float64)
            targets = torch.randint(3, (24,))
            model = SwitchedNetwork(network, inputs[:2], num_data=24)
            kept = {
                n: torch.randperm(site.size)[: -(-2 * site.size // 3)]
                for n, site in model.sites.items()
            }
        return Case(model, inputs, targets, Decision(without_empty_layers(model.graph, kept)))

    return make
