"""The log-normal between two bounds."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import broadcast_all

from .truncated_log_uniform import TruncatedLogUniform
from .truncated_normal import entropy, log_density, log_mass, quantile

# Nodes of the variance's quadrature, over all of the density that is within exp(-80) of its mode:
# 12 standard deviations to each side, which 96 nodes integrate to rounding.
_NODES, _REACH = 96, 160.0


class TruncatedLogNormal(TorchDistribution):
    r"""A log-normal that is cut off below a and above b.

    .. math::
        \text{LogN}_{[a,b]}(\theta; \mu, \sigma^2) = \frac{1}{Z \sigma \theta}
        \phi\left(\frac{\log \theta - \mu}{\sigma}\right), \qquad
        Z = \Phi(\beta) - \Phi(\alpha), \quad
        \alpha = \frac{\log a - \mu}{\sigma}, \quad \beta = \frac{\log b - \mu}{\sigma}

    Its mean, :math:`e^{\mu + \sigma^2/2} (\Phi(\beta - \sigma) - \Phi(\alpha - \sigma)) / Z`, its
    quantiles and its KL to a :class:`TruncatedLogUniform` are closed-form, here in logarithms of
    normal masses, so that :math:`\mu` may lie outside of the bounds. Draws are quantiles of uniform
    numbers, and are differentiable. The variance has a closed form too, a difference of two squares
    that has no digits left where the distribution is narrow: it is a sum over Gauss-Legendre nodes
    instead, without gradient.

    In float64 all of it holds for :math:`\sigma` from 1e-3 to 100 with :math:`\mu` anywhere within
    the bounds or a few units of log beside them; float32 has too few digits for a narrow one.

    Args:
        loc: mu, [...].
        scale: sigma, [...].
        low: a > 0.
        high: b > a.

    References:
        Kirill Neklyudov, Dmitry Molchanov, Arsenii Ashukha, Dmitry Vetrov, "Structured Bayesian
        Pruning via Log-Normal Multiplicative Noise", 2017, arXiv 1705.07283.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
        "low": constraints.positive,
        "high": constraints.positive,
    }
    has_rsample = True

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: Tensor | float,
        high: Tensor | float,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.loc, self.scale, self.low, self.high = broadcast_all(loc, scale, low, high)
        super().__init__(self.loc.shape, validate_args=validate_args)
        if self._validate_args and not bool((self.low < self.high).all()):
            raise ValueError("TruncatedLogNormal: low must be less than high")

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedLogNormal:
        new = self._get_checked_instance(TruncatedLogNormal, _instance)
        # The parameters broadcast: special functions of them are computed once, not for each copy.
        for name in ("loc", "scale", "low", "high"):
            setattr(new, name, getattr(self, name))
        super(TruncatedLogNormal, new).__init__(Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """alpha and beta, the bounds in standard deviations from mu."""
        return self._standard(self.low), self._standard(self.high)

    def _standard(self, value: Tensor) -> Tensor:
        return (value.log() - self.loc) / self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        density = log_density(self._standard(value)) - log_mass(*self.bounds)
        return density - self.scale.log() - value.log()

    def cdf(self, value: Tensor) -> Tensor:
        return self.log_cdf(value).exp()

    def log_cdf(self, value: Tensor) -> Tensor:
        """log P(theta <= value); minus infinity at a."""
        alpha, beta = self.bounds
        return log_mass(alpha, self._standard(value)) - log_mass(alpha, beta)

    def icdf(self, value: Tensor) -> Tensor:
        theta = (self.loc + self.scale * quantile(*self.bounds, value)).exp()
        # exp(log a) may be off a by a rounding.
        return torch.minimum(torch.maximum(theta, self.low), self.high)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self.icdf(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))

    def log_entropy(self) -> Tensor:
        r"""The entropy of :math:`\log \theta`, a truncated normal."""
        return (self.scale.log() + entropy(*self.bounds)).expand(self.batch_shape)

    @property
    def mean(self) -> Tensor:
        alpha, beta = self.bounds
        shifted = log_mass(alpha - self.scale, beta - self.scale)
        mean = (self.loc + 0.5 * self.scale**2 + shifted - log_mass(alpha, beta)).exp()
        return mean.expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        low, high = self.low.log(), self.high.log()
        mode = torch.minimum(torch.maximum(self.loc, low), high)
        # (x - mu)^2 = (mode - mu)^2 + reach sigma^2, from the mode: without cancellation.
        off = (mode - self.loc).abs()
        wide = math.sqrt(_REACH) * self.scale
        away = torch.where(off > 0, wide**2 / (off + (off**2 + wide**2).sqrt()), wide)
        start, end = torch.maximum(mode - away, low), torch.minimum(mode + away, high)
        nodes, weights = (
            torch.from_numpy(x).to(self.loc) for x in np.polynomial.legendre.leggauss(_NODES)
        )
        step = 0.5 * (end - start).unsqueeze(-1) * (nodes + 1)
        x = start.unsqueeze(-1) + step
        towards = (x - mode.unsqueeze(-1)) * (x + (mode - 2 * self.loc).unsqueeze(-1))
        p = weights * (-0.5 * towards / self.scale.unsqueeze(-1) ** 2).exp()
        p = p / p.sum(-1, keepdim=True)
        centre = (p * x.exp()).sum(-1, keepdim=True)
        return (p * (x.exp() - centre) ** 2).sum(-1).expand(self.batch_shape)

    @property
    def signal_to_noise(self) -> Tensor:
        r""":math:`E\theta / \sqrt{V\theta}`; 1/3 for a flat log theta on [-20, 0]."""
        return self.mean / self.variance.sqrt()


@register_kl(TruncatedLogNormal, TruncatedLogUniform)
def _kl_log_uniform(p: TruncatedLogNormal, q: TruncatedLogUniform) -> Tensor:
    # Both are densities of log theta, q's a constant; infinite where p has mass outside of q.
    kl = q.log_width - p.log_entropy()
    return torch.where((p.low >= q.low) & (p.high <= q.high), kl, math.inf)
