"""Which units the others can replace: backward elimination with the weights refitted each time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Regression:
    r"""What a layer computes from the units of a site: y = W^T x, in the metric of the loss.

    Attributes:
        units: [F], the unit that owns each of the layer's inputs; -1 for those that always stay.
        second: [F, F], :math:`G = E[x x^T]`, about the mean where the layer has a bias; positive
            definite.
        weight: [F, O].
        curvature: [O], the loss that a squared error of one in an output makes, times two.
    """

    units: Tensor
    second: Tensor
    weight: Tensor
    curvature: Tensor


class Elimination:
    r"""Units go one after the other, each the one whose loss the rest can make up for best.

    When the inputs S go and all other weights are fitted again, the error of the outputs grows by

    .. math:: c_S = \tfrac12 \sum_o f_o\, W_{S o}^T \left([G^{-1}]_{SS}\right)^{-1} W_{S o}

    and the refitted weights and the inverse of what is left are

    .. math:: W \leftarrow W - [G^{-1}]_{\cdot S} A W_S, \quad
        G^{-1} \leftarrow G^{-1} - [G^{-1}]_{\cdot S} A [G^{-1}]_{S \cdot}, \quad
        A = \left([G^{-1}]_{SS}\right)^{-1}

    exactly, for quadratic losses. Costs of several layers that read the site add up.

    References:
        Babak Hassibi, David Stork, "Second order derivatives for network pruning: Optimal Brain
        Surgeon", 1992 (no arXiv id). Elias Frantar, Sidak Pal Singh, Dan Alistarh, "Optimal Brain
        Compression", 2022, arXiv 2208.11580.
    """

    def __init__(self, size: int, layers: list[Regression]) -> None:
        self._left = torch.ones(size, dtype=torch.bool)
        self._layers = [_Layer(layer, size) for layer in layers]

    def costs(self) -> Tensor:
        """[K]: what each unit's removal costs now, in the loss; infinite for those that went."""
        total = sum(
            (layer.costs() for layer in self._layers), torch.zeros(len(self._left)).double()
        )
        return total.masked_fill(~self._left, torch.inf)

    def remove(self, unit: int) -> None:
        """Take a unit out, and fit the others again."""
        self._left[unit] = False
        for layer in self._layers:
            layer.remove(unit)

    def down_to(self, numbers: Tensor, kinds: Tensor) -> Tensor:
        """[K]: which units are left when so many of each kind are.

        Args:
            numbers: [kinds].
            kinds: [K], the kind of each unit.
        """
        while bool((spare := kinds[self._left].bincount(minlength=len(numbers)) - numbers).any()):
            self.remove(int(self.costs().masked_fill(spare[kinds] <= 0, torch.inf).argmin()))
        return self._left.clone()

    def order(self) -> tuple[Tensor, Tensor]:
        """All units in the order in which they go, [K], and what each cost at its turn, [K]."""
        order, paid = [], []
        while bool(self._left.any()):
            costs = self.costs()
            unit = int(costs.argmin())
            order.append(unit)
            paid.append(float(costs[unit]))
            self.remove(unit)
        return torch.tensor(order), torch.tensor(paid, dtype=torch.float64)


class _Layer:
    def __init__(self, layer: Regression, size: int) -> None:
        self._inverse = torch.linalg.inv(layer.second.double())
        # In outputs of curvature one: the metric is then the plain one.
        self._weight = layer.weight.double() * layer.curvature.double().clamp(min=0).sqrt()
        self._inputs = [(layer.units == unit).nonzero()[:, 0] for unit in range(size)]

    def costs(self) -> Tensor:
        found = torch.zeros(len(self._inputs), dtype=torch.float64)
        # Units have as many inputs as the others, but for few networks: one batched solve for each.
        by_size: dict[int, list[int]] = {}
        for unit, inputs in enumerate(self._inputs):
            if len(inputs):
                by_size.setdefault(len(inputs), []).append(unit)
        for units in by_size.values():
            rows = torch.stack([self._inputs[unit] for unit in units])
            blocks = self._inverse[rows[:, :, None], rows[:, None, :]]
            weights = self._weight[rows]
            found[units] = (weights * torch.linalg.solve(blocks, weights)).sum((1, 2)) / 2
        return found.clamp(min=0)

    def remove(self, unit: int) -> None:
        rows = self._inputs[unit]
        if not len(rows):
            return
        columns = self._inverse[:, rows]
        solved = torch.linalg.solve(self._inverse[rows][:, rows], columns.T)
        self._weight.addmm_(solved.T, self._weight[rows], alpha=-1)
        self._inverse.addmm_(columns, solved, alpha=-1)
        self._weight[rows] = 0
        self._inputs[unit] = rows[:0]
