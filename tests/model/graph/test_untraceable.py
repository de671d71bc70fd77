"""Networks that cannot be traced: the error names the line of their code, and a way round."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.errors import DirpruneError
from dirprune.model.graph import build_channel_graph

from .networks import Net


def branches(s: nn.Module, x: Tensor) -> Tensor:
    h = s.a(x)
    if h.sum() > 0:  # the line
        h = 2 * h
    return s.b(h)


def makes_a_number(s: nn.Module, x: Tensor) -> Tensor:
    h = s.a(x)
    first = int(h.argmax()) % 2  # the line
    return s.b(h)[:, first:]


def fixes_the_batch(s: nn.Module, x: Tensor) -> Tensor:
    h = s.a(x)
    h = h.view(2, 3, 2)  # the line
    return s.b(h.flatten(1))


def one_by_one(s: nn.Module, x: Tensor) -> Tensor:
    rows = []
    for row in x:  # the line
        rows.append(s.b(s.a(row)))
    return torch.stack(rows)


def asks_for_the_batch(s: nn.Module, x: Tensor) -> Tensor:
    if len(x) > 2:  # the line
        x = 2 * x
    return s.b(s.a(x))


def leaves_torch(s: nn.Module, x: Tensor) -> Tensor:
    h = s.a(x).detach()
    h = torch.from_numpy(h.numpy())  # the line
    return s.b(h)


def fails(s: nn.Module, x: Tensor) -> Tensor:
    return s.b(s.a(x).view(-1, 7))  # the line


VALUES = "branches on the values of a tensor, or makes a number of them"
BATCH = "its forward works for one batch size only"
CASES: dict[str, tuple[Callable[..., Tensor], str, str]] = {
    "a branch": (branches, VALUES, "torch.where"),
    "a number": (makes_a_number, VALUES, "torch.library.custom_op"),
    "a batch in a view": (fixes_the_batch, BATCH, "-1 in a view"),
    "example by example": (one_by_one, BATCH, "do not go through the examples one by one"),
    "a branch on the batch": (asks_for_the_batch, BATCH, "x.shape[0]"),
    "numpy": (leaves_torch, "numpy", "dirprune.register_rule"),
    "wrong from the start": (fails, "fails on the example inputs", "as the network takes them"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_error_names_the_line_and_the_way_round(
    case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    forward, what, way = CASES[case]
    network = Net(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 2))
    with pytest.raises(DirpruneError) as caught:
        build_channel_graph(network, (torch.randn(2, 5),))
    message = str(caught.value)
    lines, start = inspect.getsourcelines(forward)
    (line,) = [i for i, text in enumerate(lines) if "# the line" in text]
    assert f"{__file__}:{start + line} in {forward.__name__} (" in message
    assert re.match("Net (cannot be traced by torch.export|fails on)", message)
    assert what in message
    assert way in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_the_line_may_lie_in_a_module_inside() -> None:
    network = nn.Sequential(nn.Linear(5, 5), Net(branches, a=nn.Linear(5, 6), b=nn.Linear(6, 2)))
    with pytest.raises(DirpruneError, match=r"test_untraceable.py:\d+ in branches \(if h.sum"):
        build_channel_graph(network, (torch.randn(2, 5),))


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("a handle of the outer world")


def test_a_network_that_cannot_be_copied() -> None:
    network = nn.Sequential(Uncopyable(5, 6), nn.Linear(6, 2))
    with pytest.raises(DirpruneError, match=r"cannot be copied .*a handle of the outer world"):
        build_channel_graph(network, (torch.randn(2, 5),))


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_modules_have_to_be_run_first() -> None:
    network = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(2))
    with pytest.raises(DirpruneError, match=r"run it once on example inputs, network\(inputs\)"):
        build_channel_graph(network, (torch.randn(2, 5),))
    network(torch.randn(2, 5))
    assert list(build_channel_graph(network, (torch.randn(2, 5),)).sites) == ["0"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:FutureWarning")
def test_a_compiled_script_is_refused() -> None:
    script = torch.jit.trace(nn.Linear(5, 2), torch.randn(2, 5))
    with pytest.raises(DirpruneError, match="Give a plain module of Python code"):
        build_channel_graph(script, (torch.randn(2, 5),))


def test_what_a_forward_prints_is_not_hidden_and_nothing_else_is_said(
    capfd: pytest.CaptureFixture[str],
) -> None:
    network = Net(lambda s, x: s.b(F.relu(s.a(x))), a=nn.Linear(5, 6), b=nn.Linear(6, 2))
    build_channel_graph(network, (torch.randn(2, 5),))
    assert capfd.readouterr() == ("", "")
