"""Masks of weights and units of the channel graph."""

import pytest
import torch
from torch import Tensor, nn

from dirprune.inference.train_time.layers import (
    kept_units,
    living_units,
    silencing_masks,
    weight_layers,
)
from dirprune.model.networks.resnet_cifar import CifarResNet
from dirprune.model.surgery import silence
from dirprune.model.switched import SwitchedNetwork


class Attention(nn.Module):
    """Queries and keys meet in a product, which no weight reads."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 6)
        self.attention = nn.MultiheadAttention(6, 3, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


@pytest.fixture(scope="module")
def model() -> SwitchedNetwork:
    network = CifarResNet(depth=8, num_classes=4)
    return SwitchedNetwork(network, torch.rand(2, 3, 8, 8), num_data=9)


def test_the_layers_that_make_units_without_the_output_layer(model: SwitchedNetwork) -> None:
    names = weight_layers(model.network, model.graph)
    assert names == [
        "conv1", *(f"layer{i}.0.conv{j}" for i in (1, 2, 3) for j in (1, 2))
    ]  # fmt: skip
    everything = {name: "not now" for name in model.sites if name != "layer2.0.conv1"}
    assert weight_layers(model.network, model.graph.without(everything)) == ["layer2.0.conv1"]


def test_a_unit_lives_while_a_layer_makes_it(model: SwitchedNetwork) -> None:
    network, graph = model.network, model.graph
    writers = ("conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")
    masks = {
        f"{layer}.weight": torch.zeros_like(network.get_parameter(f"{layer}.weight"))
        for layer in writers
    }
    masks["layer3.0.conv2.weight"][5] = 1
    masks["conv1.weight"][2, 0, 1, 1] = 1  # a single weight
    kept = kept_units(graph, living_units(graph, masks))
    conv1 = graph.axes["conv1.weight", 0]
    last = graph.axes["layer3.0.conv2.weight", 0]
    assert kept["conv1"].tolist() == sorted([int(conv1[2]), int(last[5])])
    assert all(len(kept[s]) == graph.sites[s].size for s in graph.sites if s != "conv1")
    del masks["layer1.0.conv2.weight"]  # not masked: all that it writes lives
    kept = kept_units(graph, living_units(graph, masks))
    assert set(kept["conv1"].tolist()) == {*conv1.tolist(), int(last[5])}


def test_silencing_masks_are_the_silenced_network(model: SwitchedNetwork) -> None:
    attention = SwitchedNetwork(Attention(), torch.rand(2, 5, 3), num_data=9, attention="head-dims")
    assert attention.graph.products
    for network, graph in ((m.network, m.graph) for m in (model, attention)):
        keep = torch.rand(graph.num_units + 1) < 0.6
        keep[-1] = True
        parameters = dict(network.named_parameters())
        masks = silencing_masks(graph, keep, parameters)
        expected = dict(silence(network, graph, kept_units(graph, keep)).named_parameters())
        for name, parameter in parameters.items():
            found = parameter * masks[name] if name in masks else parameter
            assert torch.equal(found, expected[name]), name
        everything = torch.ones_like(keep)
        assert silencing_masks(graph, everything, parameters) == {}
