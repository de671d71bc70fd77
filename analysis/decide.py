"""Which units stay under a budget."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ..model.cost import CostTable
from ..model.decision import Decision
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .budget import keep_number, keep_within
from .evidence import Scores
from .tree import cost_table

Floats = NDArray[np.float64]


def decide(
    model: SwitchedNetwork | xr.DataTree,
    evidence: Mapping[str, Scores] | Mapping[str, Tensor],
    *,
    macs: float | None = None,
    params: float | None = None,
    keep: float | None = None,
) -> Decision:
    """Choose the units that stay, over all sites at once; the widths follow from the budget.

    With ``macs`` or ``params`` the unit with the least score per multiply-add (or parameter) that
    its removal saves now goes first, counted again after each removal, until the cost is at most
    the budget: it is within one unit of it.
    Scores that do not compare across sites (concentrations) are taken relative to their site's
    mean, and not per cost.
    With ``keep`` the units with the least score go, exactly so many. Ties go by index, and no site
    loses its last unit.

    Args:
        model: the switched network, or a DataTree of ``posterior`` (which holds the cost table).
        evidence: site name -> :class:`Scores`, or plain 1-D scores, high = keep. A site without
            evidence keeps all its units.
        macs: the share of the network's multiply-adds that may be left, in (0, 1].
        params: the same for its parameters.
        keep: the share of all units that stays, in (0, 1], rounded to a whole number of units.

    Returns:
        The decision; where the evidence has draws, with each unit's inclusion probability: the
        share of draws under which this rule, applied to that draw's scores, keeps the unit.

    Raises:
        DirpruneError: not exactly one budget, one that is out of range or cannot be met, or
            evidence of another network.
    """
    table = cost_table(model) if isinstance(model, xr.DataTree) else model.costs
    budgets = {"macs": macs, "params": params, "keep": keep}
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        named = ", ".join(given) or "none"
        raise DirpruneError(f"expected one budget of macs=, params= or keep=, got {named}")
    ((what, share),) = given.items()
    if not (isinstance(share, int | float) and 0 < share <= 1):
        raise DirpruneError(f"budget {what}={share}: expected a share in (0, 1]")
    scores, draws = _gather(table, evidence)
    fixed = np.concatenate([np.full(k, n not in evidence) for n, k in table.sites.items()])

    # A score that means something within its site only cannot be weighed against a cost.
    per_cost = all(s.across_sites for s in evidence.values() if isinstance(s, Scores))

    def rule(values: Floats) -> NDArray[np.bool_]:
        if what == "keep":
            return keep_number(table, values, fixed, share)
        return keep_within(table, values, fixed, what, share, per_cost)

    kept = rule(scores)
    probability = np.mean([rule(d) for d in draws], axis=0) if draws is not None else None
    by_site, inclusion, start = {}, {}, 0
    for name, size in table.sites.items():
        by_site[name] = torch.from_numpy(kept[start : start + size].nonzero()[0])
        if probability is not None:
            inclusion[name] = torch.from_numpy(probability[start : start + size].copy())
        start += size
    return Decision(by_site, inclusion, {"budget": {what: share}})


def _gather(
    table: CostTable, evidence: Mapping[str, Scores] | Mapping[str, Tensor]
) -> tuple[Floats, Floats | None]:
    """Scores of all units in one vector, and their draws [S, units] if every site has them."""
    for name in evidence:
        if name not in table.sites:
            raise DirpruneError(
                f"evidence for the site {name!r}, which this network does not have "
                f"(it has {', '.join(table.sites)}): it is of another network"
            )
    parts: list[Floats] = []
    drawn: list[Floats | None] = []
    for name, size in table.sites.items():
        item = evidence.get(name, torch.ones(size))
        found = item if isinstance(item, Scores) else Scores(torch.as_tensor(item))
        if found.scores.shape != (size,) or not bool(found.scores.isfinite().all()):
            raise DirpruneError(
                f"evidence for site {name!r}: expected {size} finite scores, got shape "
                f"{list(found.scores.shape)}"
                + ("" if bool(found.scores.isfinite().all()) else " with NaN or infinity")
            )
        values = found.scores.detach().double().cpu().numpy()
        scale = 1.0 if found.across_sites else abs(float(values.mean())) or 1.0
        parts.append(values / scale)
        draws = found.draws
        if draws is not None and (
            draws.dim() != 2 or draws.shape[1] != size or not bool(draws.isfinite().all())
        ):
            raise DirpruneError(
                f"evidence for site {name!r}: expected finite draws [S, {size}], got shape "
                f"{list(draws.shape)}"
                + ("" if bool(draws.isfinite().all()) else " with NaN or infinity")
            )
        drawn.append(None if draws is None else draws.detach().double().cpu().numpy() / scale)
    with_draws = [d for d in drawn if d is not None]
    sites_with_evidence = [n for n in table.sites if n in evidence]
    if len(with_draws) < len(sites_with_evidence) or len({len(d) for d in with_draws}) != 1:
        return np.concatenate(parts), None
    number = len(with_draws[0])
    filled = [
        np.broadcast_to(p, (number, len(p))) if d is None else d
        for p, d in zip(parts, drawn, strict=True)
    ]
    return np.concatenate(parts), np.concatenate(filled, axis=1)
