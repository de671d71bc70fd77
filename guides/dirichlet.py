"""The mean-field Dirichlet guide."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuide
from pyro.nn.module import PyroParam
from pyro.ops.tensor_utils import periodic_repeat
from scipy import special
from torch import Tensor
from torch.distributions import constraints

# The least sum of a site's concentrations; the floor of each of its K is 1/K of it. torch's
# gradients of E[f(s)], f smooth, go wrong by the sum, not by the single concentration, in float32
# as in float64. Relative error at sums .01, .005, .002 and K = 2: none (.4 %), 2 %, 22 %; K = 10:
# none (.6 %), 6 %, 56 % (Dirichlet(a, ..., a), f = sum s^2). With a sum of .02 or more, single
# concentrations of 5e-6 do no harm. The floor bounds the guide, never the prior.
MIN_TOTAL = 0.02

_serial = itertools.count()


class AutoDirichlet(AutoGuide):
    r"""Mean-field Dirichlet guide: :math:`q(s) = \prod_l \text{Dirichlet}(s_l; \phi_l)`.

    Pyro has no such guide, and its usual stand-in, ``AutoNormal``, is wrong at a simplex site under
    ``TraceMeanField_ELBO``, which drops the ``log_density`` of a Delta. Here the KL to a Dirichlet
    prior is closed-form, and so are the guide's moments and marginals.

    Works on any Pyro model whose latent sites are on the simplex, with plates and subsampling,
    alone or in an ``AutoGuideList``. Pair it with :meth:`elbo`::

        guide = AutoDirichlet(model)
        svi = SVI(model, guide, Adam({"lr": 0.05}), guide.elbo())

    Parameters are made at once where the model has ``sample_switches`` (a ``SwitchedNetwork``) or
    ``prototype_args`` are given, so that a ``state_dict`` loads and optimisers see them without a
    forward pass. Any other model's are made at the first call.

    Each guide, copies and loaded ones included, has a name of its own in Pyro's parameter store, so
    no guide inherits another's values. A copy shares the model; a saved guide goes without it
    (unless it has not seen its sites yet), and still samples, trains and answers.

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

    prototype_trace: Any

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        init_concentration: float = 10.0,
        create_plates: Callable[..., Any] | None = None,
        prototype_args: Sequence[Any] | None = None,
    ) -> None:
        if not (math.isfinite(init_concentration) and init_concentration > 0):
            raise ValueError(f"Expected init_concentration > 0, but got {init_concentration}")
        super().__init__(model, create_plates=create_plates)
        self._rename(self._pyro_name)
        self._init_concentration = init_concentration
        if prototype_args is not None:
            self._setup_prototype(*prototype_args)
        elif hasattr(model, "sample_switches"):
            self._setup_prototype()

    @staticmethod
    def elbo(**kwargs: Any) -> TraceMeanField_ELBO:
        """The ELBO that is right for this guide: the KL to a Dirichlet prior in closed form.

        (``Trace_ELBO`` estimates the KL from log s, whose gradients are wrong at concentrations
        below 0.01, and below 0.1 in float32, where draws underflow.)
        """
        return TraceMeanField_ELBO(**kwargs)

    # -- names and copies --------------------------------------------------------------------------

    def _rename(self, name: str) -> None:
        self._pyro_name = f"{name.partition('$')[0]}${next(_serial)}"

    def _pyro_set_supermodule(self, name: str, context: Any) -> None:
        super()._pyro_set_supermodule(name, context)
        self._rename(name)  # the first part of every AutoGuideList has the same one

    def __getstate__(self) -> dict[str, Any]:
        # Pyro's version takes the model from the live guide.
        state = self.__dict__.copy()
        state.pop("plates", None)  # made anew by each call
        state["master"] = None
        if self.prototype_trace is not None:
            state["_model"] = (None,)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rename(self._pyro_name)

    def __deepcopy__(self, memo: dict[int, Any]) -> AutoDirichlet:
        shared = {
            "_model": (memo.get(id(self.model), self.model),),
            "prototype_trace": self.prototype_trace,
            "create_plates": self.create_plates,
        }
        state = {k: v for k, v in self.__getstate__().items() if k not in shared}
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(state, memo) | shared)
        return new

    # -- parameters --------------------------------------------------------------------------------

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        model = self._model
        if hasattr(self.model, "sample_switches"):
            # The latent part is all that a guide reads: no forward pass through the network.
            self._model = (self.model.sample_switches,)
            args, kwargs = (), {}
        try:
            super()._setup_prototype(*args, **kwargs)
            sites = dict(self.prototype_trace.iter_stochastic_nodes())
            _check_sites(sites)
        except BaseException:
            self.prototype_trace = None  # the next call tries again
            raise
        finally:
            self._model = model
        # Keep of the prototype what is read later, not the user's data: it is saved with the guide.
        self.prototype_trace = poutine.Trace()
        for name, site in sites.items():
            mean, event_dim = _prior_mean(site), site["fn"].event_dim
            self.prototype_trace.add_node(
                name,
                name=name,
                type="sample",
                is_observed=False,
                fn=dist.Dirichlet(torch.ones_like(mean)).to_event(event_dim - 1),
                value=mean,
                cond_indep_stack=site["cond_indep_stack"],
            )
            for frame in site["cond_indep_stack"]:
                full_size = frame.full_size or frame.size
                if full_size != frame.size:  # subsampled: parameters cover the whole plate
                    mean = periodic_repeat(mean, full_size, frame.dim - event_dim).contiguous()
            floor = MIN_TOTAL / mean.shape[-1]
            initial = (self._init_concentration * mean.shape[-1] * mean).clamp(min=1.1 * floor)
            constraint = constraints.greater_than(floor)
            setattr(self, _attribute(name), PyroParam(initial, constraint, event_dim))

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample every site; arguments as the model's.

        Returns:
            A dict mapping sample site name to sampled value.
        """
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        result = {}
        for name, site in self.prototype_trace.iter_stochastic_nodes():
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                fn = dist.Dirichlet(getattr(self, _attribute(name)))
                result[name] = pyro.sample(name, fn.to_event(site["fn"].event_dim - 1))
        return result

    # -- what the posterior looks like, in closed form ---------------------------------------------

    def _each(self, function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        if self.prototype_trace is None:
            raise RuntimeError(
                "AutoDirichlet has no parameters yet: call it once on the model's arguments, or "
                "give prototype_args="
            )
        # In the context, as in a call: what the parameter store holds, if it was loaded, counts.
        with torch.no_grad(), poutine.block(), self._pyro_context:
            return {
                name: function(getattr(self, _attribute(name)).detach())
                for name, _ in self.prototype_trace.iter_stochastic_nodes()
            }

    def concentration(self) -> dict[str, Tensor]:
        r"""The concentrations :math:`\phi`, site -> [..., K]."""
        return self._each(lambda phi: phi)

    def mean(self) -> dict[str, Tensor]:
        r""":math:`E[s_k] = \phi_k / \Phi`, with :math:`\Phi = \sum_k \phi_k`."""
        return self._each(lambda phi: phi / phi.sum(-1, keepdim=True))

    def variance(self) -> dict[str, Tensor]:
        r""":math:`V[s_k] = m_k (1 - m_k) / (\Phi + 1)` with :math:`m = \phi / \Phi`."""
        return self._each(lambda phi: torch.distributions.Dirichlet(phi).variance)

    def covariance(self) -> dict[str, Tensor]:
        r""":math:`C[s_j, s_k] = (\delta_{jk} m_j - m_j m_k) / (\Phi + 1)`, site -> [..., K, K]."""

        def of(phi: Tensor) -> Tensor:
            total = phi.sum(-1, keepdim=True)
            m = phi / total
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
        levels = torch.as_tensor(q, dtype=torch.float64).cpu()
        if levels.dim() != 1 or not bool(((levels >= 0) & (levels <= 1)).all()):
            raise ValueError(f"quantiles: expected a list of probabilities in [0, 1], got {q}")
        return self._each(lambda phi: _beta_quantiles(phi, levels).to(phi))

    def marginal_median(self) -> dict[str, Tensor]:
        """The vector of marginal medians. It is *not* on the simplex: see :meth:`median`."""
        return {name: value[0] for name, value in self.quantiles([0.5]).items()}

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The marginal medians divided by their sum: a point that is on the simplex.

        (Where concentrations are so small that every marginal median underflows, the mean.)

        Args:
            *args: ignored, as in Pyro's guides.
            **kwargs: ignored, as in Pyro's guides.
        """

        def of(phi: Tensor) -> Tensor:
            medians = _beta_quantiles(phi, torch.tensor([0.5]))[0]
            # scipy gives 0, or the least normal number, for what underflows.
            some = medians.amax(-1, keepdim=True) > 1e-300
            point = torch.where(some, medians, phi.cpu().double())
            return (point / point.sum(-1, keepdim=True)).to(phi)

        return self._each(of)


def _attribute(site_name: str) -> str:
    """The attribute that holds a site's parameter: never one of a module's own, never nested."""
    return f"concentration/{site_name.replace('.', '/')}"


def _check_sites(sites: dict[str, Any]) -> None:
    others = []
    for name, site in sites.items():
        support = site["fn"].support
        while isinstance(support, constraints.independent):
            support = support.base_constraint
        if support is not constraints.simplex:
            others.append(name)
    if others:
        found = "; ".join(
            f"'{name}' is a {type(sites[name]['fn']).__name__} with support "
            f"{sites[name]['fn'].support}"
            for name in others
        )
        raise ValueError(
            f"AutoDirichlet fits sites on the simplex only, but {found}. Enumerate it if it is "
            "discrete, or give it a guide of its own by AutoGuideList, and in both cases use "
            f"AutoDirichlet(poutine.block(model, hide={others}))"
        )
    if not sites:
        raise ValueError("AutoDirichlet found no latent site in the model")


def _prior_mean(site: Any) -> Tensor:
    """Where to start: the prior's mean or, where that is not implemented, the simplex's centre."""
    try:
        mean = site["fn"].mean
    except NotImplementedError:
        mean = torch.full_like(site["value"], 1 / site["value"].shape[-1])
    return mean.detach().expand(site["fn"].shape()).clone()


def _beta_quantiles(phi: Tensor, levels: Tensor) -> Tensor:
    """Quantiles [len(levels), ..., K] of each component, in float64 on the CPU."""
    a = phi.cpu().double().numpy()
    b = a.sum(-1, keepdims=True) - a
    p = levels.double().numpy().reshape(-1, *[1] * a.ndim)
    # b = 0: a site of one component, which is 1.
    return torch.as_tensor(np.where(b > 0, special.betaincinv(a, b, p), 1.0))
