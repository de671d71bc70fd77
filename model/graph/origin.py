"""Which elements of a parameter stand where, in a value that is computed from it alone.

A table of relative positions is looked up, reshaped and permuted before it meets the heads that it
belongs to; a packed weight is split into the parts for query, key and value. To shrink the
parameter one has to know where its elements went: the operations are applied to their indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from .trace import as_size, is_tensor, shape_of

FOLLOWED = frozenset(
    "view reshape _unsafe_view flatten unflatten permute transpose t squeeze unsqueeze select "
    "slice split split_with_sizes chunk unbind expand narrow index index_select slice_scatter roll "
    "flip movedim swapaxes getitem".split()
)
FILLS = frozenset({"zero", "fill"})  # another value in the same place
LARGEST = 2**24  # elements; beyond that nothing is looked up in tables


@dataclass(frozen=True)
class Origin:
    """Element i of a value was element ``index[i]`` (row-major) of ``parameter``, and no other.

    ``moved`` is that index; None: it is the parameter itself, or one with other values.
    """

    parameter: str
    shape: tuple[int, ...]
    moved: Tensor | None = None

    @property
    def index(self) -> Tensor:
        """The parameter's element at each place of the value."""
        if self.moved is not None:
            return self.moved
        return torch.arange(prod(self.shape)).view(self.shape)

    def axis_along(self, dim: int) -> tuple[int, Tensor] | None:
        """(axis, its entry for each entry of the value along ``dim``); None where there is no such.

        The entry must depend on the place along ``dim`` alone, and differ between places.
        """
        dim %= self.index.dim()
        for axis, size in enumerate(self.shape):
            entries = self.index // prod(self.shape[axis + 1 :]) % size
            line = entries.movedim(dim, 0).reshape(entries.shape[dim], -1)
            same = bool((line == line[:, :1]).all())
            if same and len(line[:, 0].unique()) == len(line):
                return axis, line[:, 0]
        return None


def follow(node: fx.Node, operation: str, origins: dict[fx.Node, Any]) -> Any:
    """The origin of a node's value (a list for several values); None where it mixes elements.

    ``origins`` holds the answers for its arguments.
    """
    known = {arg: origins[arg] for arg in node.all_input_nodes if origins.get(arg) is not None}
    if len({_parameter(origin) for origin in known.values()}) != 1:
        return None
    if operation == "getitem":
        (parts,) = known.values()
        place: Any = node.args[1]
        return parts[place] if isinstance(parts, list) else None
    if any(isinstance(origin, list) for origin in known.values()):
        return None
    (first, *_) = known.values()
    pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    if operation in FILLS or operation in ("clone", "contiguous", "detach", "alias") or pointwise:
        # One value at a time: each stays the only one of its element.
        if len([arg for arg in node.all_input_nodes if is_tensor(arg)]) > 1:
            return None
        return first
    if operation not in FOLLOWED or prod(first.shape) > LARGEST:
        return None

    def indices(arg: Any) -> Any:
        if not isinstance(arg, fx.Node):
            return arg
        if arg in known:
            return known[arg].index
        value = arg.meta["val"]
        # What a table is looked up with is not known while tracing: any entry tells the same.
        return torch.zeros(shape_of(arg), dtype=value.dtype) if is_tensor(arg) else as_size(value)

    target: Any = node.target
    result = target(*tree_map(indices, node.args), **tree_map(indices, dict(node.kwargs)))
    if isinstance(result, Tensor):
        return Origin(first.parameter, first.shape, result)
    return [Origin(first.parameter, first.shape, part) for part in result]


def _parameter(origin: Any) -> str:
    return str((origin[0] if isinstance(origin, list) else origin).parameter)
