"""The decisions that are least certain."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..plots import SiteView

UNCERTAIN, PER_SITE = 20, 8  # rows of the table


def uncertain_units(views: dict[str, SiteView]) -> list[dict[str, str]]:
    """The units nearest to 0.5, or farthest on the other side of it."""
    found = [
        (float(margin), name, unit)
        for name, view in views.items()
        if view.probability is not None and 0 < view.kept.sum() < view.size
        for unit, margin in enumerate(_margin(view))
    ]
    rows: list[dict[str, str]] = []
    listed = dict.fromkeys(views, 0)
    for _, name, unit in sorted(found):
        view = views[name]
        listed[name] += 1
        if listed[name] > PER_SITE or len(rows) == UNCERTAIN:
            continue
        assert view.probability is not None
        low, high = np.quantile(view.gains[:, unit], (0.05, 0.95))
        rank = int(np.flatnonzero(view.order == unit)[0]) + 1
        rows.append(
            {
                "site": name,
                "unit": str(unit),
                "decision": "kept" if view.kept[unit] else "removed",
                "probability": f"{view.probability[unit]:.2f}",
                "rank": f"{rank:,} of {view.size:,}, {int(view.kept.sum()):,} kept",
                "gain": f"{view.gains[:, unit].mean():.2f} ({low:.2f} to {high:.2f})",
                "cost": "–" if view.cost is None else f"{view.cost[:, unit].mean():.3g}",
            }
        )
    return rows


def on_wrong_side(views: dict[str, SiteView]) -> int:
    """Units whose decision fewer than half of the draws share."""
    return sum(
        int((_margin(view) < 0).sum()) for view in views.values() if view.probability is not None
    )


def _margin(view: SiteView) -> Any:
    """How far each unit's inclusion probability lies on its decision's side of 0.5."""
    assert view.probability is not None
    return np.where(view.kept, view.probability - 0.5, 0.5 - view.probability)
