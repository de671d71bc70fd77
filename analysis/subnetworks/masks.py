"""Masks of given widths: a row of booleans for each site, and what a swap must leave alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork

Masks = dict[str, Tensor]


def masks_of(model: SwitchedNetwork, decision: Decision) -> Masks:
    """Site -> [K] booleans: which units a decision keeps.

    Raises:
        DirpruneError: the decision is of another network, or removes nothing.
    """
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
    """Which masks of the same widths a decision's budgets and network allow.

    Where layers of a residual stream own only some of a site's units, each needs one, and units
    may cost different amounts: a mask may not cost more than the decision in multiply-adds or
    parameters.
    """

    def __init__(self, model: SwitchedNetwork, masks: Mapping[str, Tensor]) -> None:
        self._table = model.costs
        self._most = self._cost(masks)

    def __call__(self, masks: Mapping[str, Tensor]) -> bool:
        flat = torch.cat([masks[name] for name in self._table.sites])
        if not all(bool(flat[units].any()) for units in self._table.needed):
            return False
        return all(cost <= most for cost, most in zip(self._cost(masks), self._most, strict=True))

    def _cost(self, masks: Mapping[str, Tensor]) -> list[int]:
        kept = kept_of(masks)
        return [self._table.total(what, kept) for what in ("macs", "params")]
