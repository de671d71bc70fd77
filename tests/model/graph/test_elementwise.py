"""Element-wise operations, gates, statistics over pixels: units pass, or are coupled, or stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .networks import IMAGES, PLAIN, ROWS, Case, Net, check_beside, check_case, conv, reasons_beside

Function = Callable[[Tensor], Tensor]


def after(function: Function, outputs: int = 6) -> nn.Module:
    return Net(lambda s, x: s.b(function(s.a(x))), a=nn.Linear(5, 6), b=nn.Linear(outputs, 2))


# A sample of what torch tags as pointwise, what it does not tag, and what is made of several; many
# of them with f(0) != 0, so that a removed unit that went on to be read would show.
POINTWISE: dict[str, Function] = {
    "atan": torch.atan,
    "cosh": torch.cosh,
    "digamma": lambda x: torch.digamma(x.abs() + 1),
    "erfc": torch.erfc,
    "erfinv": lambda x: torch.erfinv(x.tanh()),
    "expm1": torch.expm1,
    "floor": torch.floor,
    "heaviside": lambda x: torch.heaviside(x, torch.ones((), dtype=x.dtype)),
    "lerp": lambda x: torch.lerp(x, x.cos(), 0.3),
    "logaddexp": lambda x: torch.logaddexp(x, -x),
    "logit": lambda x: torch.logit(x.sigmoid() * 0.8 + 0.1),
    "nan_to_num": torch.nan_to_num,
    "round": torch.round,
    "sinc": torch.sinc,
    "special": lambda x: torch.special.bessel_j0(x),
    "trunc": torch.trunc,
    "xlogy": lambda x: torch.xlogy(x, x.abs() + 1),
    "addcmul": lambda x: torch.addcmul(x, x.cos(), x.sin(), value=0.5),
    "max of two": lambda x: torch.max(x, x.cos()),
    "where": lambda x: torch.where(x > 0, x, 0.5),
    "masked_fill": lambda x: x.masked_fill(x > 0, 2.0),
    "bool arithmetic": lambda x: x * ((x > 0) & ~(x > 1)),
    "float and back": lambda x: x.float().double(),
    "ones_like": lambda x: x + torch.ones_like(x),
    "zeros and full": lambda x: torch.maximum(x, torch.zeros_like(x)) + torch.full_like(x, 2.0),
    "integers": lambda x: x * x.int(),
    "rrelu": F.rrelu,
    "celu in place": lambda x: F.celu_(x + 1),
    "a constant made in forward": lambda x: x * torch.tensor(2.0, dtype=x.dtype) + torch.pi,
    "dropout": lambda x: F.dropout(x, training=False),
    "log sigmoid": F.logsigmoid,
    "absolute, negative, multiply": lambda x: torch.multiply(torch.absolute(x), torch.negative(x)),
    "float power": lambda x: torch.float_power(x, 2),
    "floor divide": lambda x: x // 0.3,
}


def all_of_them(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.b(torch.cat([function(h).to(h.dtype) for function in POINTWISE.values()], 1))


def test_pointwise_functions_pass_units() -> None:
    """In one network, which is traced once; the reason would name the operation at fault."""
    found = check_case(
        Case(
            lambda: Net(all_of_them, a=nn.Linear(5, 6), b=nn.Linear(6 * len(POINTWISE), 2)),
            (ROWS,),
            PLAIN,
        )
    )
    assert found.unprunable == {"b": "it is the network's output"}


class Scales(nn.Module):
    """A scale for each channel, which code has to shape first."""

    def __init__(self, shape: Function) -> None:
        super().__init__()
        self.a, self.b = conv(3, 6), conv(6, 2)
        self.scale, self.shape = nn.Parameter(torch.rand(6)), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)) * self.shape(self.scale))


def squeezed(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.b(h * F.hardsigmoid(s.u(F.silu(s.d(F.adaptive_avg_pool2d(h, 1))))))


CASES = {
    "GLU": Case(lambda: after(lambda x: F.glu(x), 3), (ROWS,), {"a": (3, ("a",), ("b",))}),
    "GLU of channels": Case(
        lambda: Net(lambda s, x: s.b(F.glu(s.a(x), 1)), a=conv(3, 8), b=conv(4, 2)),
        (IMAGES,), {"a": (4, ("a",), ("b",))},
    ),
    "GLU of pixels": Case(
        lambda: Net(lambda s, x: s.b(F.glu(s.a(x), 3)), a=conv(3, 6), b=conv(6, 2)),
        (IMAGES,), PLAIN,
    ),
    "SwiGLU": Case(
        lambda: Net(
            lambda s, x: s.b(F.silu(s.a(x)) * s.c(x)),
            a=nn.Linear(5, 6), c=nn.Linear(5, 6), b=nn.Linear(6, 2),
        ),
        (ROWS,), {"a": (6, ("a", "c"), ("b",))},
    ),
    "a squeeze": Case(
        lambda: Net(squeezed, a=conv(3, 6), d=conv(6, 3, 1), u=conv(3, 6, 1), b=conv(6, 2)),
        (IMAGES,), {"a": (6, ("a", "u"), ("d", "b")), "d": (3, ("d",), ("u",))},
    ),
    "scales, viewed": Case(lambda: Scales(lambda w: w.view(1, -1, 1, 1)), (IMAGES,), PLAIN),
    "scales, indexed": Case(lambda: Scales(lambda w: w[:, None, None]), (IMAGES,), PLAIN),
    "statistics over pixels": Case(
        lambda: Net(
            lambda s, x: s.b(torch.cat([
                (h := s.a(x)).std((2, 3)), h.amax((2, 3)), h.max(3)[0].min(2).values,
                h.flatten(2).norm(dim=2), h.logsumexp((2, 3)), h.prod(3).median(2).values,
                torch.var_mean(h, (2, 3))[0], h.argmax(3).sum(2).to(h.dtype),
                (h > 0).any(3).all(2).to(h.dtype),
            ], 1)),
            a=conv(3, 6), b=nn.Linear(54, 2),
        ),
        (IMAGES,), PLAIN,
    ),
    "normalised over pixels": Case(
        lambda: Net(lambda s, x: s.b(F.normalize(s.a(x), dim=2)), a=conv(3, 6), b=conv(6, 2)),
        (IMAGES,), PLAIN,
    ),
    "softmax over pixels": Case(
        lambda: Net(lambda s, x: s.b(s.a(x).softmax(3)), a=conv(3, 6), b=conv(6, 2)),
        (IMAGES,), PLAIN,
    ),
    "adaptive and maximal pooling": Case(
        lambda: Net(
            lambda s, x: s.b(F.adaptive_max_pool2d(F.lp_pool2d(s.a(x), 2.0, 2), 1).flatten(1)),
            a=conv(3, 6), b=nn.Linear(6, 2),
        ),
        (IMAGES,), PLAIN,
    ),
    "sampled at places that are computed": Case(
        lambda: Net(
            lambda s, x: s.b(
                F.grid_sample(s.a(x), x.permute(0, 2, 3, 1)[..., :2].tanh(), align_corners=False)
            ),
            a=conv(3, 6), b=conv(6, 2),
        ),
        (IMAGES,), PLAIN,
    ),
    "a constant of another tensor's precision": Case(
        lambda: Net(
            lambda s, x: s.b((h := s.a(x)) + h.new_ones(1, 1, 6, 6)), a=conv(3, 6), b=conv(6, 2)
        ),
        (IMAGES,), PLAIN,
    ),
    "padding modes": Case(
        lambda: Net(
            lambda s, x: s.b(s.c(F.relu(s.a(x)))),
            a=conv(3, 6, padding_mode="circular"), c=conv(6, 4, padding_mode="reflect"),
            b=conv(4, 2, padding_mode="replicate"),
        ),
        (IMAGES,), {"a": (6, ("a",), ("c",)), "c": (4, ("c",), ("b",))},
    ),
}  # fmt: skip


def test_gates_and_statistics_are_pruned_exactly() -> None:
    check_beside(CASES)


OF_UNITS = "it sums over units"
LEFT_ALONE: dict[str, tuple[nn.Module, Tensor, str]] = {
    "softmax": (after(lambda x: x.softmax(1)), ROWS, "normalised together"),
    "cumulative sum": (after(lambda x: x.cumsum(1)), ROWS, "no rule for the operation 'cumsum'"),
    "sort": (after(lambda x: x.sort(1).values), ROWS, "no rule for the operation 'sort'"),
    "top k": (after(lambda x: x.topk(3, 1).values, 3), ROWS, "no rule for the operation 'topk'"),
    "max": (after(lambda x: x.max(1, keepdim=True).values, 1), ROWS, OF_UNITS),
    "max of all": (after(lambda x: x * x.max()), ROWS, OF_UNITS),
    "normalised": (after(F.normalize), ROWS, OF_UNITS),
    "standardised": (
        after(lambda x: (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)), ROWS, OF_UNITS,
    ),
    "dropout that stays on": (
        after(lambda x: F.dropout(x)), ROWS, "it draws random numbers even when the network is in",
    ),
    "a shortcut filled with zeros": (
        Net(
            lambda s, x: s.b(
                torch.cat([(h := s.a(x)), h.new_zeros(h.shape[0], 3, 6, 6)], 1) + s.c(h)
            ),
            a=conv(3, 6), c=conv(6, 9), b=conv(9, 2),
        ),
        IMAGES, "it is added to values that no layer produces",
    ),
    "a row made in forward": (
        after(lambda x: x * torch.arange(6, dtype=x.dtype)), ROWS, "values that no layer produces",
    ),
    "a constant row": (
        after(lambda x: x * torch.tensor([1.0, 2, 3, 4, 5, 6], dtype=x.dtype)),
        ROWS, "values that no layer produces",
    ),
    "two results": (after(lambda x: torch.frexp(x)[0]), ROWS, "it has several results (frexp in"),
    "cosine": (
        after(lambda x: F.cosine_similarity(x, x.cos(), 1)[:, None], 1),
        ROWS, "no rule for the operation 'cosine_similarity'",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    return reasons_beside(LEFT_ALONE)


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_mixes_units_freezes_them(case: str, found: dict[str, str]) -> None:
    assert LEFT_ALONE[case][2] in found[case]
