"""What rounds of removal have left of a network, in the units of the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...model.decision import Decision
from ...model.surgery import prune
from ...model.switched import SwitchedNetwork


class Left:
    """What is left, at first all.

    Attributes:
        original: the model of the whole network.
        model: that of what is left.
        network: what is left; it may have been compensated.
        units: site of the original -> its units that are left, sorted.
        probability: site of the original -> [K], inclusion probabilities: those of a unit's last
            round; empty where the evidence has none.
    """

    def __init__(self, original: SwitchedNetwork) -> None:
        self.original = self.model = original
        self.network = original.network
        self.units = {name: torch.arange(site.size) for name, site in original.sites.items()}
        self.probability: dict[str, Tensor] = {}
        self._restored: dict[str, Tensor] = {}  # what a likelihood had learned

    def cut(self, decision: Decision) -> None:
        """Remove what a decision on the present model removes; the model follows by ``go_on``."""
        self.network = prune(self.model, decision)
        for name, values in decision.probability.items():
            size = self.original.sites[name].size
            known = self.probability.setdefault(name, torch.ones(size, dtype=torch.float64))
            known[self.units[name]] = values.double()
        for name, kept in decision.kept.items():
            self.units[name] = self.units[name][kept]

    def spread(self, gains: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gains of the units that are left, as gains of all: one for those that are gone."""
        spread = {}
        for name, gain in gains.items():
            ones = torch.ones(self.original.sites[name].size, dtype=torch.float64)
            ones[self.units[name]] = gain.double()
            spread[name] = ones
        return spread

    def go_on(self) -> None:
        """Take up the model of the network that is left.

        Raises:
            DirpruneError: nothing of it can be pruned any more.
        """
        self.model = smaller_model(self.model, self.original, self.units, self.network)
        with torch.no_grad():  # of a checkpoint; the caller's own model is left as it is
            for name, value in self._restored.items():
                _learned(self.model)[name].copy_(value)
        self._restored = {}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "units": self.units,
            "probability": self.probability,
            "network": self.network.state_dict(),
            "learned": {n: p.detach() for n, p in _learned(self.model).items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` gave; then :meth:`go_on`."""
        self.units, self.probability = dict(state["units"]), dict(state["probability"])
        self.network = prune(self.original, Decision(self.units))
        self.network.load_state_dict(state["network"])
        self._restored = dict(state["learned"])


def _learned(model: SwitchedNetwork) -> dict[str, nn.Parameter]:
    """What a model learns beside a guide: the noise of its likelihood."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def smaller_model(
    model: SwitchedNetwork,
    original: SwitchedNetwork,
    units: Mapping[str, Tensor],
    network: nn.Module,
) -> SwitchedNetwork:
    """The same model of what is left of a network.

    A unit is known by its place in the network's parameters. A site whose units are not just those
    that are left of the original's, in their order, is left alone from then on, as is one that
    cannot be pruned any more (a single unit).

    Args:
        model: of what was left before, with the prior and the likelihood.
        original: the model of the whole network.
        units: site -> its units that are left.
        network: what is left.

    Raises:
        DirpruneError: nothing of the network can be pruned any more.
    """
    after = model.over(network)
    strange = [name for name in after.sites if not _same_units(original, units, after, name)]
    return model.over(network, exclude=strange) if strange else after


def _same_units(
    original: SwitchedNetwork, units: Mapping[str, Tensor], after: SwitchedNetwork, name: str
) -> bool:
    """Are a site's units those that are left of the original's site of that name, in order?"""
    if name not in units or len(units[name]) != after.sites[name].size:
        return False
    keep = original.graph.keep_vector(units)
    # The original's number -> the present one, within the site; -1 for what is not of the site.
    renumber = torch.full((len(keep),), -1)
    renumber[original.graph.offsets[name] + units[name]] = torch.arange(len(units[name]))
    first, last = after.graph.offsets[name], after.graph.offsets[name] + len(units[name])
    for key, numbers in original.graph.axes.items():
        expected = renumber[numbers[keep[numbers]]]
        found = after.graph.axes.get(key, torch.full_like(expected, -1))
        found = torch.where((found >= first) & (found < last), found - first, -1)
        if not torch.equal(found, expected):
            return False
    return True
