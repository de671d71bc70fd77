"""Pyro's own guides on the same model, by name.

They work in unconstrained space and bring each value to the simplex by stick breaking. All start at
the centre of the simplex, the trained network, and not at draws from the prior.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuide,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoNormal,
    init_to_feasible,
)

from .checks import check_count, check_positive
from .naming import unique_name
from .sites import latent_part

Model = Callable[..., Any]


def delta(model: Model) -> AutoGuide:
    """Pyro's AutoDelta: the mode of the density on the simplex, a point without uncertainty."""
    return _ready(model, AutoDelta(latent_part(model), init_loc_fn=init_to_feasible))


def normal(model: Model, *, init_scale: float = 0.1) -> AutoGuide:
    """Pyro's AutoNormal: independent normals in stick-breaking coordinates."""
    check_positive("init_scale", init_scale)
    guide = AutoNormal(latent_part(model), init_loc_fn=init_to_feasible, init_scale=init_scale)
    return _ready(model, guide)


def low_rank_normal(model: Model, *, rank: int | None = None, init_scale: float = 0.1) -> AutoGuide:
    """Pyro's AutoLowRankMultivariateNormal: one normal over all stick-breaking coordinates.

    ``rank`` is at most their number; None takes the square root of it.
    """
    check_positive("init_scale", init_scale)
    if rank is not None:
        check_count("rank", rank)
    guide = AutoLowRankMultivariateNormal(
        latent_part(model), init_loc_fn=init_to_feasible, init_scale=init_scale, rank=rank
    )
    _ready(model, guide)
    if rank is not None and rank > guide.latent_dim:
        raise ValueError(
            f"rank={rank} is more than the {guide.latent_dim} stick-breaking coordinates of all "
            f"sites together. Expected at most {guide.latent_dim}"
        )
    return guide


def iaf_normal(
    model: Model, *, num_transforms: int = 1, hidden_dim: int | None = None
) -> AutoGuide:
    """Pyro's AutoIAFNormal: inverse autoregressive flows over all stick-breaking coordinates.

    ``hidden_dim`` is at least the number of these coordinates; None takes Pyro's choice, three
    times and one more.
    """
    check_count("num_transforms", num_transforms)
    hidden = None if hidden_dim is None else [check_count("hidden_dim", hidden_dim)]
    return _ready(
        model, AutoIAFNormal(latent_part(model), hidden_dim=hidden, num_transforms=num_transforms)
    )


def _ready(model: Any, guide: AutoGuide) -> AutoGuide:
    """Make the parameters now, so that optimisers see them, in float64 and where the model is."""
    # Pyro calls every AutoNormal "AutoNormal": in its store the second would be the first.
    guide._pyro_set_supermodule(unique_name(guide._pyro_name), guide._pyro_context)
    if hasattr(model, "sample_switches"):
        with (
            pyro.get_param_store().scope(),
            poutine.block(),
            torch.no_grad(),
            torch.random.fork_rng([model.device] if model.device.type == "cuda" else []),
        ):
            guide()
            guide.to(model.device, torch.float64)  # flows are made in float32, on the CPU
    return guide
