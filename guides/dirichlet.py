"""The mean-field Dirichlet guide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.nn.module import PyroParam
from scipy import special
from torch import Tensor
from torch.distributions import constraints

from .base import SwitchGuide
from .checks import check_levels, check_positive

# The least sum of a site's concentrations; the floor of each of its K is 1/K of it. torch's
# gradients of E[f(s)], f smooth, go wrong by the sum, not by the single concentration, in float32
# as in float64. Relative error at sums .01, .005, .002 and K = 2: none (.4 %), 2 %, 22 %; K = 10:
# none (.6 %), 6 %, 56 % (Dirichlet(a, ..., a), f = sum s^2). With a sum of .02 or more, single
# concentrations of 5e-6 do no harm. The floor bounds the guide, never the prior.
MIN_TOTAL = 0.02


class AutoDirichlet(SwitchGuide):
    r"""Mean-field Dirichlet guide: :math:`q(s) = \prod_l \text{Dirichlet}(s_l; \phi_l)`.

    Pyro has no such guide, and its usual stand-in, ``AutoNormal``, is wrong at a simplex site under
    ``TraceMeanField_ELBO``, which drops the ``log_density`` of a Delta. Here the KL to a Dirichlet
    prior is closed-form, and so are the guide's moments and marginals.

    Works on any Pyro model whose latent sites are on the simplex, with plates and subsampling,
    alone or in an ``AutoGuideList``. Pair it with :meth:`elbo`::

        guide = AutoDirichlet(model)
        svi = SVI(model, guide, Adam({"lr": 0.05}), guide.elbo())

    The base class says when parameters are made, and what copies and saved guides keep.

    Args:
        model: a Pyro model.
        init_concentration: the sum of the initial concentrations of a site is K times this; their
            ratios are those of the prior's mean. By default 10.
        create_plates: as in Pyro's ``AutoGuide``.
        prototype_args: arguments to run the model with, once, to find its sites.

    References:
        Michael Figurnov, Shakir Mohamed, Andriy Mnih, "Implicit Reparameterization Gradients",
        2018, arXiv 1805.08498 (how draws are differentiated).
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_concentration: float = 10.0,
        create_plates: Callable[..., Any] | None = None,
        prototype_args: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(
            model,
            create_plates=create_plates,
            prototype_args=prototype_args,
            init_concentration=check_positive("init_concentration", init_concentration),
        )

    @staticmethod
    def elbo(**kwargs: Any) -> TraceMeanField_ELBO:
        """The ELBO that is right for this guide: the KL to a Dirichlet prior in closed form.

        (``Trace_ELBO`` estimates the KL from log s, whose gradients are wrong at concentrations
        below 0.01, and below 0.1 in float32, where draws underflow.)
        """
        return TraceMeanField_ELBO(**kwargs)

    def parameters_of(self, mean: Tensor) -> dict[str, PyroParam]:
        floor = MIN_TOTAL / mean.shape[-1]
        initial = self.initial["init_concentration"] * mean.shape[-1] * mean
        initial = initial.clamp(min=1.1 * floor)
        return {"concentration": PyroParam(initial, constraints.greater_than(floor), event_dim=1)}

    def distribution(self, concentration: Tensor) -> dist.Dirichlet:  # type: ignore[override]
        return dist.Dirichlet(concentration)

    # -- what the posterior looks like, in closed form ---------------------------------------------

    def concentration(self) -> dict[str, Tensor]:
        r"""The concentrations :math:`\phi`, site -> [..., K]."""
        return self._each(lambda concentration: concentration)

    def mean(self) -> dict[str, Tensor]:
        r""":math:`E[s_k] = \phi_k / \Phi`, with :math:`\Phi = \sum_k \phi_k`."""
        return super().mean()

    def variance(self) -> dict[str, Tensor]:
        r""":math:`V[s_k] = m_k (1 - m_k) / (\Phi + 1)` with :math:`m = \phi / \Phi`."""
        return super().variance()

    def covariance(self) -> dict[str, Tensor]:
        r""":math:`C[s_j, s_k] = (\delta_{jk} m_j - m_j m_k) / (\Phi + 1)`, site -> [..., K, K]."""

        def of(concentration: Tensor) -> Tensor:
            total = concentration.sum(-1, keepdim=True)
            m = concentration / total
            outer = m.unsqueeze(-1) * m.unsqueeze(-2)
            return (torch.diag_embed(m) - outer) / (total + 1).unsqueeze(-1)

        return self._each(of)

    def quantiles(
        self, q: Sequence[float] | Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        r"""Marginal quantiles: :math:`s_k \sim \text{Beta}(\phi_k, \Phi - \phi_k)`, exactly.

        Args:
            q: probabilities in [0, 1].
            *args: ignored, as in Pyro's guides.
            **kwargs: ignored, as in Pyro's guides.

        Returns:
            site -> [len(q), ..., K].
        """
        levels = check_levels(q)
        return self._each(
            lambda concentration: _beta_quantiles(concentration, levels).to(concentration)
        )


def _beta_quantiles(phi: Tensor, levels: Tensor) -> Tensor:
    """Quantiles [len(levels), ..., K] of each component, in float64 on the CPU."""
    a = phi.cpu().double().numpy()
    b = a.sum(-1, keepdims=True) - a
    p = levels.double().numpy().reshape(-1, *[1] * a.ndim)
    # b = 0: a site of one component, which is 1.
    return torch.as_tensor(np.where(b > 0, special.betaincinv(a, b, p), 1.0))
