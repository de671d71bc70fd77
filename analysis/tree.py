"""The DataTree's layout: names of groups and variables, and how to read them back.

====================== ======================================== =================================
group                  variables                                dimensions
====================== ======================================== =================================
``posterior``          one per site: draws of the switches      chain (restart), draw, {site}_unit
..                     one per parameter of a hierarchical      chain, draw[, {site}_unit]
                       prior: {site}_concentration
``prior``              the same                                 chain, draw, {site}_unit
``log_prior``          ``switches``: of all of them             chain, draw
``sample_stats``       ``lp``; ``log_q`` of a guide;            chain, draw
                       ``diverging`` of NUTS
``log_likelihood``     ``targets``, untempered                  chain, draw, image
``validation``         of held-out images: ``log_likelihood``;  chain, draw, image
..                     ``targets``; of classes also             image
..                     ``probabilities`` (the posterior's),     image, class
..                     ``network_probabilities`` (its own)
``observed_data``      ``targets``                              image
``concentration``      one per site                             chain, {site}_unit
``evidence``           one per site: the removal cost's draws   chain, draw, {site}_unit
``cost_table``         ``json``                                 (scalar)
====================== ======================================== =================================

Further criteria get groups ``evidence_<criterion>`` of the same form, over units alone where they
have no draws.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ..model.cost import CostTable
from ..model.errors import DirpruneError
from ..model.writing import write_with

PRIMARY = "removal-cost"


def unit_dim(site: str) -> str:
    """The dimension of a site's units."""
    return f"{site}_unit"


def evidence_group(criterion: str) -> str:
    """The group that holds a criterion's scores or draws; options may follow its name."""
    name = criterion.partition(":")[0]
    return "evidence" if name == PRIMARY else f"evidence_{name}"


def stored_criteria(tree: xr.DataTree) -> list[str]:
    """The criteria whose evidence the tree holds, with their options."""
    groups = [n for n in tree.children if n.partition("_")[0] == evidence_group(PRIMARY)]
    return [str(tree[group].attrs.get("criterion", group)) for group in groups]


def site_dataset(values: dict[str, Tensor], dims: tuple[str, ...]) -> xr.Dataset:
    """One variable per site over ``dims`` and the site's units, with integer coordinates."""
    data = {
        site: xr.DataArray(value.detach().cpu().numpy(), dims=(*dims, unit_dim(site)))
        for site, value in values.items()
    }
    dataset = xr.Dataset(data)
    return dataset.assign_coords({dim: np.arange(size) for dim, size in dataset.sizes.items()})


def hyper_dataset(values: dict[str, Tensor], sites: dict[str, int]) -> xr.Dataset:
    """Parameters of priors, name -> [chain, draw, ...], over a site's units where it has one each.

    A parameter's name begins with its site's.
    """
    data = {}
    for name, value in values.items():
        shape = tuple(value.shape[2:])
        owner = max((site for site in sites if name.startswith(site)), key=len, default="")
        dims = tuple(f"{name}_dim_{i}" for i in range(len(shape)))
        if shape == (sites.get(owner),):
            dims = (unit_dim(owner),)
        data[name] = xr.DataArray(value.detach().cpu().numpy(), dims=("chain", "draw", *dims))
    dataset = xr.Dataset(data)
    return dataset.assign_coords({dim: np.arange(size) for dim, size in dataset.sizes.items()})


def switches(tree: xr.DataTree, group: str = "posterior") -> dict[str, NDArray[np.float64]]:
    """The draws of the switches, site -> [chain, draw, K], without the parameters of priors.

    Raises:
        DirpruneError: no such group, or one that does not hold switches.
    """
    found = {}
    for name, values in _need(tree, group).items():
        site = str(name)
        if not _is_switch(tree, site):
            continue
        if unit_dim(site) not in values.sizes:
            raise DirpruneError(
                f"the DataTree's {group} of {site!r} has the dimensions "
                f"{', '.join(map(str, values.dims))} and none of units: expected a tree made by "
                "dirprune.posterior"
            )
        ordered = values.transpose("chain", "draw", unit_dim(site))
        found[site] = ordered.values.astype(np.float64)
    return found


def _is_switch(tree: xr.DataTree, name: str) -> bool:
    """Is a variable a switch? The sites are in the tree's attributes, if ``posterior`` made it."""
    known = tree.attrs.get("sites")
    return known is None or name in json.loads(known)


def _group(tree: xr.DataTree, name: str) -> xr.Dataset | None:
    return tree[name].to_dataset() if name in tree.children else None


def _need(tree: xr.DataTree, name: str) -> xr.Dataset:
    found = _group(tree, name)
    if found is None:
        raise DirpruneError(
            f"the DataTree has no group {name!r} (it has {', '.join(tree.children) or 'none'}): "
            "expected one made by dirprune.posterior"
        )
    return found


def site_sizes(tree: xr.DataTree) -> dict[str, int]:
    """Site name -> number of units."""
    return {site: draws.shape[-1] for site, draws in switches(tree).items()}


def concentrations(tree: xr.DataTree) -> dict[str, Tensor]:
    """Site -> [chain, K]."""
    group = _need(tree, "concentration")
    return {str(site): torch.from_numpy(a.values.copy()) for site, a in group.items()}


def evidence_draws(tree: xr.DataTree, criterion: str) -> dict[str, Tensor] | None:
    """Site -> [chain x draw, K] of a stored criterion, None where it is not stored."""
    group = _group(tree, evidence_group(criterion))
    if group is None:
        return None
    return {
        str(site): torch.from_numpy(a.values.reshape(-1, a.shape[-1]).copy())
        for site, a in group.items()
    }


def cost_table(tree: xr.DataTree) -> CostTable:
    """The cost table that the tree carries."""
    group = _need(tree, "cost_table")
    try:
        return CostTable.from_dict(json.loads(str(group["json"].values)))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DirpruneError(f"the DataTree's cost table is damaged: {error}") from error


def save_tree(tree: xr.DataTree, path: str | Path) -> None:
    """Write as NetCDF (compressed), whole or not at all."""
    encoding: dict[str, Any] = {
        group.path: {
            str(name): {"zlib": True, "complevel": 1}
            for name, a in group.data_vars.items()
            if a.dtype.kind in "fi" and a.ndim
        }
        for group in tree.subtree
    }
    write_with(Path(path), lambda p: tree.to_netcdf(p, engine="h5netcdf", encoding=encoding))


def load_tree(path: str | Path) -> xr.DataTree:
    """Read a ``posterior.nc`` into memory.

    Raises:
        DirpruneError: no such file, or not a NetCDF file.
    """
    try:
        with xr.open_datatree(path, engine="h5netcdf", phony_dims="sort") as tree:
            # Node by node: DataTree.load leaves a variable behind that is named as a group is.
            return xr.DataTree.from_dict(
                {node.path: node.to_dataset(inherit=False).load() for node in tree.subtree}
            )
    except FileNotFoundError as error:
        raise DirpruneError(f"{path}: no such file") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DirpruneError(f"{path} is not a NetCDF file, or is damaged: {error}") from error
