"""What simulation-based calibration found: ranks, and verdicts in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .tree import unit_dim
from .uniformity import Floats, Uniformity, uniformity

Ranks = NDArray[np.int64]

LEVEL = 0.05
LIKELIHOOD = "log_likelihood"
MEANINGS = {
    "calibrated": "no departure from calibration was found",
    "over-confident": "the truth is too often in the tails: the posterior is too narrow",
    "under-confident": "the truth is too often in the middle: the posterior is too wide",
    "biased low": "the truth is too often above the draws: the posterior lies too low",
    "biased high": "the truth is too often below the draws: the posterior lies too high",
    "miscalibrated": "the ranks are not uniform, in another way than by place or width",
}


@dataclass(frozen=True)
class Calibration:
    """The ranks of the truth among posterior draws, one per simulation.

    Attributes:
        ranks: site -> [simulations, K]: how many of the draws are below the true switch, 0..draws;
            and ``"log_likelihood"`` -> [simulations, 1]: how many have a lower one than the truth.
        draws: posterior draws in each simulation.
        seconds: wall time.
        settings: how it was run.
    """

    ranks: dict[str, Ranks]
    draws: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Floats]:
        """Ranks as values in (0, 1): (rank + U) / (draws + 1), exactly uniform if ranks are."""
        rng = np.random.default_rng(self.settings.get("seed", 0))
        return {
            name: (ranks + rng.random(ranks.shape)) / (self.draws + 1)
            for name, ranks in self.ranks.items()
        }

    def findings(self) -> dict[str, list[Uniformity]]:
        """The test of uniformity of every unit, and of the log likelihood."""
        return {
            name: [uniformity(column) for column in values.T]
            for name, values in self.values().items()
        }

    def summary(self) -> dict[str, Any]:
        """A verdict in words on every unit and overall, as JSON can hold it.

        A unit is found at fault where its p-value times the number of tests is below 5 %
        (Bonferroni): a calibrated guide is called so with a probability of at least 95 %. The word
        is that of the larger of the standard scores of place and width, where it exceeds 2.
        """
        found = self.findings()
        tests = sum(len(units) for units in found.values())
        least = min(f.p_value for units in found.values() for f in units)
        named = {name: [_verdict(f, tests) for f in units] for name, units in found.items()}
        at_fault = [
            (f.p_value, -max(abs(f.location), abs(f.spread)), word)
            for name, units in found.items()
            if name != LIKELIHOOD
            for f, word in zip(units, named[name], strict=True)
            if word != "calibrated"
        ]
        if at_fault:
            overall = min(at_fault)[2]
        else:
            overall = "calibrated" if named[LIKELIHOOD] == ["calibrated"] else "miscalibrated"
        return {
            "verdict": overall,
            "text": self._text(overall, bool(at_fault), named, least, tests),
            "p_value": min(1.0, tests * least),
            "level": LEVEL,
            "simulations": self.simulations,
            "draws": self.draws,
            "seconds": self.seconds,
            "settings": self.settings,
            "units": {
                name: [
                    {
                        "verdict": word,
                        "p_value": f.p_value,
                        "location": f.location,
                        "spread": f.spread,
                    }
                    for f, word in zip(units, named[name], strict=True)
                ]
                for name, units in found.items()
            },
        }

    @property
    def simulations(self) -> int:
        return len(next(iter(self.ranks.values())))

    def tree(self) -> xr.DataTree:
        """A DataTree for ArviZ: ``az.plot_ecdf_pit(result.tree())`` draws it.

        ``prior_sbc`` holds :meth:`values`, ``ranks`` the ranks, both over chain (one), draw (the
        simulation) and, for switches, {site}_unit.
        """

        def dataset(values: Mapping[str, NDArray[Any]]) -> xr.Dataset:
            data = {
                name: (("chain", "draw"), v.T)
                if name == LIKELIHOOD
                else (("chain", "draw", unit_dim(name)), v[None])
                for name, v in values.items()
            }
            made = xr.Dataset(data)
            return made.assign_coords({d: np.arange(n) for d, n in made.sizes.items()})

        tree = xr.DataTree.from_dict(
            {"prior_sbc": dataset(self.values()), "ranks": dataset(self.ranks)}
        )
        tree.attrs = {"draws": self.draws, "settings": json.dumps(self.settings)}
        return tree

    def _text(
        self,
        overall: str,
        by_switches: bool,
        named: Mapping[str, list[str]],
        least: float,
        tests: int,
    ) -> str:
        units = [word for name, words in named.items() if name != LIKELIHOOD for word in words]
        counts = {word: units.count(word) for word in MEANINGS if word in units}
        if overall == "calibrated":
            meaning = MEANINGS[overall]
        elif by_switches:
            meaning = (
                ", ".join(
                    f"{n} of {len(units)} switches {word}"
                    for word, n in counts.items()
                    if word != "calibrated"
                )
                + f"; {MEANINGS[overall]}"
            )
        else:
            meaning = (
                "every switch by itself is calibrated, but the draws' log likelihood is not that "
                "of the truth: the joint posterior or its use of the data is wrong"
            )
        return (
            f"{overall}: {meaning} (p = {min(1.0, tests * least):.2g}: the smallest of {tests}, "
            f"times {tests}; {self.simulations} simulations)."
        )


def _verdict(found: Uniformity, tests: int) -> str:
    if found.p_value * tests >= LEVEL:
        return "calibrated"
    if max(abs(found.location), abs(found.spread)) < 2:
        return "miscalibrated"
    if abs(found.spread) >= abs(found.location):
        return "over-confident" if found.spread > 0 else "under-confident"
    return "biased low" if found.location > 0 else "biased high"
