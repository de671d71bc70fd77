"""Read a run's folder, or say which file is at fault."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from ...model.decision import Decision
from ...model.errors import DirpruneError
from ..plots import SiteView, site_views
from ..tree import load_tree
from .closeups import Closeups
from .closeups_file import read_closeups

# What the report cannot do without.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    "network": str,
    "data": str,
    "budget": dict,
    "evidence": str,
    "accuracy": dict,
    "macs": dict,
    "params": dict,
    "sites": list,
    "seed": (int, list, str),
}


@dataclass(frozen=True)
class Run:
    """The files of a run: its folder, metrics, decision, histories, posterior, and all sites.

    ``closeups`` is None where the folder has none, as one of an earlier version.
    """

    path: Path
    metrics: dict[str, Any]
    decision: Decision
    history: dict[str, Any]
    tree: xr.DataTree
    views: dict[str, SiteView]
    closeups: Closeups | None


def read_run(path: Path) -> Run:
    """Everything a report is made from.

    Raises:
        DirpruneError: a file is missing, damaged, or of another run than the others.
    """
    if not path.is_dir():
        raise DirpruneError(f"{path}: no such folder; expected one that dirprune run has written")
    metrics = _read_json(path / "metrics.json")
    for key, kind in REQUIRED.items():
        if not isinstance(metrics.get(key), kind):
            raise DirpruneError(
                f"{path / 'metrics.json'}: {key!r} is "
                f"{'damaged' if key in metrics else 'missing'}; expected a file written by "
                "dirprune run"
            )
    for key in ("accuracy", "accuracy_validation", "latency_ms", "latency_iqr_ms", "seconds"):
        values = metrics.get(key) or {}
        if not isinstance(values, dict) or not all(
            v is None or isinstance(v, int | float) for v in values.values()
        ):
            raise DirpruneError(f"{path / 'metrics.json'}: {key!r} is damaged; expected numbers")
    for key in ("macs", "params"):
        if not all(isinstance(metrics[key].get(k), int | float) for k in ("before", "after")):
            raise DirpruneError(f"{path / 'metrics.json'}: {key!r} lacks 'before' or 'after'")
    history = _read_json(path / "history.json")
    if not isinstance(history.get("svi"), list):
        raise DirpruneError(f"{path / 'history.json'}: expected a list of losses under 'svi'")
    decision = Decision.load(path / "decision.json")
    tree = load_tree(path / "posterior.nc")
    told = metrics.get("posterior", {})
    if not isinstance(told, dict):
        raise DirpruneError(f"{path / 'metrics.json'}: 'posterior' is damaged; expected an object")
    made = {key: tree.attrs.get(key) for key in told}
    if made != told:
        raise DirpruneError(
            f"{path / 'posterior.nc'} is of another run: it has {_words(made)}, and metrics.json "
            f"tells of one with {_words(told)}. Put the right file there, or run again"
        )
    views = site_views(tree, decision, metrics["evidence"])
    for site in metrics["sites"]:
        view = views.get(str(site.get("name"))) if isinstance(site, dict) else None
        if view is None or (site.get("units"), site.get("kept")) != (
            view.size,
            int(view.kept.sum()),
        ):
            raise DirpruneError(
                f"{path}: metrics.json does not tell the same sites and kept units as "
                f"posterior.nc and decision.json (at {site}): they are of different runs"
            )
    closeups = read_closeups(path, tree, views)
    return Run(path, metrics, decision, history, tree, views, closeups)


def _words(attributes: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in attributes.items())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DirpruneError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DirpruneError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict):
        raise DirpruneError(f"{path} is damaged: expected a JSON object")
    return data
