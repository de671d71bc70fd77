"""How much is left after each round, where units go in several."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from .budget import full_cost, is_within, target
from .decide import decide
from .rule import Widths
from .widths import UNIFORM


@dataclass(frozen=True)
class Schedule:
    r"""Budgets and widths that shrink by the same factor in each of R rounds.

    After round r a budget of share b is :math:`b^{r/R}`, and of K units that are to become w there
    are :math:`K (w/K)^{r/R}`, to the nearest whole number.

    Attributes:
        model: the original one, whose costs the shares are of.
        budget: "macs", "params" and "keep", as shares; empty where the widths are given.
        widths: None, "uniform", or units by site.
        round_to: channels in a block; None rounds nothing.
        rounds: R.

    Raises:
        DirpruneError: a budget that is out of range or that cannot be met, or widths that do not
            fit.
    """

    model: SwitchedNetwork
    budget: Mapping[str, Any]
    widths: Widths = None
    round_to: int | None = None
    rounds: int = 6
    settings: dict[str, Any] = field(init=False)  # of the one-shot decision under the same budget

    def __post_init__(self) -> None:
        found = decide(
            self.model, self._ones(self.model.sites), **self.budget, widths=self.widths,
            round_to=self.round_to,
        )  # fmt: skip
        object.__setattr__(self, "settings", dict(found.settings))

    def after(self, number: int) -> dict[str, Any]:
        """The budgets after round ``number``, counted from 1, as shares of the original."""
        if number == self.rounds:
            return dict(self.budget)
        return {what: share ** (number / self.rounds) for what, share in self.budget.items()}

    def aim(
        self, number: int, left: SwitchedNetwork, units: Mapping[str, Tensor], judged: set[str]
    ) -> dict[str, Any]:
        """What to ask of ``decide`` on the network that is left, in round ``number``.

        Args:
            number: of the round, from 1.
            left: the model of what is left.
            units: site of the original -> its units that are left.
            judged: sites that there is evidence about.

        Raises:
            DirpruneError: a site that cannot be pruned any more is wider than it is to be.
        """
        # Sites of one unit are none of the smaller network, and have no evidence; of the original's
        # costs they have their share all the same.
        widths = self._widths(number, judged | {name for name in units if name not in left.sites})
        if widths is not None:
            for name, units_left in units.items():
                if name not in left.sites and len(units_left) > widths.get(name, len(units_left)):
                    why = left.unprunable.get(name, "it is no site of it any more")
                    raise DirpruneError(
                        f"{len(units_left)} units of site {name!r} are left, which are to become "
                        f"{widths[name]}, but what is left of the network cannot do without any of "
                        f"them: {why}"
                    )
            return {"widths": {name: w for name, w in widths.items() if name in left.sites}}
        allowed = {
            what: target(what, share, full_cost(self.model.costs, what))
            for what, share in self.after(number).items()
        }
        if "keep" in allowed:  # what is no site any more has units that stay
            allowed["keep"] -= sum(len(u) for name, u in units.items() if name not in left.sites)
        shares = {
            what: share_of(what, number, full_cost(left.costs, what))
            for what, number in allowed.items()
        }
        return {**shares, "round_to": self.round_to}

    def met(self, units: Mapping[str, Tensor]) -> bool:
        """Is what is left all that the last round may leave?"""
        widths = self._widths(self.rounds, set(self.model.sites))
        if widths is not None:
            return all(len(units[name]) <= width for name, width in widths.items())
        costs = self.model.costs
        return is_within(costs, costs.keep_vector(units), self.budget)

    def _widths(self, number: int, judged: set[str]) -> dict[str, int] | None:
        """The units of each site after a round, where the scores do not choose them."""
        if isinstance(self.widths, Mapping):
            part, sites = number / self.rounds, self.model.sites
            return {
                name: math.floor(sites[name].size * (width / sites[name].size) ** part + 0.5)
                for name, width in self.widths.items()
            }
        if self.widths == UNIFORM:
            found = decide(
                self.model, self._ones(judged), **self.after(number), widths=UNIFORM,
                round_to=self.round_to,
            )  # fmt: skip
            return {name: len(units) for name, units in found.kept.items()}
        return None

    def _ones(self, names: Any) -> dict[str, Tensor]:
        return {name: torch.ones(self.model.sites[name].size) for name in names}


def share_of(what: str, allowed: int, cost: int) -> float:
    """The share of a cost that allows so much of it, to the unit; 1 where it allows it all.

    >>> share_of("macs", 1, 3)
    0.33333333333333337
    """
    share = min(1.0, allowed / max(cost, 1))
    while share < 1 and target(what, share, cost) < allowed:  # rounded down: one bit more
        share = math.nextafter(share, 1)
    return share
