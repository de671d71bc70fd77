"""Exact draws of spins that all couple alike."""

from __future__ import annotations

import torch
from torch import Tensor


class ExchangeableSpins:
    r"""Rows of n spins :math:`x_i \in \{-1, +1\}` with one coupling between all of a row.

    .. math::
        p(x) \propto e^{-\beta H(x)}, \quad
        H(x) = -c \sum_{i \ne j} x_i x_j + \sum_i b_i x_i - h \sum_i x_i

    The coupling depends on the number m of spins that are +1 alone, since
    :math:`\sum_{i \ne j} x_i x_j = S^2 - n` with :math:`S = 2m - n`. So m is drawn first, from

    .. math:: p(m) \propto e^{\beta c (S^2 - n) + \beta h S} \, e_m(e^{-2 \beta b_1}, \dots)

    where :math:`e_m` is the elementary symmetric polynomial, and then which spins they are, one
    after the other. That takes n^2 operations a row where enumeration takes 2^n: a kernel of 5 x 5
    weights has 33 million states.

    Args:
        b: [..., n], the linear terms.
        c: the coupling.
        beta: the inverse temperature.
    """

    def __init__(self, b: Tensor, c: float, beta: float) -> None:
        n = b.shape[-1]
        self.n, self.beta, self.shape = n, beta, b.shape
        # Of x_i = +1 relative to x_i = -1. In float64: at low temperatures logarithms are large.
        self._log_odds = -2.0 * beta * b.double()
        # table[i][..., m]: log e_m of the first i spins
        row = self._log_odds.new_full((*b.shape[:-1], n + 1), -torch.inf)
        row[..., 0] = 0.0
        self._table = [row]
        for i in range(n):
            shifted = torch.full_like(row, -torch.inf)
            shifted[..., 1:] = row[..., :-1] + self._log_odds[..., i, None]
            row = torch.logaddexp(row, shifted)
            self._table.append(row)
        self._sums = 2.0 * torch.arange(n + 1, dtype=torch.float64, device=b.device) - n
        weights = row + beta * c * (self._sums.square() - n)
        # Only differences count, and those near the largest are in reach of float32.
        self._weights = (weights - weights.amax(-1, keepdim=True)).float()
        if n == 1:
            self._odds = (weights[..., 1] - weights[..., 0]).float()

    def draw_pluses(self, field: Tensor | None = None) -> Tensor:
        """How many spins of each row are +1: [...].

        Args:
            field: h, of a shape that broadcasts to [...]; by default 0.
        """
        h = self._log_odds.new_zeros(()) if field is None else field.double()
        if self.n == 1:  # a coin, which many rows of a linear layer need many times
            chance = torch.sigmoid(self._odds + (2.0 * self.beta * h).float())
            return (torch.rand_like(chance) < chance).long()
        weights = self._weights + (self.beta * h[..., None] * self._sums).float()
        below = weights.softmax(-1).cumsum(-1)
        level = torch.rand_like(below[..., :1]) * below[..., -1:]
        return (below <= level).sum(-1).clamp(max=self.n)

    def draw_spins(self, pluses: Tensor) -> Tensor:
        """Which spins are +1, given how many of each row: x [..., n], float64."""
        x = self._log_odds.new_empty(self.shape)
        left = pluses
        for i in reversed(range(self.n)):
            # p(x_i = +1 | m of the first i + 1) = e^{a_i} e_{m-1}(first i) / e_m(first i + 1)
            whole = self._table[i + 1].gather(-1, left[..., None])[..., 0]
            rest = self._table[i].gather(-1, (left - 1).clamp(min=0)[..., None])[..., 0]
            chance = torch.where(left > 0, (self._log_odds[..., i] + rest - whole).exp(), 0.0)
            up = torch.rand_like(chance) < chance
            x[..., i] = 2.0 * up - 1.0
            left = left - up.long()
        return x
