"""Networks as users write them: several inputs and outputs, keywords, functions, precisions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.decision import Decision
from dirprune.model.surgery import mask, prune
from dirprune.model.switched import SwitchedNetwork

from .networks import (
    IMAGES,
    PLAIN,
    ROWS,
    TOKENS,
    Case,
    Net,
    assert_close,
    check_case,
    conv,
    decide,
    gains_of,
)

OTHER = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
LINE = torch.randn(3, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
VOLUME = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(8))


class Functional(nn.Module):
    """Weights of its own, used by functions, in two convolutions and a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.v = nn.ParameterList([torch.randn(4, 6, 3, 3), torch.randn(4)])
        self.last = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.conv2d(x, self.w, padding=1))
        x = F.relu(F.conv2d(x, self.v[0], self.v[1]))
        return F.linear(x.mean((2, 3)), self.last)


class Keywords(nn.Module):
    """Two tensors and a flag, by keyword alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Linear(5, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor, *, other: Tensor | None = None, twice: bool = False) -> Tensor:
        h = self.a(x)
        if other is not None:
            h = h + self.c(other)
        return self.b(F.relu(h)) * (2 if twice else 1)


class Depth(nn.Module):
    """Stochastic depth: in train mode a block is skipped at random."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        if not self.training or float(torch.rand(())) < 0.5:
            h = h + self.c(h) * 0.5
        return self.b(F.dropout(h, 0.2, self.training))


def tied() -> nn.Module:
    net: Any = Net(
        lambda s, x: s.b(F.gelu(s.d(F.gelu(s.c(s.a(x)))))),
        a=nn.Linear(5, 6), c=nn.Linear(6, 6), d=nn.Linear(6, 6), b=nn.Linear(6, 2),
    )  # fmt: skip
    net.d.weight = net.c.weight
    return net


def by_name(s: Any, inputs: dict[str, Tensor]) -> Tensor:
    return s.b(torch.cat([s.a(inputs["x"]), s.c(inputs["y"])], 1))


CASES = {
    "several inputs": Case(
        lambda: Net(
            lambda s, x, y: s.b(F.relu(torch.cat([s.a(x), s.c(y)], 1))),
            a=nn.Linear(5, 6), c=nn.Linear(4, 3), b=nn.Linear(9, 2),
        ),
        (ROWS, OTHER), {"a": PLAIN["a"], "c": (3, ("c",), ("b",))},
    ),
    "an image and tokens": Case(
        lambda: Net(
            lambda s, x, y: s.b(F.relu(s.a(x)).mean((2, 3)) * s.e(y).mean(1)),
            a=conv(3, 6), e=nn.Embedding(10, 6), b=nn.Linear(6, 2),
        ),
        (IMAGES, TOKENS), {"a": (6, ("a", "e"), ("b",))},
    ),
    "a mapping of inputs": Case(
        lambda: Net(by_name, a=nn.Linear(5, 6), c=nn.Linear(4, 3), b=nn.Linear(9, 2)),
        ({"x": ROWS, "y": OTHER},), {"a": PLAIN["a"], "c": (3, ("c",), ("b",))},
    ),
    "a keyword": Case(
        Keywords, (ROWS,), {"a": (6, ("a", "c"), ("b",))}, {"other": OTHER, "twice": True},
    ),
    "a flag": Case(Keywords, (ROWS,), PLAIN, {"twice": True}),
    "several outputs": Case(
        lambda: Net(
            lambda s, x: ((h := F.relu(s.a(x))), s.b(h), s.c(h))[1:],
            a=nn.Linear(5, 6), b=nn.Linear(6, 2), c=nn.Linear(6, 3),
        ),
        (ROWS,), {"a": (6, ("a",), ("b", "c"))}, output=lambda out: out[0],
    ),
    "a mapping of outputs": Case(
        lambda: Net(
            lambda s, x: {"logits": s.b(F.relu(s.a(x))), "name": "x"},
            a=nn.Linear(5, 6), b=nn.Linear(6, 2),
        ),
        (ROWS,), PLAIN, output=lambda out: out["logits"],
    ),
    "functions": Case(
        Functional, (IMAGES,),
        {"w": (6, ("w",), ("v",)), "v": (4, ("v",), ("last",))},
    ),
    "one weight for two layers": Case(tied, (ROWS,), {"a": (6, ("a", "c"), ("c", "b"))}),
    "a layer used twice": Case(
        lambda: Net(
            lambda s, x: s.b(F.relu(s.c(F.relu(s.c(s.a(x)))))),
            a=nn.Linear(5, 6), c=nn.Linear(6, 6), b=nn.Linear(6, 2),
        ),
        (ROWS,), {"a": (6, ("a", "c"), ("c", "b"))},
    ),
    "a layer of two inputs of other sizes": Case(
        lambda: Net(
            lambda s, x: s.b(s.c(s.a(x)).mean((2, 3)) + s.c(s.a(x[:, :, :4])).amax((2, 3))),
            a=conv(3, 6), c=conv(6, 4), b=nn.Linear(4, 2),
        ),
        (IMAGES,), {"a": (6, ("a",), ("c",)), "c": (4, ("c",), ("b",))},
    ),
    "stochastic depth": Case(Depth, (ROWS,), {"a": (6, ("a", "c"), ("c", "b"))}),
    "a line": Case(
        lambda: nn.Sequential(
            nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 4, 2),
            nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2),
        ),
        (LINE,), {"0": (6, ("0",), ("4",)), "4": (4, ("4",), ("7",))},
    ),
    "a volume": Case(
        lambda: nn.Sequential(
            nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2),
            nn.Conv3d(6, 4, 2), nn.Flatten(), nn.Linear(4, 2),
        ),
        (VOLUME,), {"0": (6, ("0",), ("4",)), "4": (4, ("4",), ("6",))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_users_networks_are_pruned_exactly(case: str) -> None:
    check_case(CASES[case])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_pruned_in_half_precision(dtype: torch.dtype) -> None:
    network = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.ReLU(), nn.Flatten(),
        nn.Linear(216, 4),
    ).to(dtype).eval()  # fmt: skip
    images = IMAGES.to(dtype)
    model = SwitchedNetwork(network, images, num_data=10)
    assert {name: site.size for name, site in model.sites.items()} == {"0": 8, "3": 6}
    decision = decide(model, torch.Generator().manual_seed(0))
    pruned, masked = prune(model, decision), mask(model, decision)
    assert {p.dtype for p in pruned.parameters()} == {dtype}
    with torch.no_grad():
        got, want = pruned(images), masked(images)
        gained = model.outputs_at_gains(images, gains_of(model, decision))
        assert got.dtype == want.dtype == gained.dtype == dtype
        # In half precision the order of a sum shows: some rounding errors of 2^-8 or 2^-11.
        tolerance = 16 * torch.finfo(dtype).eps * float(want.abs().max())
        assert float((got - want).abs().max()) <= tolerance
        assert float((gained - want).abs().max()) <= tolerance
        # The same weights in float64: one function.
        exact = [net.double()(images.double()) for net in (pruned, masked)]
    assert_close(*exact)


def test_a_mixed_network_keeps_its_precisions() -> None:
    network = Net(
        lambda s, x: s.b(F.relu(s.a(x)).to(torch.float32)),
        a=nn.Linear(5, 6).bfloat16(), b=nn.Linear(6, 2),
    )  # fmt: skip
    model = SwitchedNetwork(network, ROWS.bfloat16(), num_data=10)
    pruned: Any = prune(model, Decision({"a": torch.tensor([1, 4])}))
    assert pruned.a.weight.dtype == torch.bfloat16
    assert pruned.b.weight.dtype == torch.float32
    assert torch.equal(pruned.b.weight, network.b.weight[:, [1, 4]])
    assert pruned(ROWS.bfloat16()).dtype == torch.float32
