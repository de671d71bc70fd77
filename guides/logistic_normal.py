"""The mean-field logistic-normal guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.nn.module import PyroParam
from torch import Tensor
from torch.distributions import constraints

from .base import SwitchGuide
from .checks import check_positive
from .distributions import LogisticNormal


class AutoLogisticNormal(SwitchGuide):
    r"""Mean-field logistic-normal guide.

    .. math::
        q(s) = \prod_l \text{LogisticNormal}(s_l; \mu_l, \sigma_l), \qquad
        s_l = \text{softmax}(\eta_l), \quad \eta_{lk} \sim N(\mu_{lk}, \sigma_{lk}^2)

    Each unit has a mean and a spread of its own, and the family does not depend on the order of the
    units. A site is sampled from a proper distribution on the simplex, with no Delta, hence either
    ELBO is right. Moments and quantiles come from draws.

    Args:
        model: a Pyro model whose latent sites are on the simplex.
        init_scale: the initial sigma: the relative spread of a switch. By default as wide as
            :class:`AutoDirichlet` starts, whose concentrations are 10 (:math:`10^{-1/2}`). mu
            starts at the log of the prior's mean.
        **kwargs: ``create_plates`` and ``prototype_args``, as the base class has them.

    References:
        J. Aitchison, S. M. Shen, "Logistic-normal distributions: Some properties and uses",
        Biometrika 67 (2), 1980.
    """

    def __init__(
        self, model: Callable[..., Any], *, init_scale: float = 0.3, **kwargs: Any
    ) -> None:
        check_positive("init_scale", init_scale)
        super().__init__(model, init_scale=init_scale, **kwargs)

    @staticmethod
    def elbo(**kwargs: Any) -> TraceMeanField_ELBO:
        """``TraceMeanField_ELBO``, as right as ``Trace_ELBO`` here.

        The KL to a Dirichlet has no closed form, and both sample it; but other sites in the same
        ``AutoGuideList`` (hyper-priors) may have one, which only this ELBO takes.
        """
        return TraceMeanField_ELBO(**kwargs)

    def parameters_of(self, mean: Tensor) -> dict[str, PyroParam]:
        loc = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
        scale = torch.full_like(mean, self.initial["init_scale"])
        return {
            "loc": PyroParam(loc, constraints.real, 1),
            "scale": PyroParam(scale, constraints.positive, 1),
        }

    def distribution(self, loc: Tensor, scale: Tensor) -> LogisticNormal:  # type: ignore[override]
        return LogisticNormal(loc, scale)
