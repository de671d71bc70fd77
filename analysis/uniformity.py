"""Simultaneous bands for ECDFs: of values that should be uniform, and of several chains' ranks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, hypergeom

Floats = NDArray[np.float64]

RANK_SIMULATIONS, RANK_POINTS = 2000, 100  # of the band for ranks of several chains
SIMULATIONS = 10_000  # of the null: it gives p-values down to 1e-4


@dataclass(frozen=True)
class Uniformity:
    """What a test of uniformity found.

    Attributes:
        p_value: of the simultaneous test: small where the ECDF leaves the band somewhere.
        location: standard score of the mean: negative where values are too small.
        spread: standard score of the variance: positive for a U, negative for a hump (or for values
            that crowd at one end, where ``location`` is the larger).
    """

    p_value: float
    location: float
    spread: float


def uniformity(values: Floats) -> Uniformity:
    r"""Test n independent values for uniformity on (0, 1), at all points of their ECDF at once.

    At each of the points :math:`z_i = i / n` the count of values up to it is Binomial(n, z_i). The
    statistic is the smallest of the two-sided tail probabilities,

    .. math:: \gamma = 2 \min_i \min(P(B_i \le c_i), P(B_i \ge c_i)),

    and its distribution under uniformity is simulated (10,000 times). Where simulation cannot go on
    the p-value is the union bound (n - 1) gamma: with hundreds of tests one needs more than 1e-4.

    Source: Teemu Säilynoja, Paul-Christian Bürkner, Aki Vehtari, "Graphical Test for Discrete
    Uniformity and Its Applications in Goodness of Fit Evaluation and Multiple Sample Comparison",
    2022, arXiv 2103.10522. (ArviZ 1.3 draws the same bands, but gives no p-value for them; its
    1,000 simulations leave the false alarm rate uncertain by a seventh, and counts that it rounds
    down from quotients are one too low at some n.)
    """
    n = len(values)
    null = _null(n)
    statistic = float(_statistic(_counts(values), n))
    u = 2 * np.asarray(values) - 1
    simulated = (1 + np.searchsorted(null, statistic, side="right")) / (1 + len(null))
    return Uniformity(
        p_value=float(min(simulated, (n - 1) * statistic)),
        location=float(u.mean() * np.sqrt(3 * n)),
        # Of (2 u - 1)^2 the mean is 1/3, and the variance 4/45.
        spread=float((u.var(ddof=1) - 1 / 3) / np.sqrt(4 / 45 / n)),
    )


def band(n: int, probability: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """The simultaneous band for the ECDF of n uniform values: points z, lower and upper ends.

    The whole ECDF is inside with the given probability.
    """
    level = np.quantile(_null(n), 1 - probability)
    z = np.arange(1, n) / n
    low, high = binom.ppf(level / 2, n, z) / n, binom.ppf(1 - level / 2, n, z) / n
    return np.r_[0, z, 1], np.r_[0, low, 1], np.r_[0, high, 1]


def ecdf(values: Floats) -> Floats:
    """The ECDF of n values at the points of :func:`band`."""
    n = len(values)
    return np.r_[0, _counts(values) / n, 1]


@lru_cache(maxsize=8)
def rank_band(draws: int, chains: int, probability: float = 0.95) -> tuple[Floats, Floats, Floats]:
    r"""Where the ECDFs of all chains' ranks lie at once, if chains agree.

    Of the first m of all C n ranks a chain has Hypergeometric(C n, m, n). The band holds each count
    with the probability 1 - gamma at which, by simulation, all counts of all chains lie in theirs
    in 95 % of cases.

    Returns:
        Points m / (C n) and the band's ends there, [points] each.
    """
    total = draws * chains
    m = np.unique(np.linspace(0, total, RANK_POINTS + 1).round().astype(int))[1:-1]
    table = hypergeom.cdf(np.arange(-1, draws + 1), total, m[:, None], draws)  # from count -1
    rng, member = np.random.default_rng(0), np.repeat(np.arange(chains), draws)
    smallest = np.empty(RANK_SIMULATIONS)
    for i in range(RANK_SIMULATIONS):
        which = rng.permutation(member)
        counts = np.cumsum(which == np.arange(chains)[:, None], axis=1)[:, m - 1]
        point = np.arange(len(m))
        below, above = table[point, counts + 1], 1 - table[point, counts]
        smallest[i] = 2 * min(below.min(), above.min())
    gamma = float(np.quantile(smallest, 1 - probability))
    low, high = (hypergeom.ppf(q, total, m, draws) for q in (gamma / 2, 1 - gamma / 2))
    ends = np.zeros(1), np.ones(1)
    return tuple(  # type: ignore[return-value]
        np.concatenate([ends[0], part, ends[1]]) for part in (m / total, low / draws, high / draws)
    )


def _counts(values: Floats) -> NDArray[np.int64]:
    n = len(values)
    return np.searchsorted(np.sort(values), np.arange(1, n) / n, side="right").astype(np.int64)


def _statistic(counts: NDArray[np.int64], n: int) -> Floats:
    """gamma of counts [..., n - 1]."""
    below, above = _tails(n)
    i = np.arange(n - 1)
    return np.asarray(2 * np.minimum(below[i, counts], above[i, counts]).min(-1))


@lru_cache(maxsize=8)
def _tails(n: int) -> tuple[Floats, Floats]:
    """P(B_i <= c) and P(B_i >= c), [n - 1, n + 1] each."""
    z, c = np.arange(1, n)[:, None] / n, np.arange(n + 1)[None]
    return binom.cdf(c, n, z), binom.sf(c - 1, n, z)


@lru_cache(maxsize=8)
def _null(n: int) -> Floats:
    """Sorted statistics of uniform values: the counts between the points are multinomial."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=SIMULATIONS)[:, :-1].cumsum(1)
    return np.sort(_statistic(counts, n))
