"""Norms: whole groups are units, channels by themselves pass, layer norm freezes its stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.decision import Decision
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

from .networks import (
    IMAGES,
    ROWS,
    Case,
    Net,
    check_beside,
    check_case,
    conv,
    reasons,
    reasons_beside,
    spread,
)

LINE = torch.randn(3, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
VOLUME = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def between(norm: nn.Module, width: int = 8) -> nn.Module:
    return Net(
        lambda s, x: s.b(F.hardswish(s.n(s.a(x)))), a=conv(3, width), n=norm, b=conv(width, 2)
    )


def flat(norm: nn.Module) -> nn.Module:
    return Net(lambda s, x: s.b(s.n(s.a(x))), a=nn.Linear(5, 6), n=norm, b=nn.Linear(6, 2))


def a(units: int) -> dict[str, Any]:
    return {"a": (units, ("a",), ("b",))}


def stream() -> nn.Module:
    """A stream that two convolutions write, normalised in groups of four."""
    return Net(
        lambda s, x: s.b((lambda h: h + s.c(F.relu(s.n(h))))(s.a(x))),
        a=conv(3, 12), c=conv(12, 12), n=nn.GroupNorm(3, 12), b=conv(12, 2),
    )  # fmt: skip


def both_groups() -> nn.Module:
    """Groups of 4 and groups of 6 of the same 12 channels: all of them are one or two units."""
    return Net(
        lambda s, x: s.b(s.m(s.n(s.a(x)))),
        a=conv(3, 24), n=nn.GroupNorm(6, 24), m=nn.GroupNorm(4, 24), b=conv(24, 2),
    )  # fmt: skip


def twice(norm: nn.Module) -> nn.Module:
    """One norm for the outputs of two layers, which must then shrink alike."""
    return Net(
        lambda s, x: s.b(F.relu(s.n(s.c(F.relu(s.n(s.a(x))))))),
        a=conv(3, 6), c=conv(6, 6), n=norm, b=conv(6, 2),
    )  # fmt: skip


CASES = {
    "group norm": Case(lambda: between(nn.GroupNorm(4, 8)), (IMAGES,), a(4)),
    "group norm without scales": Case(
        lambda: between(nn.GroupNorm(4, 8, affine=False)), (IMAGES,), a(4)
    ),
    "a group for each channel": Case(lambda: between(nn.GroupNorm(8, 8)), (IMAGES,), a(8)),
    "group norm of a stream": Case(stream, (IMAGES,), {"a": (3, ("a", "c"), ("c", "b"))}),
    "two group norms that overlap": Case(both_groups, (IMAGES,), a(2)),
    "group norm after a linear layer": Case(
        lambda: flat(nn.GroupNorm(3, 6)), (ROWS,), a(3)
    ),
    "instance norm": Case(lambda: between(nn.InstanceNorm2d(8)), (IMAGES,), a(8)),
    "instance norm with scales": Case(
        lambda: between(nn.InstanceNorm2d(8, affine=True)), (IMAGES,), a(8)
    ),
    "instance norm with statistics": Case(
        lambda: between(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        (IMAGES,), a(8),
    ),
    "instance norm with statistics alone": Case(
        lambda: between(nn.InstanceNorm2d(8, track_running_stats=True)), (IMAGES,), a(8)
    ),
    "one instance norm for two layers": Case(
        lambda: twice(nn.InstanceNorm2d(6)), (IMAGES,), {"a": (6, ("a", "c"), ("c", "b"))}
    ),
    "one group norm for two layers": Case(
        lambda: twice(nn.GroupNorm(3, 6, affine=False)),
        (IMAGES,), {"a": (3, ("a", "c"), ("c", "b"))},
    ),
    "instance norm 1d": Case(
        lambda: Net(
            lambda s, x: s.b(s.n(s.a(x))),
            a=nn.Conv1d(3, 6, 3), n=nn.InstanceNorm1d(6, affine=True), b=nn.Conv1d(6, 2, 3),
        ),
        (LINE,), a(6),
    ),
    "instance norm 3d": Case(
        lambda: Net(
            lambda s, x: s.b(s.n(s.a(x))),
            a=nn.Conv3d(3, 6, 2), n=nn.InstanceNorm3d(6), b=nn.Conv3d(6, 2, 2),
        ),
        (VOLUME,), a(6),
    ),
    "batch norm of [B, C]": Case(lambda: flat(nn.BatchNorm1d(6)), (ROWS,), a(6)),
    "batch norm of [B, C, L]": Case(
        lambda: Net(
            lambda s, x: s.b(s.n(s.a(x))),
            a=nn.Conv1d(3, 6, 3), n=nn.BatchNorm1d(6), b=nn.Conv1d(6, 2, 3),
        ),
        (LINE,), a(6),
    ),
    "batch norm with the statistics of the batch": Case(
        lambda: between(nn.BatchNorm2d(8, track_running_stats=False)), (IMAGES,), a(8)
    ),
    "layer norm over pixels": Case(lambda: between(nn.LayerNorm([6, 6])), (IMAGES,), a(8)),
    "layer norm at the start of the network": Case(
        lambda: Net(
            lambda s, x: s.b(F.gelu(s.a(s.n(x)))),
            n=nn.LayerNorm(5), a=nn.Linear(5, 6), b=nn.Linear(6, 2),
        ),
        (ROWS,), a(6),
    ),
    "RMS norm over pixels": Case(lambda: between(nn.RMSNorm([6, 6])), (IMAGES,), a(8)),
}  # fmt: skip


def test_units_of_norms_are_pruned_exactly() -> None:
    check_beside(CASES)


def test_sizes_of_norms_follow() -> None:
    network: Any = nn.Sequential(
        conv(3, 8), nn.GroupNorm(4, 8), conv(8, 6), nn.InstanceNorm2d(6), conv(6, 6),
        nn.GroupNorm(2, 6, affine=False), conv(6, 2),
    )  # fmt: skip
    model = SwitchedNetwork(network, IMAGES.float(), num_data=10)
    kept = {"0": [0, 3], "2": [1, 2, 4], "4": [1]}
    pruned: Any = prune(model, Decision({k: torch.tensor(v) for k, v in kept.items()}))
    assert (pruned[1].num_groups, pruned[1].num_channels) == (2, 4)
    assert torch.equal(pruned[1].weight, network[1].weight[[0, 1, 6, 7]])
    assert pruned[3].num_features == 3
    assert (pruned[5].num_groups, pruned[5].num_channels) == (1, 3)
    assert (network[1].num_groups, network[3].num_features, network[5].num_groups) == (4, 6, 2)


class ByHand(nn.Module):
    """Groups as a number in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 8), conv(8, 2)
        self.weight, self.bias = nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.group_norm(self.a(x), 4, self.weight, self.bias))


STATISTICS = "takes its statistics over these units, so that removing one changes all others"
LEFT_ALONE: dict[str, tuple[nn.Module, Tensor, str]] = {
    "layer norm": (flat(nn.LayerNorm(6)), ROWS, f"layer norm 'n' {STATISTICS}"),
    "RMS norm": (flat(nn.RMSNorm(6)), ROWS, f"RMS norm 'n' {STATISTICS}"),
    "one group": (between(nn.GroupNorm(1, 8)), IMAGES, f"group norm 'n' {STATISTICS}"),
    "local response norm": (between(nn.LocalResponseNorm(2)), IMAGES, "it pools over units"),
    "groups as a number in the code": (
        ByHand(), IMAGES, "num_groups is a number written in the code of ByHand",
    ),
    "a group with channels of the input": (
        Net(
            lambda s, x: s.b(s.n(torch.cat([x, s.a(x)], 1))),
            a=conv(3, 5), n=nn.GroupNorm(4, 8), b=conv(8, 2),
        ),
        IMAGES, "its group of a group norm has channels that no layer produces",
    ),
    "an instance norm that also takes the input": (
        Net(
            lambda s, x: s.b(s.n(s.a(s.n(x)))),
            a=conv(3, 3), n=nn.InstanceNorm2d(3), b=conv(3, 2),
        ),
        IMAGES, "added to values that no layer produces",
    ),
    "statistics by hand": (
        Net(
            lambda s, x: s.b((lambda h: h / h.std(1, keepdim=True))(s.a(x))),
            a=conv(3, 6), b=conv(6, 2),
        ),
        IMAGES, "it sums over units (std in",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return reasons_beside(LEFT_ALONE)


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_norms_over_units_freeze_them(case: str, found: dict[str, str]) -> None:
    assert LEFT_ALONE[case][2] in found[case]


def test_a_function_is_named_by_its_place() -> None:
    network = Net(
        lambda s, x: s.b(F.layer_norm(s.a(x), (6,))), a=nn.Linear(5, 6), b=nn.Linear(6, 2)
    )
    reason = f"layer norm in the network's own forward {STATISTICS}"
    assert reasons(spread(network), ROWS)["a"] == reason


def test_what_is_added_to_a_norm_is_left_alone_for_its_reason() -> None:
    """A block whose norm comes last: its output is the next block's stream."""
    network = Net(
        lambda s, x: s.b((lambda h: h + s.c(F.relu(h)))(s.n(s.a(x)))),
        a=nn.Linear(5, 6), n=nn.LayerNorm(6), c=nn.Linear(6, 6), b=nn.Linear(6, 2),
    )  # fmt: skip
    found = reasons(spread(network), ROWS)
    assert found["a"] == found["c"] == f"layer norm 'n' {STATISTICS}"


def test_a_transformer_block_keeps_its_stream_and_offers_its_mlp() -> None:
    network = nn.Sequential(
        nn.Linear(5, 8),
        Net(
            lambda s, x: x + s.two(F.gelu(s.one(s.norm(x)))),
            norm=nn.LayerNorm(8), one=nn.Linear(8, 16), two=nn.Linear(16, 8),
        ),
        nn.Linear(8, 2),
    )  # fmt: skip
    case = Case(lambda: network, (ROWS,), {"1.one": (16, ("1.one",), ("1.two",))})
    model = check_case(case)
    reason = f"layer norm '1.norm' {STATISTICS}"
    assert model.unprunable["0"] == model.unprunable["1.two"] == reason
