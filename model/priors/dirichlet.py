"""The Dirichlet of all priors here: torch's, with draws that are right at any concentration."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class Dirichlet(dist.Dirichlet):
    r"""Dirichlet(:math:`\alpha`), drawn through log-Gammas.

    .. math::
        \log G_k = \log G'_k + \frac{\log U_k}{\alpha_k}, \quad
        G'_k \sim \text{Gamma}(\alpha_k + 1), \; U_k \sim \text{Uniform}(0, 1), \quad
        s = \text{softmax}(\log G)

    torch divides Gammas by their sum. Where all K of them underflow it gives equal shares: at
    concentrations (.001, .001) in float64 no unit holds 95 % of the mass in 24 % of its draws,
    where 0.3 % is right. Only draws differ; density, moments and KL are torch's. Components that
    underflow are set to the smallest normal number, as torch sets them, so that the density of a
    draw is finite.

    Source: Luc Devroye, "Non-Uniform Random Variate Generation", 1986, chapter IX.3 (no arXiv id).

    Args:
        concentration: :math:`\alpha`, positive [..., K].
    """

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws [*sample_shape, ..., K], differentiable in the concentration."""
        alpha = self.concentration.expand(self._extended_shape(torch.Size(sample_shape)))
        uniform = 1 - torch.rand_like(alpha)  # in (0, 1]
        log_gamma = torch._standard_gamma(alpha + 1).log() + uniform.log() / alpha
        return log_gamma.softmax(-1).clamp(min=torch.finfo(alpha.dtype).tiny)
