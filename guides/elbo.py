"""Which ELBO is right for which guide, and the pair that is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList
from torch import nn

from ..model.errors import DirpruneError


def elbo_for(guide: Any) -> Trace_ELBO:
    """The ELBO that is right for a guide.

    A guide that names its own (``guide.elbo()``) gets that one. Pyro's guides get ``Trace_ELBO``,
    and so does an ``AutoGuideList`` of which one part needs it: it is right for all, but estimates
    what ``TraceMeanField_ELBO`` has in closed form.
    """
    if isinstance(guide, AutoGuideList):
        kinds = {type(elbo_for(part)) for part in guide}
        return kinds.pop()() if len(kinds) == 1 else Trace_ELBO()
    return guide.elbo() if hasattr(guide, "elbo") else Trace_ELBO()


def check_elbo(elbo: Trace_ELBO, guide: Callable[..., Any], *args: Any) -> None:
    r"""Refuse ``TraceMeanField_ELBO`` for a guide with the Jacobian in a Delta.

    Pyro's continuous guides sample z in unconstrained space and put
    :math:`\log |\partial z / \partial s|` into the ``log_density`` of a Delta at the constrained
    site. ``TraceMeanField_ELBO`` asks torch for KL(Delta || prior), which Pyro answers without that
    density (pyro-ppl 1.9.2), and so learns another posterior.

    Args:
        elbo: what is to be maximised.
        guide: the guide; it is run once.
        *args: the guide's arguments.

    Raises:
        DirpruneError: the pair is wrong.
    """
    if not isinstance(elbo, TraceMeanField_ELBO):
        return
    parameters = guide.parameters() if isinstance(guide, nn.Module) else ()
    devices = {p.device for p in parameters if p.is_cuda}
    with (
        pyro.get_param_store().scope(),
        torch.random.fork_rng(list(devices)),
        torch.no_grad(),
        poutine.block(),
    ):
        trace = poutine.trace(guide).get_trace(*args)
    for name, site in trace.nodes.items():
        fn = site.get("fn")
        while isinstance(fn, dist.Independent | dist.MaskedDistribution):
            fn = fn.base_dist
        if isinstance(fn, dist.Delta) and bool((fn.log_density != 0).any()):
            raise DirpruneError(
                f"{type(guide).__name__} with {type(elbo).__name__}: at the site {name!r} the "
                "guide is a Delta with a log_density (a Jacobian), which this ELBO drops, and so "
                "converges to another posterior. Use Trace_ELBO, or leave elbo= out"
            )
