"""Evidence in the DataTree, so that a decision can be made again from the file alone."""

from __future__ import annotations

import json

import torch
import xarray as xr

from ...inference.fit import Fit
from ...model.errors import DirpruneError
from ..tree import evidence_group, site_dataset, switches
from .material import Source
from .scores import Evidence, Passes, Scores


def store_evidence(tree: xr.DataTree, found: Evidence) -> None:
    """Put a criterion's scores and draws into the tree, in the place of those it had.

    The group is that of :func:`~dirprune.analysis.tree.evidence_group`: a variable per site, over
    chain, draw and unit, or over units alone where the criterion has no draws.
    """
    chains = next(iter(switches(tree).values())).shape[0]
    draws = {site: s.draws for site, s in found.items() if s.draws is not None}
    first = next(iter(found.values()))
    for site, d in draws.items():
        if not torch.allclose(d.double().mean(0), found[site].scores.double(), rtol=1e-4):
            raise DirpruneError(
                f"evidence {found.criterion!r}: the scores of site {site!r} are not the means of "
                "their draws, as a decision made again from the file would have them"
            )
    if draws and len(draws) == len(found):
        number = min(len(d) for d in draws.values())
        if number % chains:
            chains = 1
        group = site_dataset(
            {site: d.reshape(chains, -1, d.shape[-1]) for site, d in draws.items()},
            ("chain", "draw"),
        )
    else:
        group = site_dataset({site: s.scores for site, s in found.items()}, ())
    group.attrs = {
        "criterion": found.criterion,
        "unit": first.unit,
        "across_sites": int(first.across_sites),
        "passes": _as_json(found.passes),
        "learning": _as_json(found.learning),
    }
    tree[evidence_group(found.criterion)] = xr.DataTree(group)


def read_evidence(tree: xr.DataTree, criterion: str) -> Evidence:
    """What :func:`store_evidence` put there.

    Raises:
        DirpruneError: the group is not of that form.
    """
    group = tree[evidence_group(criterion)].to_dataset()
    try:
        passes, learning = (_from_json(group.attrs[key]) for key in ("passes", "learning"))
        unit, across = str(group.attrs["unit"]), bool(group.attrs["across_sites"])
        found = {}
        for site, values in group.items():
            array = torch.from_numpy(values.values.copy())
            draws = array.flatten(0, -2) if values.ndim > 1 else None
            scores = array if draws is None else draws.mean(0)
            found[str(site)] = Scores(scores, draws, unit, across)
        return Evidence(found, passes, criterion=str(group.attrs["criterion"]), learning=learning)
    except (KeyError, ValueError, TypeError) as error:
        raise DirpruneError(
            f"the DataTree's group {evidence_group(criterion)!r} is not evidence that this version "
            f"wrote ({type(error).__name__}: {error}): make the tree again by dirprune.posterior"
        ) from error


def learning_passes(source: Source) -> Passes | None:
    """What the posterior took; None where that was not counted."""
    examples = (
        source.attrs.get("examples") if isinstance(source, xr.DataTree) else
        source.examples if isinstance(source, Fit) else None
    )  # fmt: skip
    return None if examples is None else Passes(int(examples), int(examples))


def _as_json(passes: Passes | None) -> str:
    return json.dumps(None if passes is None else [passes.forward, passes.backward])


def _from_json(text: str) -> Passes | None:
    numbers = json.loads(text)
    return None if numbers is None else Passes(*numbers)
