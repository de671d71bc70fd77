"""The posterior as an ArviZ DataTree."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import torch
import xarray as xr

from ..inference.fit import Fit
from ..inference.loop import Loader
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .evidence import (
    COST_DRAWS,
    COST_IMAGES,
    DRAWS,
    fit_concentrations,
    removal_cost,
    store_evidence,
)
from .evidence.removal_cost import cost_evidence
from .evidence.stored import learning_passes
from .evidence.switches import (
    chosen_stats,
    draw_switches,
    each_restart,
    fixed_images,
    log_likelihood,
    log_prior,
    prior_draws,
)
from .tree import hyper_dataset, site_dataset

PACKAGES = ("dirprune", "torch", "torchvision", "pyro-ppl", "arviz", "numpy", "xarray")


def posterior(
    model: SwitchedNetwork,
    fit: Fit,
    loader: Loader,
    *,
    draws: int = DRAWS,
    images: int = 250,
    cost_draws: int = COST_DRAWS,
    cost_images: int = COST_IMAGES,
    seed: int = 0,
) -> xr.DataTree:
    """Draw from the fitted guides and gather all that ArviZ and the decisions read.

    The layout is that of :mod:`.tree`. ``lp`` is log p(s) + tau N/n sum_i log p(y_i | x_i, s) over
    the n images (an estimate of the model's own tempered density, up to a constant), ``log_q`` the
    guide's density (NUTS has none); ``log_likelihood`` is untempered and covers the same images,
    which are training images: what LOO makes of it is in-sample with respect to the weights.

    Args:
        model: the switched network.
        fit: from :func:`~dirprune.inference.fit.fit`, whose restarts become chains, or from
            :func:`~dirprune.inference.sample.sample`.
        loader: training images.
        draws: posterior and prior draws per chain; of NUTS, at most as many as there are.
        images: n, training images for the log likelihood. With too few, ``lp`` is a poor estimate
            of the density over all N, and k-hat and power-scaling blame the guide for it.
        cost_draws: posterior draws per chain for the removal cost.
        cost_images: training images for the removal cost.
        seed: of the draws and of the choice of images.

    Returns:
        An ``xarray.DataTree``; ``tree.to_netcdf`` or :func:`.tree.save_tree` writes it.
    """
    for name, value in {
        "draws": draws,
        "images": images,
        "cost_draws": cost_draws,
        "cost_images": cost_images,
    }.items():
        if value < 2:
            raise DirpruneError(f"{name}: expected at least 2, got {value}")
    drawn = draw_switches(model, fit, draws, seed)
    chains = len(fit.guides) or len(fit.draws)
    flat = {name: value.flatten(0, 1) for name, value in drawn.latent.items()}
    inputs, targets = fixed_images(model, loader, images, seed)
    likelihood = torch.cat(
        each_restart(
            model, fit, drawn.switches, lambda s: log_likelihood(model, s, inputs, targets)
        )
    )
    scale = model.num_data / likelihood.shape[1]
    prior_density = log_prior(model, flat)
    lp = prior_density + model.temperature * scale * likelihood.sum(1)
    few = {site: s[:, :cost_draws] for site, s in drawn.switches.items()}
    cost_inputs = fixed_images(model, loader, cost_images, seed)
    costs = each_restart(model, fit, few, lambda s: removal_cost(model, s, *cost_inputs))

    def by_chain(value: torch.Tensor) -> torch.Tensor:
        return value.reshape(chains, -1, *value.shape[1:])

    def plain(values: dict[str, torch.Tensor], dims: tuple[str, ...]) -> xr.Dataset:
        data = {name: (dims, v.cpu().numpy()) for name, v in values.items()}
        dataset = xr.Dataset(data)
        return dataset.assign_coords({d: np.arange(n) for d, n in dataset.sizes.items()})

    def latent(values: Mapping[str, torch.Tensor]) -> xr.Dataset:
        sizes = {name: site.size for name, site in model.sites.items()}
        found = site_dataset({n: values[n] for n in model.sites}, ("chain", "draw"))
        hyper = hyper_dataset({n: values[n] for n in model.hyper_sites}, sizes)
        return found.merge(hyper) if hyper else found

    stats = {"lp": by_chain(lp)}
    if drawn.log_q is not None:
        stats["log_q"] = drawn.log_q
    if fit.stats:
        stats |= chosen_stats(fit, lp.shape[0] // chains)
    prior = prior_draws(model, draws, seed)
    groups = {
        "posterior": latent(drawn.latent),
        "prior": latent({name: value[None] for name, value in prior.items()}),
        "log_prior": plain({"switches": by_chain(prior_density)}, ("chain", "draw")),
        "sample_stats": plain(stats, ("chain", "draw")),
        "log_likelihood": plain({"targets": by_chain(likelihood)}, ("chain", "draw", "image")),
        "observed_data": plain(
            {"targets": targets}, ("image",) + ("target",) * (targets.dim() - 1)
        ),
        "cost_table": xr.Dataset({"json": json.dumps(model.costs.to_dict())}),
    }
    if concentrations := fit_concentrations(fit):
        groups["concentration"] = site_dataset(concentrations, ("chain",))
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "settings": json.dumps(fit.settings),
        "sites": json.dumps({n: [s.producers, s.consumers] for n, s in model.sites.items()}),
        "unprunable": json.dumps(dict(model.unprunable)),
        "lp_images": likelihood.shape[1],
        "num_data": model.num_data,
        "temperature": model.temperature,
        **{f"version_{name}": number for name, number in package_versions().items()},
    }
    if fit.examples is not None:
        tree.attrs["examples"] = fit.examples
    found = cost_evidence({n: torch.cat([c[n] for c in costs]) for n in few}, cost_inputs[1])
    found.learning = learning_passes(fit)
    store_evidence(tree, found)
    if fit.stats:  # of all draws, those that were not taken too
        tree.attrs["divergences"] = sum(int(chain["diverging"].sum()) for chain in fit.stats)
    return tree


def package_versions() -> dict[str, str]:
    """The versions of dirprune and of what it stands on."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # run from a tree that is not installed
        return "unknown"
