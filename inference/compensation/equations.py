"""Least squares from sums over examples, for a layer whose inputs changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Correction:
    """What is added to a layer's weights.

    Attributes:
        weight: [features, outputs].
        bias: [outputs]; None where the layer has none.
        before: the mean squared error over that of the outputs' means, without the correction.
        after: the same with it.
    """

    weight: Tensor
    bias: Tensor | None
    before: float
    after: float


@dataclass(frozen=True)
class Moments:
    """Means over rows; second moments are about the means where a layer has a bias.

    Attributes:
        xx: [features, features], of the inputs.
        xr: [features, outputs], of inputs and residuals.
        x: [features].
        r: [outputs].
    """

    xx: Tensor
    xr: Tensor
    x: Tensor
    r: Tensor


class NormalEquations:
    r"""Ridge-regularised normal equations of a correction, summed up batch by batch in float64.

    With inputs x and residuals r = (wanted output) - (present output), the correction is

    .. math:: \min_{\Delta, b} \sum_n \|r_n - \Delta^T x_n - b\|^2 + \lambda \|\Delta\|^2

    The penalty pulls to the present weights rather than to zero, so that no :math:`\lambda` makes
    the sum of squares worse than it is. :math:`\lambda` is ``ridge`` times the mean diagonal entry
    of the inputs' matrix, which makes it independent of their scale; b is not penalised.

    Memory: features x (features + outputs) numbers, whatever the number of examples.
    """

    def __init__(
        self, features: int, outputs: int, *, intercept: bool, device: torch.device
    ) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.count, self.intercept = 0, intercept
        self._xx, self._xr = zeros(features, features), zeros(features, outputs)
        self._x, self._r, self._y = zeros(features), zeros(outputs), zeros(outputs)
        self._rr, self._yy = zeros(), zeros()

    def add(self, x: Tensor, residual: Tensor, wanted: Tensor) -> None:
        """Rows [n, features], [n, outputs] and [n, outputs]."""
        x, residual, wanted = x.double(), residual.double(), wanted.double()
        self.count += len(x)
        self._xx.addmm_(x.T, x)
        self._xr.addmm_(x.T, residual)
        self._x += x.sum(0)
        self._r += residual.sum(0)
        self._y += wanted.sum(0)
        self._rr += residual.square().sum()
        self._yy += wanted.square().sum()

    def solve(self, ridge: float) -> Correction:
        """The correction; with ``ridge`` 0 the one of least norm."""
        n = max(self.count, 1)
        xx, xr = self._centred()
        rr = self._rr - self._r.square().sum() / n if self.intercept else self._rr
        weight = _solve(xx, xr, ridge)
        bias = (self._r - self._x @ weight) / n if self.intercept else None
        left = rr - 2 * (weight * xr).sum() + (weight * (xx @ weight)).sum()
        scale = float(self._yy - self._y.square().sum() / n) or 1.0
        return Correction(weight, bias, float(self._rr) / scale, max(float(left), 0.0) / scale)

    def moments(self) -> Moments:
        """What the rows are like, for other fits than :meth:`solve`."""
        n = max(self.count, 1)
        xx, xr = self._centred()
        return Moments(xx / n, xr / n, self._x / n, self._r / n)

    def _centred(self) -> tuple[Tensor, Tensor]:
        """The sums of x x^T and x r^T, about the means where there is an intercept."""
        if not self.intercept:
            return self._xx, self._xr
        n = max(self.count, 1)
        return (
            self._xx - self._x[:, None] * self._x / n,
            self._xr - self._x[:, None] * self._r / n,
        )


def _solve(xx: Tensor, xr: Tensor, ridge: float) -> Tensor:
    penalty = ridge * float(xx.diagonal().mean())
    if penalty > 0:
        matrix = xx.clone()
        matrix.diagonal().add_(penalty)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not bool(failed):
            return torch.cholesky_solve(xr, factor)
    return torch.linalg.pinv(xx, hermitian=True) @ xr
