"""Tables of sites: what goes where, and their units in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..plots import SiteView, share_of_macs
from .reading import Run
from .words import ranges, share


def site_rows(run: Run) -> list[dict[str, Any]]:
    """A row for each site: its width, its share of the multiply-adds, and the units that stay."""
    macs = share_of_macs(run.tree, run.decision)
    rows = []
    for site in run.metrics["sites"]:
        view = run.views[site["name"]]
        before, after = macs.get(view.name, (0.0, 0.0))
        rows.append(
            {
                **site,
                "share": share(site["kept"] / site["units"], 0),
                "macs": f"{share(before)} → {share(after)}",
                "list": ranges(np.flatnonzero(view.kept).tolist()),
            }
        )
    return rows


def site_numbers(view: SiteView) -> dict[str, str]:
    """A site in numbers: means over kept and over removed units."""

    def pair(values: Any) -> str:
        if values is None:
            return "–"
        mean = values.reshape(-1, view.size).mean(0)
        parts = [f"{mean[w].mean():.3g}" if w.any() else "–" for w in (view.kept, ~view.kept)]
        return " / ".join(parts)

    p = view.probability
    unsure = "–" if p is None else f"{int(((p > 0.1) & (p < 0.9)).sum()):,}"
    return {
        "name": view.name,
        "units": f"{int(view.kept.sum()):,} of {view.size:,}",
        "gain": pair(view.gains),
        "concentration": pair(view.concentration),
        "cost": pair(view.cost),
        "probability": pair(p),
        "unsure": unsure,
    }
