"""The logistic-normal guide with a low-rank covariance across all sites."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro.nn.module import PyroParam
from torch import Tensor
from torch.distributions import constraints

from ..model.errors import unknown_name
from .base import SwitchGuide
from .checks import check_count, check_positive
from .distributions import LowRankLogisticNormal

DEFAULT_RANK = 10


class AutoLowRankLogisticNormal(SwitchGuide):
    r"""One logistic normal over *all* sites, with a factor covariance.

    .. math::
        s_l = \text{softmax}(\eta_l), \qquad
        (\eta_1, \dots, \eta_L) \sim N(\mu, S (I + F F^\top) S), \quad S = \text{diag}(\sigma)

    with F of a small rank, so that units of different layers may vary together: where one layer's
    gain makes up for another's, mean-field guides see neither, and call both certain.
    :meth:`covariance` and :meth:`correlation` say which units trade off.

    It draws one auxiliary site from the joint distribution (see
    :class:`~dirprune.guides.distributions.LowRankLogisticNormal`), whose density counts, and sets
    each switch to its part of the draw by a Delta whose log density is zero. With no Jacobian in a
    Delta either ELBO is right.

    A row of a plate counts as a site of its own. The joint has no sub-samples: a plate that
    sub-samples a switch is refused.

    Args:
        model: a Pyro model whose latent sites are on the simplex.
        rank: the columns of F; at most as many as there are units, or 10.
        init_scale: the initial standard deviation of :math:`\eta`, about: half of its variance is
            the diagonal's, half that of a random F (F = 0 is a saddle point, where learning would
            not begin). mu starts at the log of the prior's mean.
        **kwargs: ``create_plates`` and ``prototype_args``, as the base class has them.

    References:
        Victor M.-H. Ong, David J. Nott, Michael S. Smith, "Gaussian variational approximation with
        a factor covariance structure", 2018, arXiv 1701.03208; J. Aitchison, S. M. Shen,
        "Logistic-normal distributions: Some properties and uses", Biometrika 67 (2), 1980.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        rank: int = DEFAULT_RANK,
        init_scale: float = 0.3,
        **kwargs: Any,
    ) -> None:
        check_count("rank", rank)
        check_positive("init_scale", init_scale)
        super().__init__(model, rank=rank, init_scale=init_scale, **kwargs)

    @staticmethod
    def elbo(**kwargs: Any) -> TraceMeanField_ELBO:
        """``TraceMeanField_ELBO``, as right as ``Trace_ELBO`` here.

        The switches' part has no closed form, and both sample it; but other sites in the same
        ``AutoGuideList`` (hyper-priors) may have one, which only this ELBO takes.
        """
        return TraceMeanField_ELBO(**kwargs)

    def parameters_of(self, mean: Tensor) -> dict[str, PyroParam]:
        rank = self.initial["rank"]
        loc = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
        scale = torch.full_like(mean, self.initial["init_scale"] * 0.5**0.5)
        factor = mean.new_empty(*mean.shape, rank).normal_() / rank**0.5
        return {
            "loc": PyroParam(loc, constraints.real, 1),
            "scale": PyroParam(scale, constraints.positive, 1),
            "factor": PyroParam(factor, constraints.real, 2),
        }

    def _check_sites(self, sites: dict[str, Any]) -> None:
        super()._check_sites(sites)
        rank, units = self.initial["rank"], sum(site["value"].numel() for site in sites.values())
        # The default serves smaller models too: columns to spare are no fault of the user's.
        if rank > max(units, DEFAULT_RANK):
            raise ValueError(
                f"rank={rank} is more than the {units} units of all sites together: a covariance "
                f"of {units} numbers has no higher rank. Expected at most {units}"
            )
        for name, site in sites.items():
            for frame in site["cond_indep_stack"]:
                if frame.full_size and frame.full_size != frame.size:
                    raise ValueError(
                        f"AutoLowRankLogisticNormal draws all sites at once, but the plate "
                        f"'{frame.name}' sub-samples {frame.size} of {frame.full_size} rows of "
                        f"'{name}'. Take the whole plate, or AutoLogisticNormal"
                    )

    def distribution(  # type: ignore[override]
        self, loc: Tensor, scale: Tensor, factor: Tensor
    ) -> LowRankLogisticNormal:
        """The marginal of one site: a joint of one simplex."""
        return LowRankLogisticNormal(loc, scale.unsqueeze(-1) * factor, scale, loc.shape[-1:])

    def joint(self) -> LowRankLogisticNormal:
        """The distribution of all sites, in the model's order, each flattened: [D]."""
        self._need_parameters()
        loc, scale, factor, sizes = [], [], [], []
        for name, _ in self.prototype_trace.iter_stochastic_nodes():
            values = self._values(name)
            size = values["loc"].shape[-1]
            sizes += [size] * (values["loc"].numel() // size)
            loc.append(values["loc"].reshape(-1))
            scale.append(values["scale"].reshape(-1))
            factor.append(values["factor"].flatten(0, -2))
        s = torch.cat(scale)
        return LowRankLogisticNormal(torch.cat(loc), s.unsqueeze(-1) * torch.cat(factor), s, sizes)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every site; arguments as the model's.

        Returns:
            A dict mapping sample site name to sampled value.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        sites = dict(self.prototype_trace.iter_stochastic_nodes())
        infer: Any = {"is_auxiliary": True}
        joint = pyro.sample(f"_{self._pyro_name}_joint", self.joint(), infer=infer)
        result = {}
        parts = joint.split([site["value"].numel() for site in sites.values()], -1)
        for (name, site), part in zip(sites.items(), parts, strict=True):
            event_dim = site["fn"].event_dim
            # Plates around the guide (draws, particles) come before the site's own.
            outer = joint.shape[:-1] + (1,) * event_dim
            value = part.reshape(torch.broadcast_shapes(site["value"].shape, outer))
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                result[name] = pyro.sample(name, dist.Delta(value, event_dim=event_dim))
        return result

    # -- which units trade off ---------------------------------------------------------------------

    def covariance(self, site: str, other: str) -> Tensor:
        r"""Covariance of the centred log-ratios of the units of two sites (or twice the same).

        With :math:`\text{clr}(s_l) = \log s_l - \overline{\log s_l} = \eta_l - \bar\eta_l`, it is
        :math:`P_l \Sigma_{lm} P_m` in closed form, where :math:`P` takes off the mean over a site's
        units. (That of the switches themselves has no closed form.)

        Returns:
            [K, K'], or [..., K, ..., K'] for sites in plates.
        """
        return self._between(site, other, standardise=False)

    def correlation(self, site: str, other: str) -> Tensor:
        """Correlation of the centred log-ratios of the units of two sites: see :meth:`covariance`.

        (nan for a site of one unit, which does not vary.)

        Returns:
            [K, K'], or [..., K, ..., K'] for sites in plates.
        """
        return self._between(site, other, standardise=True)

    def _between(self, site: str, other: str, standardise: bool) -> Tensor:
        self._need_parameters()
        shapes = {n: s["value"].shape for n, s in self.prototype_trace.iter_stochastic_nodes()}
        for name in (site, other):
            if name not in shapes:
                raise unknown_name("site", name, shapes)
        # In the context, as in a call: what the parameter store holds, if it was loaded, counts.
        with torch.no_grad(), poutine.block(), self._pyro_context:
            one, two = self._loadings(site), self._loadings(other)
        if standardise:
            one = one / one.norm(dim=-1, keepdim=True)
            two = two / two.norm(dim=-1, keepdim=True)
        common = None if site == other else self.initial["rank"]
        return (one[:, :common] @ two[:, :common].T).reshape(shapes[site] + shapes[other])

    def _loadings(self, site: str) -> Tensor:
        """The centred log-ratios on the common factors z, then on the site's own noise: [n, R + n].

        n is the number of the site's units, those of all rows.
        """
        values = self._values(site)
        scale = values["scale"]
        own = torch.diag(scale.reshape(-1)).reshape(*scale.shape, -1)
        loadings = torch.cat([scale.unsqueeze(-1) * values["factor"], own], -1)
        return (loadings - loadings.mean(-2, keepdim=True)).flatten(0, -2)
