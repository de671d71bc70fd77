"""What the tests of inference share: a tiny classifier with its data."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.inference.data import load_data, loader
from dirprune.inference.training import train
from dirprune.model.networks.digits import DigitsCNN
from dirprune.model.switched import SwitchedNetwork


@pytest.fixture(scope="session")
def batches() -> Callable[..., DataLoader[Any]]:
    """Five shuffled batches of 8 random examples with 4 inputs and 3 classes."""

    def make(*, shuffle: bool = True, size: int = 8) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(5)
        inputs = torch.randn(40, 4, generator=generator)
        targets = torch.randint(3, (40,), generator=generator)
        return DataLoader(TensorDataset(inputs, targets), batch_size=size, shuffle=shuffle)

    return make


@pytest.fixture(scope="session")
def classifier() -> Callable[..., SwitchedNetwork]:
    """A switched 4-6-5-3 perceptron with fixed random weights. Not to be changed."""

    @functools.cache
    def make(*, double: bool = False, **options: Any) -> SwitchedNetwork:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            network: nn.Module = nn.Sequential(
                nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
            )
        example: Tensor = torch.zeros(2, 4)
        if double:
            network, example = network.double(), example.double()
        return SwitchedNetwork(network, example, num_data=40, **options)

    return make


@pytest.fixture(scope="session")
def trained() -> nn.Module:
    """A digits-cnn after eight epochs (97 % on the test images). Not to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = DigitsCNN()
        train(network, loader(load_data("digits").train, 64, shuffle=True), epochs=8)
    return network
