"""What the tests of the analysis share: a small classifier, its data, a fit and its DataTree."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.posterior import posterior
from dirprune.inference.fit import Fit, fit
from dirprune.model.switched import SwitchedNetwork


@dataclass(frozen=True)
class Case:
    """A 4-6-5-3 perceptron in float64, 60 examples, two restarts, and the tree made of them."""

    model: SwitchedNetwork
    fit: Fit
    inputs: Tensor
    targets: Tensor
    tree: xr.DataTree

    @property
    def loader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.inputs, self.targets), batch_size=20)


@pytest.fixture(scope="session")
def case() -> Case:
    """Nothing of it is to be changed."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        network: Any = nn.Sequential(
            nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
        ).double()
        with torch.no_grad():
            network[4].weight[:, 2] = 0  # nobody listens to unit 2 of the second site
            network[4].weight *= 5
            inputs = torch.randn(60, 4, dtype=torch.float64)
            network[4].bias -= network(inputs).mean(0)
            targets = network(inputs).softmax(1).multinomial(1)[:, 0]
    model = SwitchedNetwork(network, inputs[:2], num_data=60, temperature=0.5)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=20)
    fitted = fit(model, "dirichlet", loader, epochs=20, restarts=2)
    tree = posterior(model, fitted, loader, images=50, cost_images=30)
    return Case(model, fitted, inputs, targets, tree)
