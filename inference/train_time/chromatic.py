"""Draws of whole filters: Gibbs sampling that goes back and forth between two colours."""

from __future__ import annotations

import torch
from torch import Tensor

from .exchangeable import ExchangeableSpins

SWEEPS = 50


def draw_filters(
    b: Tensor, c: float, beta: float, start: Tensor, *, sweeps: int = SWEEPS
) -> Tensor:
    r"""Spins of filters, by chromatic Gibbs sampling over two halves of the input channels.

    For each filter, with its input channels in halves L and R:

    .. math::
        p(x) \propto e^{-\beta H(x)}, \quad
        H(x) = -c \sum_{k} \sum_{i \ne j \in k} x_i x_j
               - c \sum_{i \in L} \sum_{j \in R} x_i x_j + \sum_i b_i x_i

    where k runs over the kernels (a kernel is what one input channel has in the filter). Given the
    other half the kernels of a half are independent, and each is drawn as a whole, exactly. In
    terms of x'Ax the coupling is -c within kernels and -c/2 between the halves: these are the
    strengths of the authors' published code, for which their schedule of beta was chosen.

    Args:
        b: [filters, channels, positions], the linear terms.
        c: the coupling.
        beta: the inverse temperature.
        start: [filters], which have all of half R at +1 in the beginning; those of others are -1.
        sweeps: each draws both halves once.

    Returns:
        x [filters, channels, positions] of -1 and +1, float64.
    """
    _, channels, positions = b.shape
    half = channels // 2  # of a single channel, none: then there is nothing that halves couple
    left = ExchangeableSpins(b[:, :half], c, beta)
    right = ExchangeableSpins(b[:, half:], c, beta)
    spins = (channels - half) * positions
    total = (2.0 * start.double() - 1.0) * spins  # of the right half
    for _ in range(sweeps):
        of_left = left.draw_pluses(c * total[:, None])
        total = 2.0 * of_left.sum(1) - half * positions
        of_right = right.draw_pluses(c * total[:, None])
        total = 2.0 * of_right.sum(1) - spins
    return torch.cat([left.draw_spins(of_left), right.draw_spins(of_right)], 1)
