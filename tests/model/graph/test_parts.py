"""Axes of units that are taken apart: places that lie alike go together, the rest is left alone."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.graph import Labels, build_channel_graph
from dirprune.model.graph.rules.parts import reshape_labels
from dirprune.model.surgery import find_failures

from .networks import IMAGES, Case, Net, check_case, conv, reasons


def between(change: Callable[[Tensor], Tensor], width: int, out: int) -> nn.Module:
    """A convolution to ``width`` channels, what is tried, and a convolution of ``out``."""
    return Net(lambda s, x: s.b(change(s.a(x))), a=conv(3, width), b=conv(out, 2))


def shuffle(x: Tensor, groups: int) -> Tensor:
    batch, width, *size = x.shape
    x = x.view(batch, groups, width // groups, *size)
    return x.transpose(1, 2).reshape(batch, width, *size)


def shuffle_places(x: Tensor, places: int) -> Tensor:
    """The same with the number of places written down, and that of the groups computed."""
    batch, width, *size = x.shape
    return x.view(batch, -1, places, *size).transpose(1, 2).reshape(batch, width, *size)


def halves(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return x[:, :half] * x[:, half:]


def partial(x: Tensor) -> Tensor:
    """A quarter of the channels treated apart."""
    quarter = x.shape[1] // 4
    return torch.cat([x[:, :quarter].cos(), x[:, quarter:]], 1)


def attend(x: Tensor) -> Tensor:
    """Queries, keys and values in one layer; a single head."""
    query, key, value = x.flatten(2).transpose(1, 2).chunk(3, -1)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).unflatten(2, (6, 6))


def depth(x: Tensor) -> Tensor:
    """Space to depth by slices of rows and columns."""
    corners = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.cat(corners, 1)


# name -> (operation, channels before and after it, units)
EXACT: dict[str, tuple[Callable[[Tensor], Tensor], int, int, int]] = {
    "a shuffle of two groups": (lambda x: shuffle(x, 2), 8, 8, 4),
    "a shuffle of four groups": (lambda x: shuffle(x, 4), 8, 8, 2),
    "torch's own shuffle": (lambda x: F.channel_shuffle(x, 2), 8, 8, 4),
    "two halves multiplied": (lambda x: torch.mul(*x.chunk(2, 1)), 8, 4, 4),
    "one of two halves": (lambda x: x.chunk(2, 1)[1], 8, 4, 4),
    "four parts in another order": (lambda x: torch.cat(x.chunk(4, 1)[::-1], 1), 8, 8, 2),
    "even sizes that are computed": (
        lambda x: torch.mul(*x.split([x.shape[1] // 2] * 2, 1)), 8, 4, 4,
    ),
    "uneven sizes that are computed": (
        lambda x: torch.cat(x.split([x.shape[1] // 3, x.shape[1] // 3 * 2], 1)[::-1], 1), 9, 9, 3,
    ),
    "halves by slices": (halves, 8, 4, 4),
    "a quarter by slices": (partial, 8, 8, 2),
    "even and odd channels": (lambda x: torch.cat([x[:, 0::2], x[:, 1::2].cos()], 1), 8, 8, 4),
    "every third channel": (lambda x: x[:, 1::3], 9, 3, 3),
    "a slice of all": (lambda x: x[:, :100], 6, 6, 6),
    "a grid, unbound": (lambda x: torch.mul(*x.unflatten(1, (2, -1)).unbind(1)), 6, 3, 3),
    "a grid, entries": (lambda x: x.unflatten(1, (3, -1))[:, 0] * x.unflatten(1, (3, -1))[:, 2],
                        9, 3, 3),
    "a grid, a slice": (lambda x: x.unflatten(1, (3, -1))[:, 1:].flatten(1, 2), 9, 6, 3),
    "flattened and back": (lambda x: x.flatten(1).cos().unflatten(1, (-1, 6, 6)), 6, 6, 6),
    "space to depth": (depth, 6, 24, 6),
    "rows rolled": (lambda x: x.roll((1, 2), (2, 3)), 6, 6, 6),
    "channels flipped": (lambda x: x.flip(1), 6, 6, 6),
    "channels repeated": (lambda x: x.repeat(1, 2, 1, 1), 6, 12, 6),
    "channels repeated one by one": (lambda x: x.repeat_interleave(2, 1), 6, 12, 6),
    "channels tiled": (lambda x: torch.tile(x, (1, 2, 1, 1)), 6, 12, 6),
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), 12, 3, 3),
    "pixel unshuffle": (lambda x: F.pixel_unshuffle(x, 2), 3, 12, 3),
    "patches": (lambda x: F.unfold(x, 3, padding=1).unflatten(2, (6, 6)), 4, 36, 4),
    "patches put together": (lambda x: F.fold(x.flatten(2), (8, 8), 3), 18, 2, 2),
    "windows of rows": (lambda x: x.unfold(2, 3, 1).mean(-1), 6, 6, 6),
}  # fmt: skip


@pytest.mark.parametrize("case", EXACT)
def test_places_that_lie_alike_go_together(case: str) -> None:
    change, width, out, units = EXACT[case]
    site = {"a": (units, ("a",), ("b",))}
    check_case(Case(lambda: between(change, width, out), (IMAGES,), site))


@pytest.mark.parametrize(
    ("case", "units"),
    [
        ("a shuffle of two groups", [0, 1, 2, 3, 0, 1, 2, 3]),
        ("even and odd channels", [0, 0, 1, 1, 2, 2, 3, 3]),
        ("a quarter by slices", [0, 1, 0, 1, 0, 1, 0, 1]),
        ("pixel shuffle", [0] * 4 + [1] * 4 + [2] * 4),
    ],
)
def test_units_are_these_channels(case: str, units: list[int]) -> None:
    change, width, out, _ = EXACT[case]
    graph = build_channel_graph(between(change, width, out).double().eval(), (IMAGES,))
    assert graph.axes["a.weight", 0].tolist() == units


LEFT_ALONE: dict[str, tuple[Callable[[Tensor], Tensor], int, int, str]] = {
    "uneven sizes": (
        lambda x: x.split([3, 5], 1)[1], 8, 5, "apart into 3 and 5, sizes that do not shrink alike",
    ),
    "a slice by numbers": (lambda x: x[:, 2:5], 8, 3, "it takes units 2 to 4 by their number"),
    "every third of eight": (lambda x: x[:, ::3], 8, 3, "units 0 to 8 by their number"),
    "one channel": (lambda x: x[:, 3][:, None], 8, 1, "single units by their number"),
    "all channels, one by one": (
        lambda x: torch.stack(x.unbind(1), 1), 8, 8, "single units by their number",
    ),
    "channels rolled": (lambda x: x.roll(1, 1), 6, 6, "it rolls units by a number"),
    "everything rolled": (lambda x: x.roll(1), 6, 6, "it rolls units by a number"),
    "windows of channels": (lambda x: x.unfold(1, 3, 1).mean(-1), 6, 4, "windows lie along the"),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_units_by_number_are_left_alone(case: str) -> None:
    change, width, out, reason = LEFT_ALONE[case]
    assert reason in reasons(between(change, width, out).double(), IMAGES)["a"]


TRIED: dict[str, tuple[Callable[[Tensor], Tensor], int, int]] = {
    "a number of places": (lambda x: shuffle_places(x, 4), 8, 8),
    "a number of channels in each part": (lambda x: torch.cat(x.split(4, 1)[::-1], 1), 8, 8),
    "the last three": (lambda x: x[:, -3:], 9, 3),
}


@pytest.mark.parametrize("case", TRIED)
def test_numbers_that_the_graph_cannot_tell_from_computed_ones_are_tried(case: str) -> None:
    change, width, out = TRIED[case]
    network = between(change, width, out).double().eval()
    graph = build_channel_graph(network, (IMAGES,))
    assert list(graph.sites) == ["a"]
    assert "it cannot be cut" in find_failures(network, graph, (IMAGES,), {})["a"]


def test_values_of_no_layer_hold_what_lies_at_their_place() -> None:
    """Three of the image's channels and three units: places 0 to 2 are the image's."""
    net = Net(
        lambda s, x: s.b(torch.mul(*torch.cat([x, s.a(x)], 1).chunk(2, 1))),
        a=conv(3, 3), b=conv(3, 2),
    )  # fmt: skip
    assert "values that no layer produces" in reasons(net.double(), IMAGES)["a"]


def test_numbers_are_not_read_as_those_of_another_type() -> None:
    change: Any = lambda x: x.float().view(torch.int32).double()  # noqa: E731
    assert "of another type" in reasons(between(change, 6, 6).double(), IMAGES)["a"]


def test_queries_keys_and_values_lose_the_same_places() -> None:
    net = Net(lambda s, x: s.b(attend(s.a(x))), a=conv(3, 12), b=conv(4, 2)).double()
    graph = build_channel_graph(net.eval(), (IMAGES,))
    first, second, third = graph.axes["a.weight", 0].view(3, 4)
    assert torch.equal(first, second)
    assert torch.equal(first, third)


SHAPES = st.lists(st.sampled_from([1, 1, 2, 2, 3, 3, 4]), min_size=1, max_size=5)


@given(st.data(), SHAPES)
def test_a_reshape_of_labels_is_that_of_all_entries(data: st.DataObject, old: list[int]) -> None:
    """Computed block by block, as if every entry had been moved."""
    new = data.draw(st.permutations(old))
    merge = data.draw(st.integers(0, len(new) - 1))
    new[merge:] = [prod(new[merge:])]
    dims = data.draw(st.sets(st.integers(0, len(old) - 1), min_size=1))
    sizes = [old[dim] for dim in sorted(dims)]
    labels = Labels(tuple(sorted(dims)), torch.randint(-1, 6, sizes))
    want = Labels.compress(labels.full(tuple(old)).contiguous().reshape(new))
    found = reshape_labels(labels, tuple(old), tuple(new))
    assert (want is None) == (found is None)
    if want is not None and found is not None:
        assert torch.equal(want.full(tuple(new)), found.full(tuple(new)))


class Block(nn.Module):
    """ShuffleNet's unit: half of the stream passes, half goes through a branch, then a shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.inner, self.deep = nn.Conv2d(half, half, 1), conv(half, half, groups=half)
        self.outer = nn.Conv2d(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, 1)
        two = self.outer(F.relu(self.deep(F.relu(self.inner(two)))))
        return shuffle(torch.cat([one, two], 1), 2)


def test_the_inside_of_a_shuffled_block_is_free() -> None:
    def build() -> nn.Module:
        return nn.Sequential(conv(3, 12), Block(12), conv(12, 2))

    sites = {
        # Place j of the halves, and of what the branch gives.
        "0": (6, ("0", "1.outer"), ("1.inner", "2")),
        "1.inner": (6, ("1.inner", "1.deep"), ("1.outer",)),
    }
    check_case(Case(build, (IMAGES,), sites))


def test_a_stage_of_shuffled_blocks_goes_as_one_but_its_insides() -> None:
    # Each shuffle mixes the halves of the one before: after three blocks of 12 all places are tied.
    net = nn.Sequential(conv(3, 12), *(Block(12) for _ in range(3)), conv(12, 2)).double()
    graph = build_channel_graph(net.eval(), (IMAGES,))
    assert list(graph.sites) == ["1.inner", "2.inner", "3.inner"]
    assert graph.unprunable["0"] == "it is a single unit"
