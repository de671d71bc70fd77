r"""Bayesian model reduction: the change of the log evidence under another prior, without learning.

With one likelihood, the evidence of the model with prior :math:`\tilde p` over that of the model
with prior p is the posterior mean of the ratio of the priors,

.. math::
    \Delta F = \log \frac{\tilde p(y)}{p(y)} = \log E_{p(\theta | y)}
    \left[\frac{\tilde p(\theta)}{p(\theta)}\right] \approx \log E_q
    \left[\frac{\tilde p(\theta)}{p(\theta)}\right]

so that a positive one says that the data prefer the reduced prior. Here p is log-uniform on [a, b]
and q truncated log-normal on [a, b], unit by unit. In :math:`x = \log \theta`, with A = log a and B
= log b, p is 1 / (B - A).

References:
    Karl Friston, Will Penny, "Post hoc Bayesian model selection", NeuroImage 56 (4), 2011; Dustin
    Wright, Christian Igel, Raghavendra Selvan, "BMRS: Bayesian Model Reduction for Structured
    Pruning", 2024, arXiv 2406.01345.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...guides.distributions import TruncatedLogNormal
from ...guides.distributions.truncated_normal import log_density, log_mass

SPIKE_SCALE = 1e-6  # of log theta


def reduced_to_spike(q: TruncatedLogNormal, scale: float = SPIKE_SCALE) -> Tensor:
    r"""The change of log evidence [K] when a unit's prior becomes a spike at a, next to zero.

    The reduced prior is :math:`\text{LogN}_{[a,b]}(A, t^2)` with a tiny t, as in BMRS_N. The
    product of two normals is a normal, :math:`N(x; \mu, \sigma^2) N(x; A, t^2) = N(A; \mu, \sigma^2
    + t^2) N(x; \mu_*, \sigma_*^2)`, hence

    .. math::
        \Delta F = \log (B - A) + \log N(A; \mu, \sigma^2 + t^2)
        + \log \frac{Z_{[A,B]}(\mu_*, \sigma_*)}{Z_{[A,B]}(\mu, \sigma) \, Z_{[A,B]}(A, t)}

    with Z the mass of a normal between A and B. As t goes to 0 this is Savage and Dickey's ratio,
    :math:`\log q_x(A) (B - A)`. A posterior that is the prior has :math:`\Delta F = 0`: of a unit
    that the data say nothing about, this says nothing either.

    Args:
        q: the posterior of the noise.
        scale: t.
    """
    low, high = q.low.log(), q.high.log()
    square, spike = q.scale**2, scale**2
    total = square + spike
    width = q.scale * scale / total.sqrt()
    # Bounds less mu_*, without the difference of two numbers near A.
    lower = (low - q.loc) * spike / total
    upper = lower + (high - low)
    agreement = log_density((low - q.loc) / total.sqrt()) - 0.5 * total.log()
    own = log_mass(torch.zeros_like(low), (high - low) / scale)
    mass = log_mass(lower / width, upper / width) - log_mass(*q.bounds) - own
    return (high - low).log() + agreement + mass


def reduced_to_interval(q: TruncatedLogNormal, bits: float) -> Tensor:
    r"""The change of log evidence [K] when a unit's prior is cut to [a, 2^-bits].

    .. math::
        \Delta F = \log \frac{B - A}{B' - A} + \log Q(x \le B'), \qquad B' = -\text{bits} \log 2

    This is BMRS_U with its reduced log-uniform prior, which ends where a gain is lost in a number
    of so many bits. It is at most :math:`\log \frac{B - A}{B' - A}`, 0.325 nats for 8 bits.

    Args:
        q: the posterior of the noise.
        bits: the reduced prior's upper bound is 2^-bits.
    """
    low, high = q.low.log(), q.high.log()
    end = torch.full_like(low, -bits * math.log(2))
    return ((high - low) / (end - low)).log() + q.log_cdf(end.exp())
