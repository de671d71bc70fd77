"""Where the examples of a batch lie in a tensor.

Code for attention merges the batch with other axes: windows into ``[B * windows, tokens, C]``,
tokens into ``[tokens * B, C]``. A gain that differs between examples has to find them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from .schema import arguments
from .trace import shape_of

RESHAPES = frozenset({"view", "reshape", "_unsafe_view", "flatten", "unflatten"})
REORDERS = frozenset({"roll", "flip", "index", "index_select", "gather", "sort", "scatter"})
PARTS = frozenset({"getitem", "split", "split_with_sizes", "chunk"})


@dataclass(frozen=True)
class Examples:
    """Entry i along ``axis`` is of example (i // inner) mod B, in a tensor with ``per_example`` x B
    entries there."""

    axis: int
    inner: int = 1
    per_example: int = 1

    def spread(self, rows: Tensor) -> Tensor:
        """Rows [B, ...], one for each example, as rows [per_example * B, ...] along ``axis``."""
        if self.inner > 1:
            rows = rows.repeat_interleave(self.inner, 0)
        outer = self.per_example // self.inner
        return rows.repeat(outer, *[1] * (rows.dim() - 1)) if outer > 1 else rows


UNKNOWN = Examples(-1)  # there are examples, but nobody knows where: sorted by length, say


def find_examples(
    node: fx.Node, operation: str, known: Mapping[fx.Node, Examples | None]
) -> Examples | None:
    """Where the examples lie in a node's value; None where there are none.

    ``known`` holds the answer for the node's arguments, those with several results included. A
    reshape is row-major: with S the distance of neighbouring examples in the flat order and T that
    of neighbouring entries along the new axis, an example takes S / T entries of it.
    """
    value = node.meta.get("val")
    sources = _sources(node, known)
    if isinstance(value, tuple | list):  # the first of several results tells
        value = next((x for x in value if isinstance(x, Tensor)), None)
    if not isinstance(value, Tensor):
        return None
    axes = [axis for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt)]
    if not axes:
        return None
    per_example = _multiple(value.shape[axes[0]]) if len(axes) == 1 else None
    if per_example is None or any(found is UNKNOWN for _, found in sources):
        return UNKNOWN
    (axis,) = axes
    if not sources:
        return Examples(axis) if per_example == 1 else UNKNOWN
    source, before = sources[0]
    merged = {(found.inner, found.per_example) for _, found in sources}
    if operation in RESHAPES:
        distance = before.inner * prod(shape_of(source)[before.axis + 1 :])
        step = prod(shape_of(node)[axis + 1 :])
        inner, rest = divmod(distance, step)
        fits = not rest and inner > 0 and per_example % inner == 0
        return Examples(axis, inner, per_example) if fits else UNKNOWN
    if operation in REORDERS and before.axis in _along(node, source):
        return UNKNOWN
    if merged == {(before.inner, per_example)}:
        return Examples(axis, before.inner, per_example)  # moved or computed on as a whole
    if per_example == 1 and not any(_is_data(arg.meta["val"]) for arg, _ in sources):
        return Examples(axis)  # bags of what is looked up, one for each example
    # One copy of the batch after the other, or one of several such.
    copies = operation in ("cat", "repeat") or operation in PARTS
    whole = copies and all(inner == 1 for inner, _ in merged)
    return Examples(axis, 1, per_example) if whole else UNKNOWN


def _sources(
    node: fx.Node, known: Mapping[fx.Node, Examples | None]
) -> list[tuple[fx.Node, Examples]]:
    """The arguments that hold examples; of numbers and indices only the numbers, if there are."""
    found = [(arg, known[arg]) for arg in node.all_input_nodes]
    there = [(arg, examples) for arg, examples in found if examples is not None]
    numbers = [pair for pair in there if _is_data(pair[0].meta["val"])]
    return numbers or there


def _is_data(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.is_floating_point()


def _multiple(size: Any) -> int | None:
    """c, of a size of c B; None of any other."""
    factor, rest = size.node.expr.as_coeff_Mul()
    return int(factor) if rest.is_symbol and factor.is_integer else None


def _along(node: fx.Node, source: fx.Node) -> set[int]:
    """The axes of the source along which an operation looks up or moves entries."""
    given = arguments(node)
    rank = len(shape_of(source))
    if "indices" in given:
        return {d for d, index in enumerate(given["indices"]) if index is not None}
    dims = given.get("dims", given.get("dim"))
    dims = [dims] if isinstance(dims, int) else dims
    return {int(d) % rank for d in dims} if dims else set(range(rank))
