"""The standard normal between two bounds: mass, entropy and quantiles, far out in a tail too.

Differences of values of the normal distribution function vanish in a tail, and gradients through
branches for the two tails are NaN in the one not taken; so the functions are written with their
gradients, in closed form.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_LOG_ROOT_2PI = 0.5 * math.log(2 * math.pi)
_NEWTON_STEPS = 4  # from the asymptote: 4 bring it to rounding, anywhere


def log_density(z: Tensor) -> Tensor:
    """The log of the standard normal density."""
    return -0.5 * z * z - _LOG_ROOT_2PI


def log_mass(low: Tensor, high: Tensor) -> Tensor:
    r""":math:`\log(\Phi(h) - \Phi(l))`, to full relative accuracy also where both tails underflow.

    Args:
        low: l, below h.
        high: h; the two are broadcast.
    """
    return _LogMass.apply(*torch.broadcast_tensors(low, high))


def quantile(low: Tensor, high: Tensor, level: Tensor) -> Tensor:
    r"""z with :math:`\Phi(z) = (1 - u) \Phi(l) + u \Phi(h)`: the quantile u between two bounds.

    Its gradients are :math:`\partial z / \partial l = (1 - u) \phi(l) / \phi(z)`, :math:`\partial z
    / \partial h = u \phi(h) / \phi(z)` and :math:`\partial z / \partial u = (\Phi(h) - \Phi(l)) /
    \phi(z)`.

    Args:
        low: l, below h.
        high: h.
        level: u in [0, 1]; the three are broadcast.
    """
    return _Quantile.apply(low, high, level)


def entropy(low: Tensor, high: Tensor) -> Tensor:
    """The entropy of the standard normal between two bounds.

    Args:
        low: l, below h.
        high: h; the two are broadcast.
    """
    return _Entropy.apply(*torch.broadcast_tensors(low, high))


class _Truncated:
    """Logs of the mass and of the density at both bounds, and the entropy, of what is between.

    In a tail, say l < h <= 0, the mass is exp(-h^2 / 2) erfcx(-h / sqrt 2) / 2 less what is below
    l, and the entropy is written without the large square, which cancels.
    """

    def __init__(self, low: Tensor, high: Tensor) -> None:
        # The upper tail is the lower one of the mirrored interval.
        mirrored = low > 0
        left, right = torch.where(mirrored, -high, low), torch.where(mirrored, -low, high)
        root = math.sqrt(0.5)
        constant = 0.5 + _LOG_ROOT_2PI

        scaled = torch.special.erfcx(-root * right)
        fall = 0.5 * (right - left) * (right + left)  # of the log density, from h to l
        rest = (-torch.expm1(fall + (torch.special.erfcx(-root * left) / scaled).log())).log()
        size = (0.5 * scaled).log() + rest
        at_right = -_LOG_ROOT_2PI - size
        at_left = at_right + fall
        edges = left * at_left.exp() - right * (right + at_right.exp())
        tail = (size - 0.5 * right**2, at_left, at_right, constant + size + 0.5 * edges)

        # Across zero: a sum of two parts of one sign.
        mass = (0.5 * (torch.erf(root * right) - torch.erf(root * left))).log()
        at_left, at_right = log_density(left) - mass, log_density(right) - mass
        edges = left * at_left.exp() - right * at_right.exp()
        across = (mass, at_left, at_right, constant + mass + 0.5 * edges)

        chosen = [torch.where(right <= 0, t, a) for t, a in zip(tail, across, strict=True)]
        self.log_mass, at_left, at_right, self.entropy = chosen
        self.log_at_low = torch.where(mirrored, at_right, at_left)
        self.log_at_high = torch.where(mirrored, at_left, at_right)


class _LogMass(Function):
    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor) -> Tensor:
        found = _Truncated(low, high)
        ctx.save_for_backward(found.log_at_low, found.log_at_high)
        return found.log_mass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        at_low, at_high = ctx.saved_tensors
        return -grad * at_low.exp(), grad * at_high.exp()


class _Entropy(Function):
    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor) -> Tensor:
        found = _Truncated(low, high)
        ctx.save_for_backward(found.log_at_low, found.log_at_high, found.entropy)
        return found.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        # dH/dh = f(h) (1 - H - log f(h)), with f the density of what is between; mirrored at l.
        at_low, at_high, value = ctx.saved_tensors
        return (
            -grad * at_low.exp() * (1 - value - at_low),
            grad * at_high.exp() * (1 - value - at_high),
        )


class _Quantile(Function):
    @staticmethod
    def forward(ctx: Any, low: Tensor, high: Tensor, level: Tensor) -> Tensor:
        log_u, log_rest = level.log(), torch.log1p(-level)

        def log_probability(sign: float) -> Tensor:
            return torch.logaddexp(
                torch.special.log_ndtr(sign * low) + log_rest,
                torch.special.log_ndtr(sign * high) + log_u,
            )

        below, above = log_probability(1.0), log_probability(-1.0)
        # From the smaller tail, which has the digits.
        z = torch.where(below < above, 1.0, -1.0) * _log_ndtri(torch.minimum(below, above))
        z = torch.minimum(torch.maximum(z, low), high)
        ctx.save_for_backward(low, high, level, z)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        low, high, level, z = ctx.saved_tensors
        density = log_density(z)
        of_level = None
        if ctx.needs_input_grad[2]:
            of_level = grad * (log_mass(low, high) - density).exp()
            of_level = of_level.sum_to_size(level.shape)
        # Bounds that served many levels have the sum of their gradients.
        of_low = grad * (torch.log1p(-level) + log_density(low) - density).exp()
        of_high = grad * (level.log() + log_density(high) - density).exp()
        return of_low.sum_to_size(low.shape), of_high.sum_to_size(high.shape), of_level


def _log_ndtri(log_p: Tensor) -> Tensor:
    r"""z with :math:`\log \Phi(z)` = ``log_p``, which is at most log 1/2, by Newton's method."""
    z = torch.special.ndtri(log_p.exp())
    far = log_p < -300  # where exp has few digits left, or none
    if bool(far.any()):
        goal = log_p[far]
        x = -(-2 * goal - (-4 * math.pi * goal).log()).sqrt()  # the asymptote
        for _ in range(_NEWTON_STEPS):
            value = torch.special.log_ndtr(x)
            x = x - (value - goal) * (value - log_density(x)).exp()
        z = z.masked_scatter(far, x)
    return z
