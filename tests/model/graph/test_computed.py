"""Weights that are computed in each forward pass, and layers that no rule knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from dirprune.model.errors import DirpruneError
from dirprune.model.graph import build_channel_graph
from dirprune.model.switched import SwitchedNetwork

from .networks import ROWS, Net, check_exact, reasons, spread

Wrap = Callable[[nn.Module], nn.Module]


def with_wrapped(wrap: Wrap) -> Net:
    return Net(
        lambda s, x: s.d(F.relu(s.c(F.relu(s.b(F.relu(s.a(x))))))),
        a=nn.Linear(5, 6), b=wrap(nn.Linear(6, 7)), c=nn.Linear(7, 8), d=nn.Linear(8, 2),
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrap",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
)
def test_a_parametrized_layer_is_left_alone_until_the_parametrization_is_removed(
    wrap: Wrap,
) -> None:
    network: Any = with_wrapped(wrap).eval()
    inputs = ROWS.float()
    model = SwitchedNetwork(network, inputs, num_data=10)
    # What does not touch the layer can be pruned all the same; its unread output is not its own.
    assert list(model.sites) == ["c"]
    assert set(model.unprunable) == {"a", "b", "d"}
    for layer in ("a", "b"):
        assert "its weight is computed by a parametrization" in model.unprunable[layer]
        assert "remove_parametrizations(layer, 'weight')" in model.unprunable[layer]
    assert "layer 'b' reads it" in model.unprunable["a"]
    # The way round that the reason names.
    before = network(inputs)
    parametrize.remove_parametrizations(network.b, "weight")
    assert torch.allclose(network(inputs), before, atol=1e-6)  # float32 rounding
    model = SwitchedNetwork(spread(network), ROWS, num_data=10)
    assert list(model.sites) == ["a", "b", "c"]
    check_exact(model)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_the_old_weight_norm_cannot_be_copied_and_the_error_says_so() -> None:
    network = with_wrapped(torch.nn.utils.weight_norm)
    with pytest.raises(DirpruneError, match=r"b.weight is computed .*remove_weight_norm\(layer\)"):
        build_channel_graph(network, (ROWS.float(),))


class Standardised(nn.Linear):
    """Its weight's rows have mean 0 and variance 1."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        return F.linear(x, (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True), self.bias)


def test_a_weight_computed_in_forward_names_its_parameter() -> None:
    network = nn.Sequential(nn.Linear(5, 6), Standardised(6, 7), nn.Linear(7, 2))
    found = reasons(network, ROWS.float())
    assert found["1"] == "its weight is computed from 1.weight, not a parameter"
    assert found["0"] == f"layer '1' reads it: {found['1']}"


def test_a_weight_computed_from_the_examples_names_no_layer_of_others() -> None:
    network = Net(
        lambda s, x: s.b(F.linear(F.relu(s.a(x)), s.c(x).mean(0).view(4, 6))),
        a=nn.Linear(5, 6), c=nn.Linear(5, 24), b=nn.Linear(4, 2),
    )  # fmt: skip
    found = reasons(network, ROWS.float())
    assert found["b"] == "it is the network's output"
    assert all("computed from the examples (linear in" in found[name] for name in "ac")


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_are_left_alone(kind: type[nn.Module]) -> None:
    network = Net(
        lambda s, x: s.c(F.relu(s.b(s.r(s.a(x))[0][:, -1]))),
        a=nn.Linear(5, 6), r=kind(6, 7, batch_first=True), b=nn.Linear(7, 8), c=nn.Linear(8, 2),
    )  # fmt: skip
    model = SwitchedNetwork(network, torch.randn(3, 4, 5), num_data=10)
    assert list(model.sites) == ["b"]
    assert model.unprunable["r"] == "it is a recurrent layer"
    assert model.unprunable["a"] == "the recurrent layer 'r' reads it"
    model = SwitchedNetwork(spread(network), torch.randn(3, 4, 5).double(), num_data=10)
    check_exact(model)


def test_a_layer_without_a_rule_is_listed_itself() -> None:
    network = Net(
        lambda s, x: s.b(s.m(s.a(x), s.a(x))),
        a=nn.Linear(5, 6), m=nn.Bilinear(6, 6, 7), b=nn.Linear(7, 2),
    )  # fmt: skip
    found = reasons(network, ROWS.float())
    assert found["a"] == found["m"] == "no rule for the operation 'bilinear' in m"
