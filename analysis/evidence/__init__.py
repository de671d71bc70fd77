"""Evidence: scores of units, by the name of a criterion.

A criterion is a function ``(model, source, loader) -> mapping site name -> Scores``; its line in
``CRITERIA`` gives it a name.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import xarray as xr
from pyro.infer.autoguide import AutoGuide, AutoGuideList

from ...guides import AutoDirichlet
from ...inference.fit import Fit
from ...inference.loop import Loader
from ...model.errors import DirpruneError, unknown_name
from ...model.switched import SwitchedNetwork
from ..tree import concentrations, evidence_draws, site_sizes
from .removal_cost import removal_cost
from .scores import Scores
from .switches import check_data_tree, draw_switches, each_restart, fixed_images

Source = Fit | xr.DataTree | None
Criterion = Callable[[SwitchedNetwork | None, Source, Loader | None], dict[str, Scores]]

DRAWS = 400  # of a chain; the removal cost takes the first COST_DRAWS of them
COST_DRAWS, COST_IMAGES = 32, 256


def evidence(
    name: str,
    model: SwitchedNetwork | None,
    source: Source,
    loader: Loader | None = None,
) -> dict[str, Scores]:
    """The evidence about every unit, by one criterion.

    Args:
        name: "concentration" (the paper's rule) or "removal-cost".
        model: the switched network; may be None where the source is a DataTree that holds the
            evidence.
        source: a :class:`~dirprune.inference.fit.Fit` or a DataTree of ``posterior``.
        loader: training images, for criteria that have to look at some.

    Returns:
        site name -> :class:`Scores`.

    Raises:
        DirpruneError: an unknown criterion, or one that needs what was not given.
    """
    if name not in CRITERIA:
        raise unknown_name("evidence", name, CRITERIA)
    if model is not None and isinstance(source, xr.DataTree):
        check_data_tree(model, site_sizes(source))
    return CRITERIA[name](model, source, loader)


def _concentration(
    model: SwitchedNetwork | None, source: Source, loader: Loader | None
) -> dict[str, Scores]:
    """The paper's rule: keep the units with the largest posterior concentration.

    Averaged over restarts. A concentration means something beside the others of its site only, so
    the scores do not compare across sites: a global decision compares K phi_k / Phi, the posterior
    mean gain.
    """
    if isinstance(source, xr.DataTree):
        if "concentration" not in source.children:
            raise DirpruneError(
                "evidence 'concentration' needs --guide dirichlet: this DataTree has no group "
                "'concentration', for its guide has none. 'removal-cost' works with any guide"
            )
        found = concentrations(source)
    elif isinstance(source, Fit):
        found = fit_concentrations(source)
        if not found:
            name = source.settings.get("guide", "this guide")
            raise DirpruneError(
                f"{name!r} has no concentrations: evidence 'concentration' needs the guide "
                "'dirichlet'; 'removal-cost' works with any"
            )
    else:
        raise DirpruneError("evidence 'concentration' needs a posterior: a Fit or a DataTree")
    return {
        site: Scores(phi.mean(0), None, "concentration", across_sites=False)
        for site, phi in found.items()
    }


def _removal_cost(
    model: SwitchedNetwork | None, source: Source, loader: Loader | None
) -> dict[str, Scores]:
    """Keep the units whose removal costs most, over the posterior and a fixed set of images."""
    if isinstance(source, xr.DataTree) and (stored := evidence_draws(source, "removal-cost")):
        costs = stored
    elif isinstance(source, Fit) and model is not None and loader is not None:
        inputs, targets = fixed_images(model, loader, COST_IMAGES)
        drawn = draw_switches(model, source, DRAWS).switches  # those of `posterior`
        few = {site: s[:, :COST_DRAWS] for site, s in drawn.items()}
        parts = each_restart(
            model, source, few, lambda switches: removal_cost(model, switches, inputs, targets)
        )
        costs = {site: torch.cat([part[site] for part in parts]) for site in few}
    else:
        raise DirpruneError(
            "evidence 'removal-cost' needs a model, a Fit and a loader of training images, or a "
            "DataTree that holds it"
        )
    return {site: Scores(c.mean(0), c, "nats") for site, c in costs.items()}


def fit_concentrations(fit: Fit) -> dict[str, torch.Tensor]:
    """The concentrations of a fit's guides, site -> [restarts, K]; empty where no guide has any."""
    chains = [_concentrations_of(guide) for guide in fit.guides]
    sites = list(chains[0]) if chains else []
    return {site: torch.stack([c[site].double().cpu() for c in chains]) for site in sites}


def _concentrations_of(guide: AutoGuide) -> dict[str, torch.Tensor]:
    """Those of a Dirichlet guide, or of all Dirichlet parts of a list of guides."""
    parts = list(guide) if isinstance(guide, AutoGuideList) else [guide]
    found: dict[str, torch.Tensor] = {}
    for part in parts:
        if isinstance(part, AutoDirichlet):
            found |= part.concentration()
    return found


CRITERIA: dict[str, Criterion] = {
    "removal-cost": _removal_cost,
    "concentration": _concentration,
}

__all__ = ["CRITERIA", "Scores", "evidence", "removal_cost"]
