"""Do two posteriors remove the same units: rank correlation, kept sets, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, t

from ...model.errors import DirpruneError

Floats = NDArray[np.float64]
BOOTSTRAPS = 100  # enough for a standard deviation, to within 7 %
FEW = 3  # below so many seeds an interval over seeds says nothing: t is 12.7 with two


@dataclass(frozen=True)
class UnitScores:
    """The evidence of one posterior: site -> [K], and its draws, site -> [S, K], if it has any."""

    scores: Mapping[str, Floats]
    draws: Mapping[str, Floats] | None = None

    def resampled(self, rng: np.random.Generator) -> Mapping[str, Floats]:
        """The scores of a bootstrap sample of the draws, which are joint over sites."""
        if self.draws is None:
            return self.scores
        number = len(next(iter(self.draws.values())))
        rows = rng.integers(number, size=number)
        return {site: values[rows].mean(0) for site, values in self.draws.items()}

    def halves(self) -> tuple[UnitScores, UnitScores]:
        """Even and odd draws: what agreement the noise of the draws leaves room for.

        Each half has half of the draws, so two posteriors that are equal agree somewhat better.
        """
        if self.draws is None:
            return self, self
        parts = [{site: v[i::2] for site, v in self.draws.items()} for i in (0, 1)]
        one, two = (UnitScores({site: v.mean(0) for site, v in p.items()}, p) for p in parts)
        return one, two


@dataclass(frozen=True)
class Agreement:
    """A mean over seeds with its 95 % interval.

    Attributes:
        value: the mean of Kendall's tau.
        low: NaN, as ``high``, where there is nothing to tell it from.
        high: the upper end.
        over: what the interval is over, "seeds" or "draws".
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    over: str = ""


def rank_agreement(first: Mapping[str, Floats], second: Mapping[str, Floats]) -> float:
    r"""Kendall's tau of unit scores within sites, weighted by the sites' numbers of pairs.

    .. math:: \tau = \sum_l \binom{K_l}{2} \tau_l \Big/ \sum_l \binom{K_l}{2}

    tau-b, which allows for ties. A site with one unit, or one whose scores are all equal, has no
    order and is left out; NaN if no site has one.

    >>> a = {"conv1": np.array([3.0, 2.0, 1.0]), "fc1": np.array([1.0, 2.0])}
    >>> b = {"conv1": np.array([3.0, 1.0, 2.0]), "fc1": np.array([2.0, 1.0])}
    >>> rank_agreement(a, a), rank_agreement(a, b)  # (3 x 1/3 - 1 x 1) / 4
    (1.0, 0.0)
    """
    if {n: len(v) for n, v in first.items()} != {n: len(v) for n, v in second.items()}:
        raise DirpruneError("the scores are of different networks: their sites differ")
    total = pairs = 0.0
    for site, values in first.items():
        if np.ptp(values) == 0 or np.ptp(second[site]) == 0:
            continue
        weight = len(values) * (len(values) - 1) / 2
        total += weight * float(kendalltau(values, second[site]).statistic)
        pairs += weight
    return total / pairs if pairs else math.nan


def kept_agreement(
    first: Mapping[str, Sequence[int]], second: Mapping[str, Sequence[int]]
) -> float:
    """The Jaccard overlap of two kept sets, over all sites: shared units / units in either.

    >>> kept_agreement({"conv1": [0, 1], "fc1": [4]}, {"conv1": [1], "fc1": [4, 5]})
    0.5
    """
    a = {(site, int(unit)) for site, units in first.items() for unit in units}
    b = {(site, int(unit)) for site, units in second.items() for unit in units}
    return len(a & b) / len(a | b)


def mean_agreement(pairs: Sequence[tuple[UnitScores, UnitScores]], seed: int = 0) -> Agreement:
    r"""The mean of :func:`rank_agreement` over pairs, one of each seed, with a 95 % interval.

    The interval is on Fisher's scale, :math:`z = \mathrm{artanh}\,\tau`, which keeps it within
    (-1, 1). From three seeds on it is Student's over seeds. With one or two it is over posterior
    draws: a bootstrap resamples the draws of both sides, and its standard deviation (not its
    quantiles: a resample is noisier than the sample, which lowers tau) gives the width; that
    interval holds for these networks alone.
    """
    taus = np.array([rank_agreement(a.scores, b.scores) for a, b in pairs])
    value, number = float(taus.mean()), len(taus)
    if not math.isfinite(value):
        return Agreement(value)
    if number >= FEW:
        z = _fisher(taus)
        middle = float(z.mean())
        half = float(t.ppf(0.975, number - 1) * z.std(ddof=1) / math.sqrt(number))
        over = "seeds"
    elif any(side.draws is not None for pair in pairs for side in pair):
        rng = np.random.default_rng(seed)
        again = [
            np.mean([rank_agreement(a.resampled(rng), b.resampled(rng)) for a, b in pairs])
            for _ in range(BOOTSTRAPS)
        ]
        middle, half = float(_fisher(taus).mean()), 1.96 * float(_fisher(np.array(again)).std())
        over = "draws"
    else:
        return Agreement(value)
    return Agreement(value, math.tanh(middle - half), math.tanh(middle + half), over)


def _fisher(taus: Floats) -> Floats:
    return np.asarray(np.arctanh(np.clip(taus, -0.9999, 0.9999)))
