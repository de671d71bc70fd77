"""A trained network as a Pyro model with one Dirichlet importance switch per site."""

from __future__ import annotations

import copy
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .body import SwitchedBody
from .cost import CostTable, build_cost_table, count_macs
from .errors import DirpruneError, unknown_name
from .graph.channels import build_channel_graph
from .graph.selection import select_sites
from .graph.trace import as_tuple, two_examples
from .likelihoods import Likelihood, make_likelihood
from .priors import NetworkPrior, Prior, PriorSpec, check_prior, make_prior
from .reasons import few, group_reasons
from .sites import Site
from .surgery import find_failures

MOST_REASONS = 5  # in an error; large networks have dozens

SCALINGS = ("mean-one", "simplex")
ATTENTION = ("heads", "head-dims")
FLATTEN = ("channels", "features")


class SwitchedNetwork(nn.Module):
    r"""A Pyro model of how much each unit of a trained network matters.

    For every site l with :math:`K_l` units, and examples :math:`i = 1..N`:

    .. math::
        s_l &\sim \text{Dirichlet}(\alpha_l) \\
        g_l &= K_l \, s_l \\
        y_i \mid x_i, s &\sim \text{Likelihood}(f_W(x_i; g_1, \dots, g_L))^\tau

    The weights W are frozen and the network is in eval mode. Gain :math:`g_{lk}` multiplies the
    inputs that the layers reading unit k take from it, so that gain 0 is the unit's removal and the
    uniform switch is the trained network. Everything is conditional on W, which was trained on the
    same data: the posterior says which units *this* network needs.

    The model works with Pyro's own ``SVI``, ``Predictive`` and ``NUTS``::

        model = SwitchedNetwork(network, images[:2], num_data=60_000)
        guide = AutoDirichlet(model)
        svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), guide.elbo())

    Source: Kamil Adamczewski, Mijung Park, "Dirichlet Pruning for Convolutional Neural Networks",
    2021, arXiv 2011.05985 (which uses ``scaling="simplex"`` and :math:`\tau = 1`).

    Args:
        network: the trained network; it is copied, not changed.
        example_inputs: a tensor, or a tuple of the positional inputs; batch first.
        num_data: N, the size of the training set; the likelihood of a batch of B is scaled by N/B.
        example_kwargs: keyword inputs of the network, if it has any. Where one holds a tensor, a
            batch gives all inputs as a mapping by name; a flag stays what it is here.
        output: picks the tensor of logits or means out of what the network returns, where that is
            not a tensor.
        prior: a name of ``PRIORS`` ("symmetric", "alpha/K", "hierarchical", "half-cauchy",
            "weight-norm", "bn-scale"), alone or with its values ("symmetric:0.3"), a number
            (symmetric), or a callable Site -> Distribution on the simplex, which may draw
            hyper-parameters of its own; see :mod:`dirprune.model.priors`.
        likelihood: "categorical", "gaussian" (with learned noise), or a callable outputs ->
            Distribution.
        temperature: tau > 0, the power of the likelihood; 1 is the plain posterior.
        scaling: "mean-one" (g = K s) or "simplex" (g = s).
        include: names of layers or sites to switch, or patterns ("layer3.*"); by default all that
            can be.
        exclude: names or patterns of layers or sites to leave alone.
        attention: what the units of attention are: whole "heads", or "head-dims", the features
            within them, of which all heads of a layer then have fewer. The scale of the scores
            stays that of the full size.
        flatten: what the inputs of a linear layer behind a flattened feature map are: all those of
            a channel one unit, the channel ("channels"), or each a unit of a site of their own
            beside it ("features"), as in Bayesian compression (Christos Louizos, Karen Ullrich, Max
            Welling, "Bayesian Compression for Deep Learning", 2017, arXiv 1705.08665). The gain of
            an input is then that of its channel times its own. A channel takes its features with
            it, and goes with the last of them where nothing else reads it.

    Attributes:
        sites: ordered mapping name -> :class:`~dirprune.model.sites.Site`.
        unprunable: mapping layer name -> why it is left alone.
        hyper_sites: names of the latent sites that are not switches, the prior's hyper-parameters;
            mostly none.

    Raises:
        DirpruneError: a bad argument, or a network that cannot be traced or has nothing to prune.
    """

    _anchor: Tensor

    def __init__(
        self,
        network: nn.Module,
        example_inputs: Tensor | tuple[Any, ...],
        *,
        num_data: int,
        example_kwargs: Mapping[str, Any] | None = None,
        output: Callable[[Any], Tensor] | None = None,
        prior: PriorSpec = "symmetric",
        likelihood: str | Likelihood = "categorical",
        temperature: float = 1.0,
        scaling: str = "mean-one",
        include: Collection[str] | None = None,
        exclude: Collection[str] | None = None,
        attention: str = "heads",
        flatten: str = "channels",
    ) -> None:
        super().__init__()
        if isinstance(num_data, bool) or not isinstance(num_data, int) or num_data < 1:
            raise DirpruneError(f"num_data: expected the number of training images, got {num_data}")
        if not (math.isfinite(temperature) and temperature > 0):
            raise DirpruneError(f"temperature: expected a positive number, got {temperature}")
        if scaling not in SCALINGS:
            raise unknown_name("scaling", scaling, SCALINGS)
        if attention not in ATTENTION:
            raise unknown_name("units of attention", attention, ATTENTION)
        if flatten not in FLATTEN:
            raise unknown_name("units of flattened inputs", flatten, FLATTEN)
        inputs, kwargs = two_examples(as_tuple(example_inputs)), dict(example_kwargs or {})
        kwargs = two_examples(kwargs)
        graph = select_sites(
            build_channel_graph(network, inputs, kwargs, attention=attention, flatten=flatten),
            include,
            exclude,
        )
        graph = graph.without(find_failures(network, graph, inputs, kwargs))
        if not graph.sites:
            raise DirpruneError(
                f"{type(network).__name__} has nothing to prune ({_reasons(graph.unprunable)})"
            )
        self.graph = graph
        self.sites: Mapping[str, Site] = OrderedDict(graph.sites)
        self.unprunable: Mapping[str, str] = dict(graph.unprunable)
        self.num_data, self.temperature, self.scaling = num_data, float(temperature), scaling
        found = make_prior(prior)
        # For :meth:`over`.
        self._given: dict[str, Any] = {"prior": found, "attention": attention, "flatten": flatten}
        self.prior: Prior = found.bind(network, graph) if isinstance(found, NetworkPrior) else found
        self.likelihood = make_likelihood(likelihood)
        self.body = SwitchedBody(graph)
        self.costs: CostTable = build_cost_table(
            network, graph, count_macs(network, inputs, kwargs)
        )
        self._output = output
        self._network = (network,)  # a tuple: the user's module is not a submodule of the model
        self.example_inputs, self.example_kwargs = inputs, kwargs
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)
        self.hyper_sites = check_prior(self.prior, self.sites, self.device)
        if output is not None:
            self._check_output()

    def _check_output(self) -> None:
        """Now, rather than in the first step of SVI."""
        devices = [x.device for x in tree_leaves(self.example) if isinstance(x, Tensor)]
        gains = {name: gain.to(devices[0]) for name, gain in self.unit_gains().items()}
        with torch.no_grad():
            self.outputs_at_gains(self.example, gains)

    def over(self, network: nn.Module, *, exclude: Collection[str] = ()) -> SwitchedNetwork:
        """The same model of a network that was pruned from this one's.

        A prior that reads the network reads the new one. Prior and likelihood are copies, with what
        they have learned, and layers that this model leaves alone are left alone.

        Args:
            network: the pruned one.
            exclude: further sites to leave alone.

        Raises:
            DirpruneError: it has nothing that can be pruned.
        """
        return SwitchedNetwork(
            network, self.example_inputs, num_data=self.num_data,
            example_kwargs=self.example_kwargs, output=self._output, temperature=self.temperature,
            likelihood=copy.deepcopy(self.likelihood), scaling=self.scaling,
            exclude=[*self.unprunable, *exclude], **copy.deepcopy(self._given),
        ).to(self.device)  # fmt: skip

    @property
    def network(self) -> nn.Module:
        """The user's own network, as it was given."""
        return self._network[0]

    @property
    def device(self) -> torch.device:
        """Where the model is; ``model.to(device)`` moves it."""
        return self._anchor.device

    def sample_switches(self) -> dict[str, Tensor]:
        """The model's latent part alone: one ``pyro.sample`` statement per site.

        The prior's hyper-parameters, ``hyper_sites``, are drawn too, each before its switch; the
        switches alone are returned. Guides read the sites from here, so that they need no data and
        no forward pass.
        """
        with torch.device(self.device):
            return {name: pyro.sample(name, self.prior(site)) for name, site in self.sites.items()}

    def forward(self, inputs: Any, targets: Tensor | None = None) -> Tensor:
        """The Pyro model: sample the switches, run the network, observe the targets.

        Args:
            inputs: a tensor [B, ...], a tuple of positional inputs, or a mapping of all inputs by
                name where some of the example inputs are keywords.
            targets: [B, ...]; None samples them (for ``Predictive``).

        Returns:
            The targets, observed or sampled (their log probability is under the site "targets").
        """
        outputs = self.outputs(inputs, self.sample_switches())
        batch = outputs.shape[0]
        if targets is not None and batch > self.num_data:
            raise DirpruneError(
                f"a batch of {batch} examples, but num_data is {self.num_data}: "
                "num_data is the size of the whole training set"
            )
        if targets is not None and targets.shape[:1] != outputs.shape[:1]:
            raise DirpruneError(
                f"{batch} outputs but targets of shape {list(targets.shape)}: expected one target "
                "for each example"
            )
        # Of N also where targets are None, since poutine.condition may observe them. The batch is
        # given, not drawn: plate's own subsampling would permute N indices each step.
        data = pyro.plate("data", self.num_data, subsample=torch.arange(batch, device=self.device))
        with data, poutine.scale(scale=self.temperature):
            return pyro.sample("targets", self.likelihood(outputs), obs=targets)

    @property
    def example(self) -> Any:
        """The example inputs in the form of a batch's inputs."""
        if not self._by_name:
            return self.example_inputs
        names = inspect.signature(self.network.forward).parameters
        return {**dict(zip(names, self.example_inputs, strict=False)), **self.example_kwargs}

    @property
    def _by_name(self) -> bool:
        """Is one of the keyword inputs a tensor, which each batch has to bring?"""
        return any(isinstance(leaf, Tensor) for leaf in tree_leaves(self.example_kwargs))

    def arguments(self, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A batch's inputs as the network's positional and keyword arguments.

        Keywords that hold no tensor (a flag) are those of ``example_kwargs`` in every batch.
        """
        if isinstance(inputs, Mapping) and self._by_name:
            return (), {**self._constants(), **inputs}
        return as_tuple(inputs), self._constants()

    def _constants(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.example_kwargs.items()
            if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(value))
        }

    def outputs(self, inputs: Any, switches: Mapping[str, Tensor]) -> Tensor:
        """The network's outputs [B, ...] under given switches.

        A switch of shape [K] serves the whole batch; [P, K] are P draws, and example i takes draw
        i mod P.
        """
        return self.outputs_at_gains(inputs, self.gains(switches))

    def gains(self, switches: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """g = K s (or s, with ``scaling="simplex"``), as rows [P, K] in the network's precision."""
        dtype = self.body_dtype
        gains = {}
        for name, site in self.sites.items():
            switch = switches[name]
            if switch.dim() not in (1, 2) or switch.shape[-1] != site.size:
                raise DirpruneError(
                    f"switch of site {name!r}: expected shape [{site.size}] or [draws, "
                    f"{site.size}], got {list(switch.shape)}. With Predictive use parallel=False"
                )
            scale = site.size if self.scaling == "mean-one" else 1.0
            gains[name] = (scale * switch).to(dtype).reshape(-1, site.size)
        return gains

    def unit_gains(self) -> dict[str, Tensor]:
        """Gains of one, those of the trained network itself, as rows [1, K]."""
        return {
            name: torch.ones(1, site.size, dtype=self.body_dtype, device=self.device)
            for name, site in self.sites.items()
        }

    def outputs_at_gains(self, inputs: Any, gains: Mapping[str, Tensor]) -> Tensor:
        """The network's outputs at given gains, site -> [P, K]."""
        args, kwargs = self.arguments(inputs)
        return self.picked(self.body(gains, *args, **kwargs))

    def picked(self, out: Any) -> Tensor:
        """The outputs in what the network returns, or one that was pruned from it: ``output=``."""
        if self._output is not None:
            try:
                out = self._output(out)
            except Exception as error:
                raise DirpruneError(
                    f"output= fails on the {type(out).__name__} that {type(self.network).__name__} "
                    f"returns: {type(error).__name__}: {error}. It takes a function, as in "
                    "output=lambda out: out['out']"
                ) from error
        if not isinstance(out, Tensor):
            raise DirpruneError(
                f"{type(self.network).__name__} returns a {type(out).__name__}, not a tensor: "
                "say which part holds the outputs by output=, as in output=lambda out: out['out']"
            )
        return out

    @property
    def body_dtype(self) -> torch.dtype:
        """The precision in which the network runs."""
        for tensor in (*self.body.parameters(), *self.body.buffers()):
            if tensor.is_floating_point():
                return tensor.dtype
        return torch.get_default_dtype()


def _reasons(unprunable: Mapping[str, str]) -> str:
    """Each reason once, with a few of its layers."""
    groups = group_reasons(unprunable)
    told = [f"{few(layers)}: {why}" for why, layers in groups.items()]
    more = len(told) - MOST_REASONS
    told[MOST_REASONS:] = [f"and {more} more reasons"] if more > 0 else []
    return "; ".join(told) or "no layer with units"
