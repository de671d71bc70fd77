"""Channel labels: which channel does each element of a tensor belong to?

A label is an integer. Two channels that must be kept or removed together end with labels of one
class of a union-find; the label ``FIXED`` (-1) marks elements that belong to nothing prunable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

FIXED = -1


@dataclass(frozen=True)
class Labels:
    """Labels of a tensor's elements, as a function of the indices along ``dims`` alone.

    ``ids`` has one axis per entry of ``dims`` (ascending), as long as the tensor is there. A
    feature map [B, C, H, W] has ``dims = (1,)`` and C ids; a head-split tensor [B, T, H, D] has
    ``dims = (2, 3)`` and [H, D] ids.
    """

    dims: tuple[int, ...]
    ids: Tensor

    def full(self, shape: tuple[int, ...]) -> Tensor:
        """The labels of every element, shape ``shape`` (a stride-0 view, no memory)."""
        view = [1] * len(shape)
        for dim, size in zip(self.dims, self.ids.shape, strict=True):
            view[dim] = size
        return self.ids.reshape(view).expand(shape)

    @staticmethod
    def compress(full: Tensor) -> Labels | None:
        """The inverse of :meth:`full`: keep the axes on which the labels depend.

        None where no element has a label.
        """
        if full.numel() == 0:
            return None
        shape = full.shape
        for dim, stride in enumerate(full.stride()):
            if stride == 0:  # as :meth:`full` made it: one value, which need not be compared
                full = full.narrow(dim, 0, 1)
        if bool((full == FIXED).all()):
            return None
        dims = []
        for dim in range(full.dim()):
            first = full.narrow(dim, 0, 1)
            if bool((full == first).all()):
                full = first
            else:
                dims.append(dim)
        if not dims:
            # Every element has one label (a layer of a single channel): say along which axis,
            # by convention that of the channels.
            dims = [min(1, len(shape) - 1)]
            full = full.expand([n if d == dims[0] else 1 for d, n in enumerate(shape)])
        return Labels(tuple(dims), full.reshape([full.shape[d] for d in dims]).clone())


class UnionFind:
    """Classes of integers 0..n-1, with path halving; the root of a class is its smallest member."""

    def __init__(self) -> None:
        self._parent: list[int] = []

    def __len__(self) -> int:
        return len(self._parent)

    def new(self, count: int) -> Tensor:
        """``count`` fresh labels, each in a class of its own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def find(self, x: int) -> int:
        parent = self._parent
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    def union(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self._parent[max(a, b)] = min(a, b)

    def union_all(self, members: Iterable[int]) -> None:
        """Put all members into one class."""
        first: int | None = None
        for member in members:
            if first is None:
                first = member
            else:
                self.union(first, member)
