"""Masks of given widths: a row of booleans for each site, and what a swap must leave alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...model.cost import CostTable
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..decision.budget import cost_of, full_cost, target

Masks = dict[str, Tensor]


def masks_of(model: SwitchedNetwork, decision: Decision) -> Masks:
    """Site -> [K] booleans: which units a decision keeps.

    Raises:
        DirpruneError: the decision is of another network, or removes nothing; the model has units
            that are parts of others, which single swaps would tear apart.
    """
    if not model.costs.nesting.is_flat:
        raise DirpruneError(
            "sub-networks are searched by swaps of single units, and features of a flattened "
            "channel come and go with their channel: give a model without flatten='features'"
        )
    decision.check(model.sites)
    masks = {}
    for name, site in model.sites.items():
        masks[name] = torch.ones(site.size, dtype=torch.bool)
        if name in decision.kept:
            masks[name] = torch.zeros(site.size, dtype=torch.bool)
            masks[name][decision.kept[name]] = True
    if all(bool(mask.all()) for mask in masks.values()):
        raise DirpruneError(
            "the decision keeps every unit: there is no other sub-network of its widths"
        )
    return masks


def kept_of(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Site -> the units that stay, as a :class:`Decision` has them."""
    return {name: mask.nonzero()[:, 0] for name, mask in masks.items()}


class Allowed:
    """Which masks a decision's widths or budgets, and the network, allow.

    Where layers of a residual stream own only some of a site's units, each needs one. Units may
    cost different amounts: a mask may not cost more than the budgets allow, or, where the decision
    has none that are counted, than the decision in multiply-adds and parameters.
    """

    def __init__(
        self, table: CostTable, masks: Mapping[str, Tensor], budgets: Mapping[str, float]
    ) -> None:
        self._table = table
        if budgets:
            self._most = {b: target(b, share, full_cost(table, b)) for b, share in budgets.items()}
        else:
            self._most = {what: self._cost(what, masks) for what in ("macs", "params")}

    def __call__(self, masks: Mapping[str, Tensor]) -> bool:
        flat = torch.cat([masks[name] for name in self._table.sites])
        if not all(bool(flat[units].any()) for units in self._table.needed):
            return False
        return all(self._cost(what, masks) <= most for what, most in self._most.items())

    def _cost(self, what: str, masks: Mapping[str, Tensor]) -> int:
        return cost_of(self._table, torch.cat([masks[n] for n in self._table.sites]).numpy(), what)
