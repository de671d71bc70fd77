"""The mean-field log-normal guide, for what is positive: the parameters of priors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.nn.module import PyroParam
from torch import Tensor
from torch.distributions import Gamma, LogNormal, constraints
from torch.distributions.kl import register_kl

from .base import SwitchGuide
from .checks import check_levels, check_positive


class AutoLogNormal(SwitchGuide):
    r"""Mean-field log-normal guide for sites on the half-line.

    .. math::
        q(\alpha) = \prod_i \text{LogNormal}(\alpha_i; \mu_i, \sigma_i), \qquad
        \log \alpha_i \sim N(\mu_i, \sigma_i^2)

    For the hyper-priors of switches (a Gamma or half-Cauchy on their concentration), beside a guide
    of the switches in an ``AutoGuideList``. Sites of any shape; each element has a posterior of its
    own. A site is sampled from the log-normal itself, not from a Delta, hence either ELBO is right;
    the KL to a Gamma prior is closed-form, and so are moments and quantiles.

    Args:
        model: a Pyro model whose latent sites are on the half-line.
        init_scale: the initial sigma. mu starts at the log of the prior's mean or, where that is
            infinite (half-Cauchy), at 0.
        **kwargs: ``create_plates`` and ``prototype_args``, as the base class has them.
    """

    support = constraints.positive
    support_name = "on the half-line"

    def __init__(
        self, model: Callable[..., Any], *, init_scale: float = 0.3, **kwargs: Any
    ) -> None:
        check_positive("init_scale", init_scale)
        super().__init__(model, init_scale=init_scale, **kwargs)

    @staticmethod
    def elbo(**kwargs: Any) -> TraceMeanField_ELBO:
        """The ELBO that takes the KL to a Gamma in closed form, and samples that to others."""
        return TraceMeanField_ELBO(**kwargs)

    def parameters_of(self, mean: Tensor) -> dict[str, PyroParam]:
        start = torch.where(mean.isfinite(), mean, 1)
        loc = start.clamp(min=torch.finfo(mean.dtype).tiny).log()
        scale = torch.full_like(mean, self.initial["init_scale"])
        return {
            "loc": PyroParam(loc, constraints.real),
            "scale": PyroParam(scale, constraints.positive),
        }

    def distribution(self, loc: Tensor, scale: Tensor) -> dist.LogNormal:  # type: ignore[override]
        return dist.LogNormal(loc, scale)

    def quantiles(
        self, q: Sequence[float] | Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        r"""Quantiles :math:`\exp(\mu + \sigma \Phi^{-1}(q))`, exactly.

        Args:
            q: probabilities in [0, 1].
            *args: ignored, as in Pyro's guides.
            **kwargs: ignored, as in Pyro's guides.

        Returns:
            site -> [len(q), ...].
        """
        levels = check_levels(q)

        def of(loc: Tensor, scale: Tensor) -> Tensor:
            z = torch.special.ndtri(levels.to(loc)).reshape(-1, *[1] * loc.dim())
            return (loc + scale * z).exp()

        return self._each(of)

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        r"""The medians, :math:`e^\mu`.

        Args:
            *args: ignored, as in Pyro's guides.
            **kwargs: ignored, as in Pyro's guides.
        """
        return self.marginal_median()


@register_kl(LogNormal, Gamma)
def _kl_log_normal_gamma(p: LogNormal, q: Gamma) -> Tensor:
    # -H(p) - E_p[log q], with E[log x] = loc and E[x] the mean.
    entropy = p.loc + p.scale.log() + 0.5 * (1 + math.log(2 * math.pi))
    expected = torch.xlogy(q.concentration, q.rate) - torch.lgamma(q.concentration)
    expected = expected + (q.concentration - 1) * p.loc - q.rate * p.mean
    return -entropy - expected
