"""A budget in latency: the largest network that is measured to be within it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from ...inference.latency import Latency, Share, measure_latency
from ...model.errors import DirpruneError
from ...model.surgery import cut
from ...model.switched import SwitchedNetwork
from .budget import by_site, keep_within, smallest_share

Kept = Mapping[str, Tensor]

# Rounds of a measurement. The bound has to hold in three quarters of them: of 20 that is a sign
# test of the median at 2 % (binomial, 15 of 20).
SEARCH_ROUNDS, FINAL_ROUNDS = 10, 20
RESOLUTION = 0.01  # of the multiply-adds


@dataclass(frozen=True)
class Measured:
    """A decision under a budget of multiply-adds, and what its network was measured to take."""

    macs: float
    kept: Kept
    before: Latency
    after: Latency

    @property
    def share(self) -> Share:
        return self.after.share_of(self.before)

    def within(self, bound: float) -> bool:
        """Is it within the bound in the median and in three quarters of the rounds?"""
        return self.share.high <= bound and self.after.median_ms <= bound * self.before.median_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a decision's settings."""
        share = self.share
        return {
            "macs": self.macs,
            "share": share.median,
            "share_quartiles": [share.low, share.high],
            "before_ms": self.before.median_ms,
            "after_ms": self.after.median_ms,
            "before_iqr_ms": self.before.iqr_ms,
            "after_iqr_ms": self.after.iqr_ms,
            "rounds": len(self.after.rounds_ms),
            "batch": self.after.batch,
            "threads": self.after.threads,
        }

    def __str__(self) -> str:
        share, after = self.share, self.after
        return (
            f"{share.median:.3f} of the original's latency (quartiles {share.low:.3f} to "
            f"{share.high:.3f}; {after.median_ms:.3g} of {self.before.median_ms:.3g} ms for a "
            f"batch of {after.batch} on {after.threads} thread{'s' if after.threads > 1 else ''})"
        )


def check_latency(
    model: SwitchedNetwork, bound: float, *, round_to: int = 1, inputs: Any = None
) -> None:
    """Refuse a bound that not even the smallest network is within, before anything is learned.

    Raises:
        DirpruneError: that is so; the message has the figures.
    """
    units = model.costs.num_units
    none, ones = np.zeros(units, dtype=bool), np.ones(units)
    smallest = smallest_share(model.costs, none, "macs", round_to)
    kept = keep_within(model.costs, ones, none, {"macs": smallest}, round_to=round_to)
    found = _measure(model, smallest, by_site(model.costs, kept), inputs, FINAL_ROUNDS)
    _refuse(found, bound)


def find_within_latency(
    model: SwitchedNetwork,
    choose: Callable[[float], Kept],
    bound: float,
    smallest: float,
    inputs: Any = None,
) -> Measured:
    """The largest decision, in multiply-adds, whose network is within the bound.

    The interval between a budget of multiply-adds that is within and one that is not is halved
    until it is a hundredth wide. Every candidate is cut, and timed in turns with the original. The
    one that is left is measured once more, longer; if it fails there, the search goes on below it:
    what comes back has held in a measurement by which it was not chosen.

    Args:
        model: the switched network.
        choose: share of multiply-adds -> kept units.
        bound: share of the original's latency.
        smallest: the smallest share of multiply-adds that there is.
        inputs: the batch to time; by default the model's example inputs.

    Raises:
        DirpruneError: not even the smallest network is within the bound.
    """
    with tqdm(desc="latency", unit="network", disable=None, leave=False) as bar:

        def measure(macs: float, rounds: int) -> Measured:
            found = _measure(model, macs, choose(macs), inputs, rounds)
            bar.update()
            bar.set_postfix_str(f"macs={macs:g}: {found.share.median:.2f} of the latency")
            return found

        everything = all(len(k) == model.sites[name].size for name, k in choose(1.0).items())
        if bound == 1 or not everything:  # of all units there is nothing but noise to measure
            whole = measure(1.0, FINAL_ROUNDS)
            if everything or whole.within(bound):
                return whole
        least = measure(smallest, FINAL_ROUNDS)
        _refuse(least, bound)
        within, above = [least], 1.0  # measured within the bound, ascending; and one that was not
        while True:
            while above - within[-1].macs > RESOLUTION:
                middle = round((within[-1].macs + above) / 2, 4)
                found = measure(middle, SEARCH_ROUNDS)
                if found.within(bound):
                    within.append(found)
                else:
                    above = middle
            chosen = within.pop()
            if not within:
                return chosen  # the smallest, whose measurement was a long one
            again = measure(chosen.macs, FINAL_ROUNDS)
            if again.within(bound):
                return again
            above = chosen.macs


def _measure(model: SwitchedNetwork, macs: float, kept: Kept, inputs: Any, rounds: int) -> Measured:
    args, kwargs = (
        (model.example_inputs, model.example_kwargs) if inputs is None else model.arguments(inputs)
    )
    networks = [model.network, cut(model.network, model.graph, kept)]
    before, after = measure_latency(networks, args, kwargs=kwargs, rounds=rounds)
    return Measured(macs, kept, before, after)


def _refuse(smallest: Measured, bound: float) -> None:
    if not smallest.within(bound):
        raise DirpruneError(
            f"budget latency={bound}: not even the smallest network is within it: "
            f"macs={smallest.macs} takes {smallest}"
        )
