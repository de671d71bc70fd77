"""``dirprune decide``: another one-shot decision from a run's posterior alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..analysis.decision.decide import decide
from ..analysis.evidence import evidence
from ..analysis.tree import PRIMARY, cost_table, load_tree
from ..model.errors import DirpruneError
from .checks import METRICS


def decide_again(
    run: Path,
    budget: dict[str, Any],
    widths: str | dict[str, int] | None,
    round_to: int | None,
    criterion: str | None,
    out: Path | None,
    *,
    overwrite: bool = False,
) -> str:
    """Decide under a budget, write the decision if asked to, and say what it costs.

    Args:
        run: a folder of ``dirprune run``.
        budget, widths, round_to: as :func:`~dirprune.analysis.decision.decide.decide` takes them.
        criterion: what decides; None takes the run's own.
        out: the file for the decision; None writes none.
        overwrite: replace what is there.

    Raises:
        DirpruneError: there is a file already, or no such decision.
    """
    if out is not None and out.exists() and not overwrite:
        raise DirpruneError(f"{out} is there already: --overwrite replaces it")
    tree = load_tree(run / "posterior.nc")
    criterion = criterion or _criterion(run)
    found = evidence(criterion, None, tree)
    decision = decide(tree, found, **budget, widths=widths, round_to=round_to)
    costs = cost_table(tree)
    summary = {
        **decision.settings,
        "evidence": criterion,
        **{
            what: round(costs.total(what, decision.kept) / costs.total(what), 4)
            for what in ("macs", "params")
        },
        "widths": {name: len(units) for name, units in decision.kept.items()},
    }
    if out is None:
        return json.dumps(summary, indent=1)
    decision.save(out)
    return json.dumps({**summary, "decision": str(out)}, indent=1)


def _criterion(run: Path) -> str:
    """What decided in the run; the removal cost where only its posterior is left."""
    try:
        return str(json.loads((run / METRICS).read_text())["evidence"])
    except FileNotFoundError:
        return PRIMARY
    except (ValueError, KeyError, TypeError) as error:
        raise DirpruneError(
            f"{run / METRICS} is damaged, so that nothing says what decided: name it by --evidence"
        ) from error
