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

from .trace import shape_of

RESHAPES = frozenset({"view", "reshape", "_unsafe_view", "flatten", "unflatten"})
# Along the axis of the examples these would change their order; nobody does, so it is not followed.
REORDERS = frozenset(
    {"roll", "flip", "index", "index_select", "gather", "cat", "stack", "repeat", "sort", "scatter"}
)


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


def find_examples(
    node: fx.Node, operation: str, known: Mapping[fx.Node, Examples | None]
) -> Examples | None:
    """Where the examples lie in a node's value; None where there are none, or it cannot be told.

    ``known`` holds the answer for the node's arguments. A reshape is row-major: with S the distance
    of neighbouring examples in the flat order and T that of neighbouring entries along the new
    axis, an example takes S / T entries of it.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    axes = [axis for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt)]
    if len(axes) != 1:
        return None
    (axis,) = axes
    size: Any = value.shape[axis]
    if bool(size.node.expr.is_symbol):
        return Examples(axis)
    per_example = int(size.node.hint) // 2  # two examples are traced
    sources = [(arg, known[arg]) for arg in node.all_input_nodes if known.get(arg) is not None]
    if not sources:
        return None
    source, before = sources[0]
    assert before is not None
    if operation in REORDERS:
        return None
    if operation not in RESHAPES:
        # Moved or computed on as a whole, if all that is merged here is merged in the same way.
        orders = {(found.inner, found.per_example) for _, found in sources if found is not None}
        same = orders == {(before.inner, per_example)}
        return Examples(axis, before.inner, per_example) if same else None
    distance = before.inner * prod(shape_of(source)[before.axis + 1 :])
    step = prod(shape_of(node)[axis + 1 :])
    if distance % step or per_example % (distance // step):
        return None
    return Examples(axis, distance // step, per_example)
