"""The base class of our guides; its docstring says how to write another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.nn.module import PyroParam
from pyro.ops.tensor_utils import periodic_repeat
from torch import Tensor
from torch.distributions import constraints

from .checks import check_levels
from .naming import NamedGuide
from .sites import attribute, has_support, prior_mean

# Where a moment or a quantile has no closed form it is that of so many draws under a fixed seed:
# a mean's standard error is 1 % of the posterior's sd.
DRAWS = 10_000


class SwitchGuide(NamedGuide):
    r"""A guide whose sites are on the simplex: what all of ours share.

    **How to write another.** A mean-field guide :math:`q(s) = \prod_l q(s_l)` says which parameters
    a site has, and which distribution they make::

        import torch
        from pyro.nn.module import PyroParam
        from torch.distributions import constraints

        from dirprune import SwitchGuide
        from dirprune.guides.distributions import LogisticNormal


        class AutoLogisticNormal(SwitchGuide):
            def __init__(self, model, *, init_scale=0.1, **kwargs):
                super().__init__(model, init_scale=init_scale, **kwargs)

            def parameters_of(self, mean):  # [..., K], the prior's mean, where learning begins
                scale = torch.full_like(mean, self.initial["init_scale"])
                return {
                    "loc": PyroParam(mean.log(), event_dim=1),
                    "scale": PyroParam(scale, constraints.positive, event_dim=1),
                }

            def distribution(self, loc, scale):
                return LogisticNormal(loc, scale)  # on the simplex; rsample and log_prob

    ``dirprune.fit(model, AutoLogisticNormal, loader)`` learns it as it stands; a line in ``GUIDES``
    (``families.py``) gives it a name in ``fit`` and on the command line. Its constructor's
    keywords with a number or None for a default become the options of that name. Moments and
    quantiles come from ``distribution(...).mean`` and ``.variance``, or from draws where these are
    not implemented; override :meth:`quantiles` where there is a closed form. A distribution of your
    own is a ``pyro.distributions.TorchDistribution`` with ``expand`` too. Densities are with
    respect to Lebesgue measure on the first K - 1 coordinates, as torch's Dirichlet has it. A guide
    that is not mean-field overrides :meth:`forward` as well: see ``low_rank.py``.

    Which ELBO: ``TraceMeanField_ELBO`` takes the KL in closed form where torch knows one, and is
    right for every guide whose sites are sampled from a proper distribution. For a ``Delta`` with a
    ``log_density``, as Pyro's continuous guides have, it drops the Jacobian, and only
    ``Trace_ELBO`` is right: override :meth:`elbo` then. A line in
    ``tests/guides/test_conformance.py`` puts a new guide through what all keep.

    **What it gives.** Parameters are made at once where the model has ``sample_switches`` (a
    ``SwitchedNetwork``) or ``prototype_args`` are given, so that a ``state_dict`` loads and
    optimisers see them without a forward pass; any other model's are made at the first call. Each
    guide, copies and loaded ones included, has a name of its own in Pyro's parameter store, so no
    guide inherits another's values. A copy shares the model; a saved guide goes without it (unless
    it has not seen its sites yet), and still samples, trains and answers. Plates, subsampling,
    ``AutoGuideList`` and ``poutine.block`` work as with Pyro's guides.

    Args:
        model: a Pyro model whose latent sites are on the simplex.
        create_plates: as in Pyro's ``AutoGuide``.
        prototype_args: arguments to run the model with, once, to find its sites.
        **initial: what a subclass's :meth:`parameters_of` reads from ``self.initial``.

    Raises:
        ValueError: a latent site that is not on the simplex, or none at all.
    """

    prototype_trace: Any
    # What the sites' values must be, and what that is called in errors.
    support: constraints.Constraint = constraints.simplex
    support_name = "on the simplex"

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        create_plates: Callable[..., Any] | None = None,
        prototype_args: Sequence[Any] | None = None,
        **initial: Any,
    ) -> None:
        super().__init__(model, create_plates=create_plates)
        self._rename(self._pyro_name)
        self.initial = initial
        if prototype_args is not None:
            self._setup_prototype(*prototype_args)
        elif hasattr(model, "sample_switches"):
            self._setup_prototype()

    # -- what a subclass says ----------------------------------------------------------------------

    def parameters_of(self, mean: Tensor) -> dict[str, PyroParam]:
        """The initial parameters, by name, of a site whose prior has this mean [..., K]."""
        raise NotImplementedError

    def distribution(self, **parameters: Tensor) -> dist.TorchDistribution:
        """The posterior of a site under these parameters, with the event dimension of one site."""
        raise NotImplementedError

    @staticmethod
    def elbo(**kwargs: Any) -> Trace_ELBO:
        """The ELBO that is right for this guide: see the class on when another is."""
        return TraceMeanField_ELBO(**kwargs)

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
            self._check_sites(sites)
        except BaseException:
            self.prototype_trace = None  # the next call tries again
            raise
        finally:
            self._model = model
        # Keep of the prototype what is read later, not the user's data: it is saved with the guide.
        self.prototype_trace = poutine.Trace()
        means = {}
        for name, site in sites.items():
            mean, event_dim = prior_mean(site), site["fn"].event_dim
            self.prototype_trace.add_node(
                name,
                name=name,
                type="sample",
                is_observed=False,
                fn=dist.Delta(mean, event_dim=event_dim),
                value=mean,
                cond_indep_stack=site["cond_indep_stack"],
            )
            for frame in site["cond_indep_stack"]:
                full_size = frame.full_size or frame.size
                if full_size != frame.size:  # subsampled: parameters cover the whole plate
                    mean = periodic_repeat(mean, full_size, frame.dim - event_dim).contiguous()
            means[name] = mean
        self._make_parameters(means)

    def _make_parameters(self, means: dict[str, Tensor]) -> None:
        """Set the parameters of all sites; a guide with parameters across sites overrides it."""
        for name, mean in means.items():
            # A site whose rows are an event, not a plate, has them beyond what the subclass counts.
            rows = self.prototype_trace.nodes[name]["fn"].event_dim - self.support.event_dim
            found = self.parameters_of(mean)
            for key, parameter in found.items():
                event_dim = rows + (parameter.event_dim or 0)
                setattr(self, attribute(key, name), parameter._replace(event_dim=event_dim))
            self._keys = tuple(found)

    def _check_sites(self, sites: dict[str, Any]) -> None:
        others = [n for n, site in sites.items() if not has_support(site["fn"], self.support)]
        kind = type(self).__name__
        if others:
            found = "; ".join(
                f"'{name}' is a {type(sites[name]['fn']).__name__} with support "
                f"{sites[name]['fn'].support}"
                for name in others
            )
            raise ValueError(
                f"{kind} fits sites {self.support_name} only, but {found}. Enumerate it if it is "
                "discrete, or give it a guide of its own by AutoGuideList, and in both cases use "
                f"{kind}(poutine.block(model, hide={others}))"
            )
        if not sites:
            raise ValueError(f"{kind} found no latent site in the model")

    def _values(self, name: str) -> dict[str, Tensor]:
        return {key: getattr(self, attribute(key, name)) for key in self._keys}

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
                fn = self.distribution(**self._values(name))
                result[name] = pyro.sample(name, fn.to_event(site["fn"].event_dim - fn.event_dim))
        return result

    # -- what the posterior looks like -------------------------------------------------------------

    def _each(self, function: Callable[..., Tensor]) -> dict[str, Tensor]:
        """``function`` of every site's parameters, given by name."""
        self._need_parameters()
        # In the context, as in a call: what the parameter store holds, if it was loaded, counts.
        with torch.no_grad(), poutine.block(), self._pyro_context:
            return {
                name: function(**{k: v.detach() for k, v in self._values(name).items()})
                for name, _ in self.prototype_trace.iter_stochastic_nodes()
            }

    def _need_parameters(self) -> None:
        if self.prototype_trace is None:
            raise RuntimeError(
                f"{type(self).__name__} has no parameters yet: call it once on the model's "
                "arguments, or give prototype_args="
            )

    def _draws(self, **parameters: Tensor) -> Tensor:
        """[DRAWS, ..., K] under a fixed seed; the caller's generators are left as they were."""
        fn = self.distribution(**parameters)
        device = next(iter(parameters.values())).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(0)
            return fn.sample(torch.Size([DRAWS]))

    def _moment(self, moment: str, **parameters: Tensor) -> Tensor:
        try:
            value: Tensor = getattr(self.distribution(**parameters), moment)
        except NotImplementedError:
            draws = self._draws(**parameters)
            value = draws.mean(0) if moment == "mean" else draws.var(0)
        return value

    def mean(self) -> dict[str, Tensor]:
        """:math:`E[s_k]`, site -> [..., K]."""
        return self._each(lambda **parameters: self._moment("mean", **parameters))

    def variance(self) -> dict[str, Tensor]:
        """:math:`V[s_k]`, site -> [..., K]."""
        return self._each(lambda **parameters: self._moment("variance", **parameters))

    def quantiles(
        self, q: Sequence[float] | Tensor, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Quantiles of the marginals of each component.

        Args:
            q: probabilities in [0, 1].
            *args: ignored, as in Pyro's guides.
            **kwargs: ignored, as in Pyro's guides.

        Returns:
            site -> [len(q), ..., K].
        """
        levels = check_levels(q)

        def of(**parameters: Tensor) -> Tensor:
            draws = self._draws(**parameters)
            return torch.quantile(draws, levels.to(draws), dim=0)

        return self._each(of)

    def marginal_median(self) -> dict[str, Tensor]:
        """The vector of marginal medians. It is *not* on the simplex: see :meth:`median`."""
        return {name: value[0] for name, value in self.quantiles([0.5]).items()}

    def median(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The marginal medians divided by their sum: a point that is on the simplex.

        (Where a site is so concentrated on few units that every marginal median underflows, the
        mean.)

        Args:
            *args: ignored, as in Pyro's guides.
            **kwargs: ignored, as in Pyro's guides.
        """
        means = self.mean()

        def of(name: str, medians: Tensor) -> Tensor:
            # scipy gives 0, or the least normal number, for what underflows.
            some = medians.amax(-1, keepdim=True) > torch.finfo(medians.dtype).tiny
            point = torch.where(some, medians, means[name])
            return point / point.sum(-1, keepdim=True)

        return {name: of(name, value) for name, value in self.marginal_median().items()}
