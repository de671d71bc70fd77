"""Transposed convolutions: their outputs lie along the second axis of the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dirprune.model.decision import Decision
from dirprune.model.surgery import mask, prune
from dirprune.model.switched import SwitchedNetwork

from .networks import IMAGES, Case, Net, check_beside, conv, reasons


def up(*, groups: int = 1, out: int = 4, bias: bool = True, **options: Any) -> nn.Module:
    return Net(
        lambda s, x: s.b(F.gelu(s.t(F.relu(s.a(x))))),
        a=conv(3, 6), b=conv(out, 2),
        t=nn.ConvTranspose2d(6, out, 2, groups=groups, bias=bias, **options),
    )  # fmt: skip


def line() -> nn.Module:
    return Net(
        lambda s, x: s.b(s.t(s.a(x))),
        a=nn.Conv1d(3, 6, 3), t=nn.ConvTranspose1d(6, 4, 3), b=nn.Conv1d(4, 2, 3),
    )  # fmt: skip


def volume() -> nn.Module:
    return Net(
        lambda s, x: s.b(s.t(s.a(x))),
        a=nn.Conv3d(3, 6, 2), t=nn.ConvTranspose3d(6, 4, 2), b=nn.Conv3d(4, 2, 2),
    )  # fmt: skip


def skip() -> nn.Module:
    """A small U-Net: down, up, and what was there before beside it."""
    return Net(
        lambda s, x: (
            lambda h: s.b(torch.cat([h, F.relu(s.t(F.relu(s.d(h))))], 1))
        )(F.relu(s.a(x))),
        a=conv(3, 6), d=nn.Conv2d(6, 8, 2, 2), t=nn.ConvTranspose2d(8, 4, 2, 2), b=conv(10, 2),
    )  # fmt: skip


def repeated() -> nn.Module:
    return Net(
        lambda s, x: s.b(F.relu(s.t(F.relu(s.t(s.a(x)))))),
        a=conv(3, 6), t=nn.ConvTranspose2d(6, 6, 3, padding=1), b=conv(6, 2),
    )  # fmt: skip


THROUGH = {"a": (6, ("a",), ("t",)), "t": (4, ("t",), ("b",))}
CASES = {
    "2d": Case(lambda: up(stride=2, bias=False), (IMAGES,), THROUGH),
    "1d": Case(line, (torch.randn(3, 3, 9).double(),), THROUGH),
    "3d": Case(volume, (torch.randn(2, 3, 4, 4, 4).double(),), THROUGH),
    "depthwise": Case(lambda: up(groups=6, out=6), (IMAGES,), {"a": (6, ("a", "t"), ("b",))}),
    "depthwise, two outputs each, no bias": Case(
        lambda: up(groups=6, out=12, bias=False), (IMAGES,), {"a": (6, ("a", "t"), ("b",))}
    ),
    "groups": Case(lambda: up(groups=2), (IMAGES,), {"a": (2, ("a", "t"), ("b",))}),
    "a U-Net": Case(
        skip, (IMAGES,),
        {"a": (6, ("a",), ("d", "b")), "d": (8, ("d",), ("t",)), "t": (4, ("t",), ("b",))},
    ),
    "used twice": Case(repeated, (IMAGES,), {"a": (6, ("a", "t"), ("t", "b"))}),
}  # fmt: skip


def test_transposed_convolutions_are_pruned_exactly() -> None:
    check_beside(CASES)


def test_sizes_and_weights_follow() -> None:
    network: Any = up(groups=2)
    model = SwitchedNetwork(network, IMAGES.float(), num_data=10)
    pruned: Any = prune(model, Decision({"a": torch.tensor([1])}))
    assert (pruned.t.groups, pruned.t.in_channels, pruned.t.out_channels) == (1, 3, 2)
    # The second group: inputs 3 to 5, outputs 2 and 3.
    assert torch.equal(pruned.t.weight, network.t.weight[3:])
    assert torch.equal(pruned.t.bias, network.t.bias[2:])


def test_the_mask_zeroes_rows() -> None:
    """The inputs of a transposed convolution lie along the first axis of its weight."""
    model = SwitchedNetwork(up(), IMAGES.float(), num_data=10)
    kept = {"a": torch.tensor([0, 2]), "t": torch.arange(4)}
    weight = mask(model, Decision(kept)).get_parameter("t.weight")
    assert weight.abs().sum((1, 2, 3)).nonzero()[:, 0].tolist() == [0, 2]


def test_groups_of_the_input_are_left_alone() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(3, 6, 2, groups=3), conv(6, 2))
    assert reasons(network, IMAGES.float())["0"] == (
        "the input of the grouped convolution 0 is fixed"
    )
