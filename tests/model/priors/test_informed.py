"""Priors that read the network: concentrations against hand-computed ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network
from dirprune.model.priors import BatchNormScale, BoundPrior, WeightNorm
from dirprune.model.sites import Site
from dirprune.model.switched import SwitchedNetwork

Randomise = Callable[[nn.Module], nn.Module]
IMAGES = torch.zeros(2, 1, 6, 6)


class Residual(nn.Module):
    """Two convolutions write to one stream; a third, with a batch norm, lies inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.inner = nn.Conv2d(3, 4, 3, padding=1)
        self.inner_bn = nn.BatchNorm2d(4)
        self.outer = nn.Conv2d(4, 3, 1)
        self.outer_bn = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        y = self.outer_bn(self.outer(torch.relu(self.inner_bn(self.inner(x)))))
        return self.head(torch.relu(x + y).mean((2, 3)))


def concentration(model: SwitchedNetwork, site: str) -> Tensor:
    prior: Any = model.prior(model.sites[site])
    assert prior.concentration.dtype == torch.float64
    return prior.concentration


def norms(weight: Tensor) -> Tensor:
    """The L2 norm of each row."""
    return torch.tensor([float(row.double().norm()) for row in weight.detach()]).double()


def share(norm: Tensor, alpha: float) -> Tensor:
    return alpha * len(norm) * norm / norm.sum()


def test_weight_norm_of_a_plain_network() -> None:
    network: Any = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(),
                                 nn.Linear(4, 2))  # fmt: skip
    model = SwitchedNetwork(network, torch.zeros(2, 3), num_data=9, prior="weight-norm:0.3")
    # Rows of the layer itself: neither its bias nor the columns of the next.
    for name, layer in (("0", network[0]), ("2", network[2])):
        found = concentration(model, name)
        torch.testing.assert_close(found, share(norms(layer.weight), 0.3))
        assert float(found.mean()) == pytest.approx(0.3, rel=1e-12)
    assert model.hyper_sites == ()


def test_weight_norm_of_a_residual_stream(randomise_norms: Randomise) -> None:
    network: Any = randomise_norms(Residual())
    model = SwitchedNetwork(network, IMAGES, num_data=9, prior=WeightNorm(2.0))
    assert model.sites["stem"].producers == ("stem", "outer")
    both = (norms(network.stem.weight) ** 2 + norms(network.outer.weight) ** 2).sqrt()
    torch.testing.assert_close(concentration(model, "stem"), share(both, 2.0))
    torch.testing.assert_close(
        concentration(model, "inner"), share(norms(network.inner.weight), 2.0)
    )


def test_weight_norm_where_a_unit_has_several_channels() -> None:
    """A grouped convolution: a unit is a group with its inputs and outputs."""
    network: Any = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Flatten(),
        nn.Linear(4 * 36, 2),
    )
    model = SwitchedNetwork(network, IMAGES, num_data=9, prior="weight-norm")
    site = model.sites["0"]
    assert (site.size, site.producers) == (2, ("0", "2"))
    squares = norms(network[0].weight) ** 2 + norms(network[2].weight) ** 2
    torch.testing.assert_close(
        concentration(model, "0"), share(squares.view(2, 2).sum(1).sqrt(), 1.0)
    )


def test_a_matrix_that_produces_nothing_does_not_count() -> None:
    """A scale of a normalisation over several axes, say."""
    network: Any = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    graph = SwitchedNetwork(network, torch.zeros(2, 3), num_data=9).graph
    network.register_parameter("scale", nn.Parameter(torch.arange(8.0).view(4, 2)))
    more = replace(graph, axes={**graph.axes, ("scale", 0): graph.axes["0.weight", 0]})
    assert WeightNorm().bind(network, more) == WeightNorm().bind(network, graph)


def test_bn_scale(randomise_norms: Randomise) -> None:
    network: Any = randomise_norms(Residual())
    with torch.no_grad():
        network.inner_bn.weight[1] = -0.7  # so that the absolute value is tried
    model = SwitchedNetwork(network, IMAGES, num_data=9, prior="bn-scale:0.5")
    gamma = {
        n: getattr(network, n).weight.detach().double() for n in ("bn", "inner_bn", "outer_bn")
    }
    torch.testing.assert_close(concentration(model, "inner"), share(gamma["inner_bn"].abs(), 0.5))
    both = (gamma["bn"] ** 2 + gamma["outer_bn"] ** 2).sqrt()
    torch.testing.assert_close(concentration(model, "stem"), share(both, 0.5))


# Of many random scales a few are near zero.
@pytest.mark.filterwarnings("ignore:prior BatchNormScale.*were raised:UserWarning")
@pytest.mark.parametrize("name", ["lenet5", "vgg16", "resnet20"])
@pytest.mark.parametrize("prior", ["weight-norm", "bn-scale"])
def test_registered_networks(name: str, prior: str, randomise_norms: Randomise) -> None:
    size, channels = (28, 1) if name == "lenet5" else (32, 3)
    network = build_network(name, num_classes=10, in_channels=channels, size=size)
    arguments: Any = (randomise_norms(network), torch.zeros(2, channels, size, size))
    if (name, prior) == ("lenet5", "bn-scale"):
        with pytest.raises(
            DirpruneError, match=r"BatchNormScale.*site 'conv1': 20 of 20 units have"
        ):
            SwitchedNetwork(*arguments, num_data=9, prior=prior)
        return
    model = SwitchedNetwork(*arguments, num_data=9, prior=prior)
    for site in model.sites:
        found = concentration(model, site)
        assert float(found.mean()) == pytest.approx(1.0, rel=1e-9)
        assert float(found.std()) > 0


def test_only_the_sites_that_are_switched_need_a_batch_norm() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Flatten(),
        nn.Linear(12, 2),
    )  # fmt: skip
    with pytest.raises(DirpruneError, match=r"site '0': 4 of 4 units .* or take weight-norm:1$"):
        SwitchedNetwork(network, IMAGES, num_data=9, prior="bn-scale")
    model = SwitchedNetwork(network, IMAGES, num_data=9, prior="bn-scale", exclude=["0"])
    assert list(model.sites) == ["2"]
    assert concentration(model, "2").tolist() == [1.0, 1.0, 1.0]
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(64, 2)
    )
    with pytest.raises(DirpruneError, match="site '0': 4 of 4 units have no batch norm with a sca"):
        SwitchedNetwork(plain, IMAGES, num_data=9, prior="bn-scale")


def test_a_unit_without_weights_is_raised_to_the_floor_aloud() -> None:
    network: Any = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[3.0, 4, 0], [0, 0, 0], [5, 0, 0], [0, 0, 10]]))
    with pytest.warns(UserWarning, match=r"norms of the weights of 1 units \(0\) are below 1%"):
        model = SwitchedNetwork(network, torch.zeros(2, 3), num_data=9, prior="weight-norm")
    # The mean norm is (5 + 0 + 5 + 10) / 4 = 5, of which 1 % is .05; then 4 / 20.05 a unit.
    expected = [4 * n / 20.05 for n in (5, 0.05, 5, 10)]
    assert concentration(model, "0").tolist() == pytest.approx(expected, rel=1e-12)
    assert "1 units at the floor" in repr(model.prior)
    assert isinstance(model.prior, BoundPrior)
    assert model.prior.floored == {"0": (1,)}


@pytest.mark.parametrize(("value", "message"), [(0.0, "all zero"), (float("nan"), "not finite")])
def test_weights_that_say_nothing_are_refused(value: float, message: str) -> None:
    network: Any = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model = SwitchedNetwork(network, torch.zeros(2, 3), num_data=9)
    with torch.no_grad():
        network[0].weight.fill_(value)
    with pytest.raises(DirpruneError, match=f"site '0': the norms of the weights are {message}"):
        WeightNorm().bind(network, model.graph)


def test_the_name_of_a_bound_prior_tells_networks_apart() -> None:
    def make() -> SwitchedNetwork:
        network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        return SwitchedNetwork(network, torch.zeros(2, 3), num_data=9, prior="weight-norm:2")

    first, second = make(), make()
    words = repr(first.prior)
    assert words.startswith("WeightNorm(alpha=2.0) bound to 1 sites (crc ")
    assert words != repr(second.prior)
    assert repr(copy.deepcopy(first.prior)) == words
    # Given again it stays as it is; on another network's sites it says so.
    again = SwitchedNetwork(first.network, torch.zeros(2, 3), num_data=9, prior=first.prior)
    assert again.prior is first.prior
    with pytest.raises(DirpruneError, match="is bound to another network: it does not know fc"):
        first.prior(Site("fc", 4, (), ()))


def test_bound_to_the_weights_of_the_moment() -> None:
    network: Any = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    model = SwitchedNetwork(network, torch.zeros(2, 3), num_data=9)
    before = WeightNorm().bind(network, model.graph)
    with torch.no_grad():
        network[0].weight[0] *= 3
    assert repr(WeightNorm().bind(network, model.graph)) != repr(before)
    assert BatchNormScale() == BatchNormScale(1.0)
