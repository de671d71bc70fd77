"""What Gibbs pruning removes: single weights, kernels or filters.

A structure draws the mask of a layer at an inverse temperature, and cuts the layer at the end. Both
see the squared weights [filters, channels, positions]; a linear layer is a convolution with one
position. Q_p is the p-quantile, over the layer, of the squared weights or of their means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .chromatic import draw_filters
from .exchangeable import ExchangeableSpins
from .quantile import quantile

# Kernels drawn at a time, or the whole filters that have as many: each kernel takes a table of
# (positions + 1)^2 numbers.
CHUNK = 2**14


class Structure(Protocol):
    """One of ``STRUCTURES``."""

    @property
    def betas(self) -> tuple[float, float]:
        """The first and the last inverse temperature."""
        ...

    @property
    def whole_units(self) -> bool:
        """Do units of the channel graph go?"""
        ...

    def draw(self, squares: Tensor, p: float, beta: float) -> Tensor:
        """A mask, 1 = stays, of the squares' shape; p is the share that is to go."""
        ...

    def cut(self, squares: Tensor, p: float) -> Tensor:
        """The mask at test time, as booleans."""
        ...


@dataclass(frozen=True)
class Unstructured:
    r"""Single weights: A = 0, :math:`P(\text{prune}) = \sigma(\beta (Q_p - w^2))`.

    With spins of -1 and +1 and H = b x the probability would be that of 2 beta (Q_p - w^2). The
    paper's formula and the authors' code both have beta alone (spins of 0 and 1, that is), and so
    has this; kernels and filters have the spins. At the end weights below Q_p go: the limit of
    large beta, near which the authors draw masks at test time too.
    """

    betas: tuple[float, float] = (1.0, 1e4)
    whole_units: bool = False

    def draw(self, squares: Tensor, p: float, beta: float) -> Tensor:
        """See :class:`Structure`."""
        gone = torch.sigmoid(beta * (quantile(squares, p) - squares))
        return (torch.rand_like(gone) >= gone).to(squares.dtype)

    def cut(self, squares: Tensor, p: float) -> Tensor:
        """See :class:`Structure`."""
        return squares >= quantile(squares, p)


@dataclass(frozen=True)
class Kernel:
    """Kernels (one input channel of one filter): A = -c between the weights of a kernel.

    Q_p is over means of kernels. Draws are exact.
    """

    c: float = 0.01
    betas: tuple[float, float] = (1.0, 1e4)
    whole_units: bool = False

    def draw(self, squares: Tensor, p: float, beta: float) -> Tensor:
        """See :class:`Structure`."""
        limit = quantile(squares.mean(2), p)
        mask = torch.empty_like(squares, memory_format=torch.contiguous_format)
        kernels = squares.flatten(0, 1).split(CHUNK)
        for into, part in zip(mask.flatten(0, 1).split(CHUNK), kernels, strict=True):
            spins = ExchangeableSpins(limit - part, self.c, beta)
            into.copy_((spins.draw_spins(spins.draw_pluses()) + 1) / 2)
        return mask

    def cut(self, squares: Tensor, p: float) -> Tensor:
        """See :class:`Structure`."""
        means = squares.mean(2, keepdim=True)
        return (means >= quantile(means, p)).expand_as(squares)


@dataclass(frozen=True)
class Filter:
    """Filters (all that makes one output channel), see :func:`~.chromatic.draw_filters`.

    Q_p is over means of filters.
    """

    c: float = 1.0
    betas: tuple[float, float] = (10**-2.5, 1.0)
    whole_units: bool = True

    def draw(self, squares: Tensor, p: float, beta: float) -> Tensor:
        """See :class:`Structure`."""
        means = squares.mean((1, 2))
        limit = quantile(means, p)
        filters = max(1, CHUNK // squares.shape[1])
        mask = torch.empty_like(squares)
        for into, part, start in zip(
            mask.split(filters), squares.split(filters), (means > limit).split(filters), strict=True
        ):
            into.copy_((draw_filters(limit - part, self.c, beta, start) + 1) / 2)
        return mask

    def cut(self, squares: Tensor, p: float) -> Tensor:
        """See :class:`Structure`."""
        means = squares.mean((1, 2), keepdim=True)
        return (means >= quantile(means, p)).expand_as(squares)


STRUCTURES: dict[str, Structure] = {
    "unstructured": Unstructured(),
    "kernel": Kernel(),
    "filter": Filter(),
}
