"""Close-ups as a file, from which the report is made again without network and images.

================== =========================================== ===========================
group              variables                                   dimensions
================== =========================================== ===========================
``loss``           one per site: the rise of a class's loss    class, {site}_unit
``accuracy``       the same: the fall of its accuracy          class, {site}_unit
``joint``          ``loss``, ``accuracy`` of the decision as   class
..                 a whole; ``images`` of the class            class
``pictures``       ``pixels``, from 0 to 1                     image, channel, y, x
``maps``           one per site                                image, {site}_unit,
..                                                             {site}_y, {site}_x
================== =========================================== ===========================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import xarray as xr
from torch import Tensor

from ...inference.data import ImageData
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..class_effects import ClassEffects
from ..plots import SiteView, first_and_last, site_views
from ..plots.feature_maps import EACH
from ..tree import load_tree, save_tree, site_dataset, unit_dim
from .closeups import EACH_END, Closeups, make_closeups

CLOSEUPS = "closeups.nc"
SAME = ("created_at", "seed")  # of the posterior that they belong to


def write_closeups(
    folder: Path,
    model: SwitchedNetwork,
    tree: xr.DataTree,
    decision: Decision,
    criterion: str,
    data: ImageData,
) -> None:
    """Look at single units of a run, and keep what there is to see for its report.

    Args:
        folder: of the run; ``closeups.nc`` is written there.
        model: the switched network.
        tree: its posterior.
        decision: the units that stay.
        criterion: what was decided by, which ranks the units.
        data: has the validation images.
    """
    found = make_closeups(model, site_views(tree, decision, criterion), decision, data)
    kept = as_tree(found)
    kept.attrs = {key: tree.attrs[key] for key in SAME}
    save_tree(kept, folder / CLOSEUPS)


def as_tree(found: Closeups) -> xr.DataTree:
    """The groups of the table above."""
    effects = found.effects
    assert effects.joint_loss is not None  # there is a decision
    assert effects.joint_accuracy is not None
    units = {unit_dim(site): u.numpy() for site, u in effects.units.items()}
    names = {"class": list(effects.class_names)}
    joint = {"loss": effects.joint_loss, "accuracy": effects.joint_accuracy}
    maps = xr.Dataset()
    for site, (shown, values) in found.maps.items():
        dims = ("image", unit_dim(site), f"{site}_y", f"{site}_x")
        maps[site] = xr.DataArray(values.numpy(), dims=dims, coords={unit_dim(site): shown})
    return xr.DataTree.from_dict(
        {
            **{
                group: site_dataset(_turned(values), ("class",)).assign_coords(names | units)
                for group, values in (("loss", effects.loss), ("accuracy", effects.accuracy))
            },
            "joint": xr.Dataset(
                {
                    name: ("class", values.numpy())
                    for name, values in (joint | {"images": effects.images}).items()
                },
                coords=names,
            ),
            "pictures": xr.Dataset(
                {"pixels": (("image", "channel", "y", "x"), found.pictures.numpy())}
            ),
            "maps": maps,
        }
    )


def read_closeups(
    folder: Path, tree: xr.DataTree, views: Mapping[str, SiteView]
) -> Closeups | None:
    """What :func:`write_closeups` left beside a posterior; None where it left nothing.

    Raises:
        DirpruneError: the file is damaged, or belongs to another posterior or ranking.
    """
    path = folder / CLOSEUPS
    if not path.exists():
        return None
    stored = load_tree(path)
    if any(stored.attrs.get(key) != tree.attrs.get(key) for key in SAME):
        raise DirpruneError(
            f"{path} is of another run than posterior.nc: remove it, and the report leaves its "
            "pictures out"
        )
    try:
        found = from_tree(stored)
        fits = all(
            sorted(units) == sorted(first_and_last(views[site], each))
            for shown, each in _shown(found)
            for site, units in shown.items()
        )
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise DirpruneError(f"{path} is damaged ({type(error).__name__}: {error})") from error
    if not fits:
        raise DirpruneError(
            f"{path} shows other units than those that metrics.json and posterior.nc rank first "
            "and last: remove it, and the report leaves its pictures out"
        )
    return found


def _shown(found: Closeups) -> list[tuple[dict[str, list[int]], int]]:
    """Site -> units of either kind of picture, and how many there are from each end."""
    effects = {site: units.tolist() for site, units in found.effects.units.items()}
    return [(effects, EACH_END), ({site: units for site, (units, _) in found.maps.items()}, EACH)]


def from_tree(stored: xr.DataTree) -> Closeups:
    """The close-ups that :func:`as_tree` put there."""
    loss, accuracy = (stored[group].to_dataset() for group in ("loss", "accuracy"))
    joint, maps, pictures = (stored[group].to_dataset() for group in ("joint", "maps", "pictures"))
    effects = ClassEffects(
        {str(site): _tensor(a[unit_dim(str(site))]) for site, a in loss.items()},
        _turned({str(site): _tensor(a) for site, a in loss.items()}),
        _turned({str(site): _tensor(a) for site, a in accuracy.items()}),
        _tensor(joint["loss"]),
        _tensor(joint["accuracy"]),
        _tensor(joint["images"]),
        tuple(map(str, joint["class"].values)),
    )
    shown = {
        str(site): (a[unit_dim(str(site))].values.astype(int).tolist(), _tensor(a))
        for site, a in maps.items()
    }
    return Closeups(effects, _tensor(pictures["pixels"]), shown)


def _turned(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {site: v.T for site, v in values.items()}


def _tensor(values: xr.DataArray) -> Tensor:
    return torch.from_numpy(values.values.copy())
