"""What a search over sub-networks changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def refined(m: Mapping[str, Any]) -> dict[str, str] | None:
    """Figures of the search and of the chains as text; None where the decision was not refined."""
    found = m.get("refined")
    if found is None:
        return None
    passes, chains = found["passes"], found.get("chains")
    return {
        "steps": f"{found['steps']:,}",
        "flips": f"{found['flips']:,}",
        "before": f"{found['log_prob']['before']:.3f}",
        "after": f"{found['log_prob']['after']:.3f}",
        "passes": f"{passes['forward'] + 2 * passes['backward']:,}",
        "rhat": "" if chains is None else f"{chains['rhat']:.2f}",
        "agree": "" if chains is None else "yes" if chains["rhat"] < RHAT else "",
    }


RHAT = 1.05  # of chains that began at two searches


def reselected(m: Mapping[str, Any]) -> dict[str, str] | None:
    """Figures of the units that were chosen anew as text; None where none were."""
    found = m.get("reselected")
    if found is None:
        return None
    passes, values = found["passes"], found["log_prob"]
    swapped = [f"{number:,} in {site}" for site, number in found["swapped"].items() if number]
    return {
        "sweeps": f"{found['sweeps']:,}",
        "chosen": f"{found['chosen']:,}" if found["chosen"] else "",
        "swapped": ", ".join(swapped),
        "before": f"{values[0]:.4f}",
        "after": f"{values[found['chosen']]:.4f}",
        "passes": f"{passes['forward'] + 2 * passes['backward']:,}",
    }
