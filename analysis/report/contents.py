"""What the report says, as plain values for the template."""

from __future__ import annotations

from typing import Any

from ...model.networks import is_own
from .compensations import compensations
from .latent import correlated_units, hyper_rows
from .outcome import accuracies, headline, summary
from .pictures import MOST_SITES
from .promises import budget, max_drop, predicted
from .reading import Run
from .refined import refined, reselected
from .rounds import rounds
from .sites import site_numbers, site_rows
from .uncertain import PER_SITE, on_wrong_side, uncertain_units
from .verdicts import verdicts
from .words import quoted, signed, text


def contents(run: Run) -> dict[str, Any]:
    """The values of ``report.html.jinja``."""
    m = run.metrics
    units = sum(view.size for view in run.views.values())
    kept = sum(int(view.kept.sum()) for view in run.views.values())
    return {
        "title": f"{m['network']} on {m['data']}",
        "created": run.tree.attrs.get("created_at", ""),
        "headline": headline(m),
        "summary": summary(m, units, kept),
        "budget": budget(m),
        "evidence": m["evidence"],
        "accuracies": accuracies(m),
        "predicted": predicted(m),
        "max_drop": max_drop(m),
        "warnings": list(m.get("warnings") or []),
        "sites": site_rows(run),
        "units": units,
        "kept": kept,
        "shown": min(MOST_SITES, len(run.views)),
        "site_rows": [site_numbers(view) for view in run.views.values()],
        "rounds": rounds(m),
        "refined": refined(m),
        "reselected": reselected(m),
        "compensations": compensations(m),
        "concentrations": any(v.concentration is not None for v in run.views.values()),
        "hyper_rows": hyper_rows(run.tree),
        "correlated": [
            {key: " ".join(map(str, pair[key])) for key in ("one", "other")}
            | {"r": signed(f"{pair['r']:+.2f}")}
            for pair in correlated_units(run.tree)
        ],
        "closeups": None if run.closeups is None else run.closeups.told(),
        "certain": any(v.probability is not None for v in run.views.values()),
        "uncertain": uncertain_units(run.views),
        "per_site": PER_SITE,
        "wrong_side": on_wrong_side(run.views),
        "diagnostics": verdicts(m.get("diagnostics") or {}),
        "unprunable": dict(m.get("unprunable") or {}),
        "settings": {k: text(v) for k, v in (m.get("settings") or {}).items()},
        "seed": text(m["seed"]),
        "images": {k: f"{v:,}" for k, v in (m.get("images") or {}).items()},
        "versions": m.get("versions") or {},
        "seconds": {k: f"{v:,.1f}" for k, v in (m.get("seconds") or {}).items()},
        "own": m["network"] if is_own(str(m["network"])) else "",
        "pruned": quoted(run.path / "pruned"),
        "program": quoted(run.path / "pruned.pt2"),
        "posterior": quoted(run.path / "posterior.nc"),
        "criterion": quoted(m["evidence"]),
    }
