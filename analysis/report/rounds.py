"""What each round of a removal in rounds left."""

from __future__ import annotations

from typing import Any

from .promises import BUDGETS
from .words import share

NAMED = 8  # sites with their widths; beyond, the units in total


def rounds(m: dict[str, Any]) -> list[dict[str, str]]:
    """A row for each round; none of a decision in one shot."""
    rows = []
    for number, one in enumerate(m.get("rounds") or [], 1):
        units = one["units"]
        rows.append(
            {
                "number": str(number),
                "budget": ", ".join(
                    f"{share(bound)} of the {BUDGETS.get(what, what)}"
                    for what, bound in one["budget"].items()
                )
                or "the widths",
                "units": f"{sum(units.values()):,}",
                "widths": ", ".join(f"{site} {left:,}" for site, left in units.items())
                if len(units) <= NAMED
                else "",
                "seconds": f"{one['seconds']:,.1f}",
                "learned": "yes" if _learned(one) else "",
            }
        )
    return rows


def _learned(one: dict[str, Any]) -> bool:
    """Was there a posterior? Its passes were counted, or could not be."""
    passes = one.get("learning")
    return passes is None or any(passes.values())
