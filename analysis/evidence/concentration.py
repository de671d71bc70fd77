"""The posterior concentration: the rule of the paper that this project starts from."""

from __future__ import annotations

import torch
import xarray as xr
from pyro.infer.autoguide import AutoGuide, AutoGuideList

from ...guides import AutoDirichlet
from ...inference.fit import Fit
from ...model.errors import DirpruneError
from ..tree import concentrations
from .material import Material
from .scores import Evidence, Scores


def concentration(material: Material) -> Evidence:
    """Keep the units with the largest posterior concentration, averaged over restarts.

    A concentration means something beside the others of its site only, so the scores do not compare
    across sites: a global decision compares K phi_k / Phi, the posterior mean gain.

    References:
        Kamil Adamczewski, Mijung Park, "Dirichlet Pruning for Neural Network Compression", 2021,
        arXiv 2011.05985.
    """
    source = material.source
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
    return Evidence(
        {
            site: Scores(phi.mean(0), None, "concentration", across_sites=False)
            for site, phi in found.items()
        }
    )


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
