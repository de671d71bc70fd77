"""The inverse temperature of Gibbs pruning over a training."""

from __future__ import annotations

ANNEALED = 0.64  # of the training: 128 of the authors' 200 epochs


def inverse_temperature(step: int, steps: int, low: float, high: float) -> float:
    r"""A geometric path from ``low`` to ``high`` over the first 64 % of the steps, then constant.

    .. math:: \beta_t = \beta_0^{1 - u} \beta_1^u, \quad u = \min(1, t / (0.64\, T))

    The authors raise it at each of 128 epochs; here it rises at each step, so that a training of
    few epochs goes through the same temperatures.

    >>> [round(inverse_temperature(t, 100, 1.0, 1e4), 6) for t in (0, 32, 64, 99)]
    [1.0, 100.0, 10000.0, 10000.0]
    """
    u = min(1.0, step / (ANNEALED * steps))
    return low ** (1 - u) * high**u
