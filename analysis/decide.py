"""Which units stay under a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from ..model.cost import CostTable
from ..model.decision import Decision
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .budget import by_site, keep_within, smallest_share
from .evidence import Scores
from .latency_budget import find_within_latency
from .removal import site_units
from .tree import cost_table

Floats = NDArray[np.float64]


def decide(
    model: SwitchedNetwork | xr.DataTree,
    evidence: Mapping[str, Scores] | Mapping[str, Tensor],
    *,
    macs: float | None = None,
    params: float | None = None,
    keep: float | None = None,
    latency: float | None = None,
    round_to: int | None = None,
    latency_inputs: Any = None,
) -> Decision:
    """Choose the units that stay, over all sites at once; the widths follow from the budget.

    With ``macs`` or ``params`` the unit with the least score per multiply-add (or parameter) that
    its removal saves now goes first, counted again after each removal, until the cost is at most
    the budget: it is within one unit of it.
    Scores that do not compare across sites (concentrations) are taken relative to their site's
    mean, and not per cost.
    With ``keep`` the units with the least score go, exactly so many. Ties go by index, and no site
    loses its last unit.
    With ``latency`` the widths are those of the largest ``macs`` whose network is *measured* to be
    within the bound, in the median and in three quarters of the rounds, timed in turns with the
    original (:func:`~.latency_budget.find_within_latency`).

    Args:
        model: the switched network, or a DataTree of ``posterior`` (which holds the cost table).
        evidence: site name -> :class:`Scores`, or plain 1-D scores, high = keep. A site without
            evidence keeps all its units.
        macs: the share of the network's multiply-adds that may be left, in (0, 1].
        params: the same for its parameters.
        keep: the share of all units that stays, in (0, 1], rounded to a whole number of units.
        latency: the share of the time that a forward pass may take, in (0, 1]; it needs the
            network, so a DataTree will not do.
        round_to: every site's layers keep a multiple of so many channels, as hardware likes, or
            stay whole where they have fewer. The budget is then an upper bound (of ``keep`` too):
            units go in whole blocks, and come back where they fit. A layer that owns only some of a
            site's units (in a residual stream that grows) is not rounded by itself.
        latency_inputs: the batch to time, on the network's device; by default the model's example
            inputs. One thread of the CPU is used.

    Returns:
        The decision; where the evidence has draws, with each unit's inclusion probability: the
        share of draws under which this rule, applied to that draw's scores, keeps the unit. After
        ``latency`` the rule is that of the ``macs`` that was found, which stands with all measured
        figures in ``settings["latency"]``.

    Raises:
        DirpruneError: not exactly one budget, one that is out of range or cannot be met, or
            evidence of another network.
    """
    table = cost_table(model) if isinstance(model, xr.DataTree) else model.costs
    budgets = {"macs": macs, "params": params, "keep": keep, "latency": latency}
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        named = ", ".join(given) or "none"
        raise DirpruneError(
            f"expected one budget of macs=, params=, keep= or latency=, got {named}"
        )
    ((what, share),) = given.items()
    if not (isinstance(share, int | float) and 0 < share <= 1):
        raise DirpruneError(f"budget {what}={share}: expected a share in (0, 1]")
    if round_to is not None and not (type(round_to) is int and round_to >= 1):
        raise DirpruneError(f"round_to={round_to}: expected a whole number of at least 1")
    scores, draws = _gather(table, evidence)
    fixed = np.concatenate([np.full(k, n not in evidence) for n, k in table.sites.items()])

    # A score that means something within its site only cannot be weighed against a cost.
    per_cost = what != "keep" and all(
        s.across_sites for s in evidence.values() if isinstance(s, Scores)
    )
    block = round_to or 1

    def rule(values: Floats, what: str, share: float) -> NDArray[np.bool_]:
        return keep_within(table, values, fixed, what, share, per_cost=per_cost, round_to=block)

    settings: dict[str, Any] = {"budget": {what: share}}
    if round_to is not None:
        settings["round_to"] = round_to
    if what == "latency":
        if isinstance(model, xr.DataTree):
            raise DirpruneError(
                f"budget latency={share}: latency is measured, which needs the network: give the "
                "SwitchedNetwork rather than a DataTree"
            )
        found = find_within_latency(
            model,
            lambda macs: by_site(table, rule(scores, "macs", macs)),
            share,
            smallest_share(table, fixed, "macs", block),
            latency_inputs,
        )
        settings["latency"] = found.to_dict()
        what, share = "macs", found.macs
    kept = by_site(table, rule(scores, what, share))
    inclusion: dict[str, Tensor] = {}
    if draws is not None:
        probability = np.mean([rule(d, what, share) for d in draws], axis=0)
        inclusion = {
            name: torch.from_numpy(probability[units].copy())
            for name, units in zip(table.sites, site_units(table), strict=True)
        }
    return Decision(kept, inclusion, settings)


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
