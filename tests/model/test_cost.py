"""Costs: what a decision is said to cost is what the pruned network really costs."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from dirprune.model.cost import CostTable, count_macs, count_params
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import WideResNet, build_network
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork


class Tokens(nn.Module):
    """Linear layers on [B, T, C] and on merged axes, a convolution along time, a grouped one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.mix = nn.Conv1d(8, 12, 3, groups=4)
        self.wide = nn.Linear(12, 10)
        self.out = nn.Linear(10, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.embed(x.flatten(0, 1)).view(-1, 6, 8))
        x = self.mix(x.transpose(1, 2)).transpose(1, 2)
        return self.out(F.gelu(self.wide(x))).mean(1)


@cache
def model_of(name: str) -> SwitchedNetwork:
    torch.manual_seed(0)
    if name == "tokens":
        return SwitchedNetwork(Tokens(), torch.randn(2, 6, 5), num_data=10)
    if name == "wrn":
        return SwitchedNetwork(WideResNet(10, 1), torch.randn(2, 3, 9, 9), num_data=10)
    channels, size = {"lenet5": (1, 17), "digits-cnn": (1, 9), "resnet20": (3, 9)}.get(
        name, (3, 63)
    )
    network = build_network(name, num_classes=7, in_channels=channels, size=size)
    return SwitchedNetwork(network, torch.randn(2, channels, size, size), num_data=10)


def counted(network: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds for one example, by torch's own counter on a batch of one."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(*(x[:1] for x in inputs))
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


def decision_of(model: SwitchedNetwork, seed: int) -> Decision:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(model.graph.num_units, generator=generator) < torch.rand(
        (), generator=generator
    )
    for start, site in zip(model.graph.offsets.values(), model.sites.values(), strict=True):
        keep[start] = keep[start] | ~keep[start : start + site.size].any()
    for _, units in model.graph.needed:
        keep[units[0]] = keep[units[0]] | ~keep[units].any()
    return Decision(
        {
            name: keep[start : start + model.sites[name].size].nonzero()[:, 0]
            for name, start in model.graph.offsets.items()
        }
    )


@pytest.mark.parametrize(
    "name",
    [
        "lenet5",
        "digits-cnn",
        "resnet20",
        "wrn",
        "tokens",
        pytest.param("torchvision:alexnet", marks=pytest.mark.slow),
    ],
)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_costs_are_those_of_the_pruned_network_exactly(name: str, seed: int) -> None:
    model = model_of(name)
    decision = decision_of(model, seed)
    pruned = prune(model, decision)
    params = sum(p.numel() for p in pruned.parameters())
    assert model.costs.total("macs", decision.kept) == counted(pruned, *model.example_inputs)
    assert model.costs.total("params", decision.kept) == params == count_params(pruned)


@pytest.mark.parametrize(
    ("name", "channels", "size", "macs"),
    [
        # 20 x 24^2 x 25 + 50 x 8^2 x 500 + 800 x 500 + 500 x 10: the published 2.3 M.
        ("lenet5", 1, 28, 2_293_000),
        # The published 41 M of ResNet-20: 27 x 16 x 32^2 in the first layer, the stages' 3x3
        # convolutions, 640 in the last (shortcuts of option A cost nothing).
        ("resnet20", 3, 32, 40_551_040),
    ],
)
def test_published_counts(name: str, channels: int, size: int, macs: int) -> None:
    network = build_network(name, num_classes=10, in_channels=channels, size=size)
    assert count_macs(network, (torch.randn(2, channels, size, size),)) == macs


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_macs_are_for_one_example_and_leave_the_modes_alone(batch: int) -> None:
    network = build_network("lenet5", num_classes=10, in_channels=1, size=28).train()
    network.get_submodule("fc1").eval()
    assert count_macs(network, (torch.randn(batch, 1, 28, 28),)) == 2_293_000
    assert network.training
    assert not network.get_submodule("fc1").training


def test_macs_need_a_batch() -> None:
    with pytest.raises(DirpruneError, match="no tensor with a batch axis"):
        count_macs(nn.Identity(), (3,))


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "tokens"])
def test_tables_round_trip_through_json(name: str) -> None:
    model = model_of(name)
    table = model.costs
    back = CostTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert list(back.sites.items()) == list(table.sites.items())
    assert back.num_units == model.graph.num_units
    assert back.needed == [units.tolist() for _, units in model.graph.needed]
    for seed in range(5):
        kept = decision_of(model, seed).kept
        for what in ("macs", "params"):
            assert back.total(what, kept) == table.total(what, kept)
    for what in ("macs", "params"):
        for a, b in zip(back.terms[what][1], table.terms[what][1], strict=True):
            assert np.array_equal(a.rows, b.rows)
            assert np.array_equal(a.columns, b.columns)


def test_the_keep_vector_numbers_units_over_sites() -> None:
    table = model_of("lenet5").costs
    keep = table.keep_vector({"conv2": torch.tensor([0, 49])})
    assert keep.nonzero()[0].tolist() == [*range(20), 20, 69, *range(70, 570)]


def test_by_hand() -> None:
    # 3 of 20 and 7 of 50 channels and 11 of 500 units of LeNet-5 on 17x17 images: 13^2 and 2^2
    # output pixels, and one pixel is left for the linear layers.
    table = model_of("lenet5").costs
    kept = {"conv1": torch.arange(3), "conv2": torch.arange(7), "fc1": torch.arange(11)}
    assert table.total("macs", kept) == 3 * 169 * 25 + 7 * 3 * 25 * 4 + 7 * 11 + 11 * 7
    assert table.total("params", kept) == (3 * 26) + (7 * 76) + (11 * 8) + (7 * 12)
