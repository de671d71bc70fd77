"""Evidence: scores of units, by the name of a criterion.

A criterion is a function of a :class:`~.material.Material` that returns an
:class:`~.scores.Evidence`; its line in ``CRITERIA`` gives it a name.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import xarray as xr

from ...inference.fit import Fit
from ...inference.loop import Loader
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..tree import evidence_group, site_sizes
from .concentration import fit_concentrations
from .material import Material, Source
from .registry import CRITERIA, Criterion, check_options, parse_criterion, register_criterion
from .removal_cost import COST_DRAWS, COST_IMAGES, removal_cost
from .scores import Evidence, Passes, Scores
from .stored import learning_passes, read_evidence, store_evidence
from .switches import DRAWS, check_data_tree


def evidence(
    name: str,
    model: SwitchedNetwork | None,
    source: Source = None,
    loader: Loader | None = None,
    **options: Any,
) -> Evidence:
    """The evidence about every unit, by one criterion.

    ::

        costs = evidence("removal-cost", model, fitted, train)
        costs["conv1"].scores, costs.passes, costs.learning

    Args:
        name: a name of ``CRITERIA`` (``dirprune info evidence`` lists them), alone or with options
            ("removal-cost:draws=16").
        model: the switched network; may be None where the source is a DataTree that holds the
            evidence.
        source: a :class:`~dirprune.inference.fit.Fit` or a DataTree of ``posterior``; None for
            criteria without a posterior.
        loader: training images, for criteria that have to look at some.
        **options: of the criterion, by name.

    Returns:
        site name -> :class:`Scores`, with what the scoring and the posterior took.

    Raises:
        DirpruneError: an unknown criterion or option, or one that needs what was not given.
    """
    criterion, given = parse_criterion(name)
    if twice := set(given) & set(options):
        raise DirpruneError(f"evidence {name!r}: {', '.join(sorted(twice))} given twice")
    given |= options
    check_options(criterion, given)
    if isinstance(source, xr.DataTree):
        if model is not None:
            check_data_tree(model, site_sizes(source))
        if (held := _held(source, criterion, given)) is not None:
            return held
    found = CRITERIA[criterion].score(Material(criterion, model, source, loader), **given)
    found.criterion = spelled(criterion, given)
    if "posterior" in CRITERIA[criterion].reads:
        found.learning = learning_passes(source)
    return found


def stored_evidence(
    tree: xr.DataTree, name: str, model: SwitchedNetwork, fit: Fit, loader: Loader
) -> Evidence:
    """The evidence of a tree; where it is not there, that of the tree's own Fit, put into it."""
    if (held := _held(tree, *parse_criterion(name))) is not None:
        return held
    found = evidence(name, model, fit, loader)
    store_evidence(tree, found)
    return found


def _held(tree: xr.DataTree, criterion: str, given: dict[str, Any]) -> Evidence | None:
    """What the tree holds of a criterion, if it was made with these options, or none are given."""
    if evidence_group(criterion) not in tree.children:
        return None
    stored = read_evidence(tree, criterion)
    return stored if not given or stored.criterion == spelled(criterion, given) else None


def spelled(criterion: str, options: dict[str, Any]) -> str:
    """A criterion with its options, as :func:`parse_criterion` reads them.

    >>> spelled("removal-cost", {"draws": 16})
    'removal-cost:draws=16'
    """
    numbers = {k: int(v) if isinstance(v, Integral) else float(v) for k, v in options.items()}
    return ":".join([criterion, *(f"{k.replace('_', '-')}={v!r}" for k, v in numbers.items())])


__all__ = [
    "COST_DRAWS",
    "COST_IMAGES",
    "CRITERIA",
    "DRAWS",
    "Criterion",
    "Evidence",
    "Fit",
    "Material",
    "Passes",
    "Scores",
    "Source",
    "evidence",
    "fit_concentrations",
    "parse_criterion",
    "register_criterion",
    "removal_cost",
    "store_evidence",
    "stored_evidence",
]
