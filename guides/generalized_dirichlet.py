"""The mean-field generalized Dirichlet guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.infer import TraceMeanField_ELBO
from pyro.nn.module import PyroParam
from torch import Tensor
from torch.distributions import constraints

from .base import SwitchGuide
from .checks import check_positive
from .dirichlet import MIN_TOTAL
from .distributions import GeneralizedDirichlet


class AutoGeneralizedDirichlet(SwitchGuide):
    r"""Mean-field generalized Dirichlet guide, the stick-breaking one.

    .. math::
        q(s) = \prod_l \text{GeneralizedDirichlet}(s_l; a_l, b_l), \qquad
        s_k = z_k \prod_{j<k} (1 - z_j), \quad z_k \sim \text{Beta}(a_k, b_k)

    It contains :class:`AutoDirichlet`, where it starts, and has almost twice its parameters: each
    unit has a mean *and* a spread of its own, where a Dirichlet spreads all units of a layer by one
    number. Within a layer, the family depends on the order of the units. The KL to a Dirichlet
    prior is a sum of KLs of Betas, in closed form; so are mean, variance and covariance.

    Each concentration of a Beta is at least 0.01, so that their sum is at least the 0.02 below
    which torch's gradients are wrong (see ``dirichlet.py``).

    Args:
        model: a Pyro model whose latent sites are on the simplex.
        init_concentration: the guide starts as the Dirichlet whose concentrations have the ratios
            of the prior's mean and sum to K times this.
        **kwargs: ``create_plates`` and ``prototype_args``, as the base class has them.

    References:
        Robert J. Connor, James E. Mosimann, "Concepts of Independence for Proportions with a
        Generalization of the Dirichlet Distribution", Journal of the American Statistical
        Association 64 (325), 1969.
    """

    def __init__(
        self, model: Callable[..., Any], *, init_concentration: float = 10.0, **kwargs: Any
    ) -> None:
        check_positive("init_concentration", init_concentration)
        super().__init__(model, init_concentration=init_concentration, **kwargs)

    @staticmethod
    def elbo(**kwargs: Any) -> TraceMeanField_ELBO:
        """The ELBO that takes the KL to a Dirichlet prior in closed form."""
        return TraceMeanField_ELBO(**kwargs)

    def parameters_of(self, mean: Tensor) -> dict[str, PyroParam]:
        floor = MIN_TOTAL / 2
        a = self.initial["init_concentration"] * mean.shape[-1] * mean
        rest = a[..., 1:].flip(-1).cumsum(-1).flip(-1)
        return {
            name: PyroParam(value.clamp(min=1.1 * floor), constraints.greater_than(floor), 1)
            for name, value in (("concentration1", a[..., :-1]), ("concentration0", rest))
        }

    def distribution(  # type: ignore[override]
        self, concentration1: Tensor, concentration0: Tensor
    ) -> GeneralizedDirichlet:
        return GeneralizedDirichlet(concentration1, concentration0)

    def covariance(self) -> dict[str, Tensor]:
        """:math:`C[s_j, s_k]`, in closed form, site -> [..., K, K]."""
        return self._each(lambda **betas: self.distribution(**betas).covariance_matrix)
