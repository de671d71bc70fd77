"""Masks of given widths: a row of booleans for each site, and what a swap must leave alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
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
        DirpruneError: the decision is of another network, or removes nothing.
    """
    decision.check(model.sites)
    if keeps_all(model, decision):
        raise DirpruneError(
            "the decision keeps every unit: there is no other sub-network of its widths"
        )
    return split(model.costs, model.graph.keep_vector(decision.kept)[:-1])


def keeps_all(model: SwitchedNetwork, decision: Decision) -> bool:
    """Is there nothing that the decision removes?"""
    return bool(model.graph.keep_vector(decision.kept).all())


def without_promises(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A decision's settings without what was measured of its units, which are others now."""
    return {k: v for k, v in settings.items() if k not in ("max_drop", "predicted_accuracy")}


def is_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Do two masks keep the same units?"""
    return all(torch.equal(mask, other[name]) for name, mask in one.items())


def joined(table: CostTable, values: Mapping[str, Tensor]) -> Tensor:
    """Site -> [K] as one row over the numbers of all units; :func:`split` is the way back."""
    return torch.cat([values[name] for name in table.sites])


def split(table: CostTable, values: Tensor) -> dict[str, Tensor]:
    """A row over the numbers of all units as site -> [K]."""
    return dict(zip(table.sites, values.split(list(table.sites.values())), strict=True))


def kept_of(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Site -> the units that stay, as a :class:`Decision` has them."""
    return {name: mask.nonzero()[:, 0] for name, mask in masks.items()}


def equal_in_cost(table: CostTable) -> dict[str, Tensor]:
    """Site -> [K], the kind of each unit; units of a kind can change places at no cost.

    They have the same shares in every term of every cost. Units of one layer do; channels of a
    residual stream that grows on its way through the network are read by more layers or by fewer.
    """
    terms = [term for _, terms in table.terms.values() for term in terms]
    shares = np.stack([counts for term in terms for counts in (term.rows, term.columns)])
    found = split(table, torch.from_numpy(shares.T))
    return {name: of.unique(dim=0, return_inverse=True)[1] for name, of in found.items()}


def within_channels(
    table: CostTable, masks: Mapping[str, Tensor], change: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Estimated gains of flips, minus infinity where a swap of single units would not be closed.

    Features of a flattened channel come and go with it: the channels stay as they are, and of
    features those of channels that stay can be swapped.
    """
    nesting = table.nesting
    if nesting.is_flat:
        return dict(change)
    flat, kept = joined(table, change), joined(table, masks).numpy()
    flat[list(nesting.parts)] = -torch.inf
    flat[torch.from_numpy(nesting.is_part & ~kept[nesting.whole])] = -torch.inf
    return split(table, flat)


class Allowed:
    """Which masks a decision's widths or budgets, and the network, allow.

    Where layers of a residual stream own only some of a site's units, each needs one. Units may
    cost different amounts: a mask may not cost more than the budgets allow, or, where the decision
    has none that are counted, than the decision (the dearest of several) in multiply-adds and
    parameters.
    """

    def __init__(
        self, table: CostTable, starts: Sequence[Masks], budgets: Mapping[str, float]
    ) -> None:
        self._table = table
        if budgets:
            self._most = {b: target(b, share, full_cost(table, b)) for b, share in budgets.items()}
        else:
            self._most = {
                what: max(cost_of(table, joined(table, one).numpy(), what) for one in starts)
                for what in ("macs", "params")
            }

    def __call__(self, masks: Mapping[str, Tensor]) -> bool:
        kept = joined(self._table, masks).numpy()
        if not all(kept[units].any() for units in self._table.needed):
            return False
        if not (self._table.nesting.close(kept) == kept).all():
            return False
        return all(cost_of(self._table, kept, what) <= most for what, most in self._most.items())
