"""Known posteriors of switches: in closed form, by quadrature, and as draws of a long NUTS run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import arviz as az
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.integrate import cumulative_simpson
from scipy.interpolate import PchipInterpolator
from scipy.special import gammaln, logsumexp

from ...model.errors import DirpruneError

Floats = NDArray[np.float64]
Switches = Mapping[str, Floats]  # site -> [points, K]


class Reference(ABC):
    """A posterior of switches that is known.

    Attributes:
        mean: site -> posterior means [K].
        sd: site -> posterior standard deviations [K].
        log_evidence: log p(y) in nats, None where nobody knows it.
        effective_draws: of how many independent draws it consists; infinite where it is exact.
    """

    mean: dict[str, Floats]
    sd: dict[str, Floats]
    log_evidence: float | None = None
    effective_draws: float = np.inf

    @abstractmethod
    def cdf(self, site: str, unit: int, x: Floats) -> Floats:
        """P(s_k <= x), the marginal of one unit."""

    @abstractmethod
    def quantile(self, site: str, unit: int, p: Floats) -> Floats:
        """The inverse of :meth:`cdf`."""

    @abstractmethod
    def draws(self, number: int, seed: int = 0) -> dict[str, Floats]:
        """Draws of the joint posterior, site -> [number, K]."""


class DirichletReference(Reference):
    """s ~ Dirichlet(concentration) at one site; the marginals are Betas."""

    def __init__(self, site: str, concentration: Floats, log_evidence: float) -> None:
        self.site, self.concentration = site, np.asarray(concentration, dtype=np.float64)
        exact = stats.dirichlet(self.concentration)
        self.mean, self.sd = {site: exact.mean()}, {site: np.sqrt(exact.var())}
        self.log_evidence = log_evidence

    def _marginal(self, unit: int) -> stats.rv_continuous:
        a = self.concentration[unit]
        return stats.beta(a, self.concentration.sum() - a)

    def cdf(self, site: str, unit: int, x: Floats) -> Floats:
        return np.asarray(self._marginal(unit).cdf(x))

    def quantile(self, site: str, unit: int, p: Floats) -> Floats:
        return np.asarray(self._marginal(unit).ppf(p))

    def draws(self, number: int, seed: int = 0) -> dict[str, Floats]:
        return {self.site: np.random.default_rng(seed).dirichlet(self.concentration, number)}


class GridReference(Reference):
    r"""The posterior of a few small simplices by Gauss-Legendre quadrature.

    A simplex is mapped to a cube by breaking sticks, :math:`s_1 = u_1, s_2 = (1 - u_1) u_2, \dots`,
    with Jacobian :math:`\prod_j (1 - u_j)^{K - 1 - j}`. Marginals come from the same rule with the
    unit as the first stick, on a grid of 401 values. The number of points is
    ``nodes`` to the power of the dimension: for three or four dimensions, no more.
    Marginals are computed when they are first asked for (half a second each).

    Args:
        sizes: site -> K.
        alpha: the concentration of the symmetric Dirichlet priors; at least 1, so that densities
            are bounded, and a whole number, so that the integrand is smooth.
        log_likelihood: switches -> [points], in nats.
        bound: no log likelihood exceeds it (exact draws are made by rejection from the prior).
        nodes: of the quadrature, in each dimension.
    """

    GRID = 401

    def __init__(
        self,
        sizes: Mapping[str, int],
        alpha: int,
        log_likelihood: Callable[[Switches], Floats],
        bound: float,
        nodes: int = 32,
    ) -> None:
        if alpha < 1 or int(alpha) != alpha:
            raise DirpruneError(f"alpha: expected a whole number of at least 1, got {alpha}")
        self.sizes, self.alpha, self.bound, self.nodes = dict(sizes), int(alpha), bound, nodes
        self.log_likelihood = log_likelihood
        points, log_weights = self.rule({})
        log_joint = log_weights + self.log_joint(points)
        self.log_evidence = float(logsumexp(log_joint))
        mass = np.exp(log_joint - self.log_evidence)
        self.mean = {site: mass @ s for site, s in points.items()}
        self.sd = {site: np.sqrt(mass @ (s - self.mean[site]) ** 2) for site, s in points.items()}
        self._marginals: dict[tuple[str, int], PchipInterpolator] = {}

    def cdf(self, site: str, unit: int, x: Floats) -> Floats:
        return np.asarray(self._marginal(site, unit)(np.clip(x, 0, 1)))

    def quantile(self, site: str, unit: int, p: Floats) -> Floats:
        grid = np.linspace(0, 1, 20 * self.GRID)
        below = self.cdf(site, unit, grid)
        rising = np.concatenate([[True], np.diff(below) > 0])
        return np.asarray(np.interp(p, below[rising], grid[rising]))

    def draws(self, number: int, seed: int = 0) -> dict[str, Floats]:
        rng = np.random.default_rng(seed)
        kept: dict[str, list[Floats]] = {site: [] for site in self.sizes}
        found = 0
        while found < number:
            proposed = {
                site: rng.dirichlet(np.full(size, float(self.alpha)), 200_000)
                for site, size in self.sizes.items()
            }
            accept = np.log(rng.random(200_000)) < self.log_likelihood(proposed) - self.bound
            for site, s in proposed.items():
                kept[site].append(s[accept])
            found += int(accept.sum())
        return {site: np.concatenate(parts)[:number] for site, parts in kept.items()}

    def log_joint(self, points: Switches) -> Floats:
        """log p(y, s) of points, [points], in nats."""
        total = self.log_likelihood(points)
        for site, s in points.items():
            size = self.sizes[site]
            constant = gammaln(size * self.alpha) - size * gammaln(self.alpha)
            total = total + constant
            if self.alpha > 1:  # 0 log 0 otherwise
                total = total + (self.alpha - 1) * np.log(s).sum(1)
        return total

    def rule(self, fixed: Mapping[str, tuple[int, float]]) -> tuple[dict[str, Floats], Floats]:
        """Points and log weights over all sites; ``fixed``: site -> (unit, the value it has)."""
        points: dict[str, Floats] = {}
        log_weights = np.zeros(1)
        for site, size in self.sizes.items():
            if site in fixed:
                unit, value = fixed[site]
                rest, w = _simplex_rule(size - 1, self.nodes)
                s = np.insert((1 - value) * rest, unit, value, axis=1)
                w = w * (1 - value) ** (size - 2)
            else:
                s, w = _simplex_rule(size, self.nodes)
            before = len(log_weights)
            points = {name: np.repeat(p, len(s), axis=0) for name, p in points.items()}
            points[site] = np.tile(s, (before, 1))
            with np.errstate(divide="ignore"):  # a weight of 0 where the fixed unit has it all
                log_weights = np.repeat(log_weights, len(s)) + np.tile(np.log(w), before)
        return points, log_weights

    def _marginal(self, site: str, unit: int) -> PchipInterpolator:
        if (site, unit) not in self._marginals:
            self._marginals[site, unit] = self._integrate(site, unit)
        return self._marginals[site, unit]

    def _integrate(self, site: str, unit: int) -> PchipInterpolator:
        grid = np.linspace(0, 1, self.GRID)
        density = np.zeros(self.GRID)
        assert self.log_evidence is not None
        for i, value in enumerate(grid):
            points, log_weights = self.rule({site: (unit, float(value))})
            with np.errstate(divide="ignore"):  # the prior's density is 0 at the edge
                log_joint = log_weights + self.log_joint(points)
            density[i] = np.exp(logsumexp(log_joint) - self.log_evidence)
        below = cumulative_simpson(density, x=grid, initial=0)
        return PchipInterpolator(grid, np.maximum.accumulate(below / below[-1]))


class DrawsReference(Reference):
    """A posterior known by draws, of a long NUTS run, say.

    Args:
        draws: site -> [chain, draw, K].
    """

    def __init__(self, draws: Mapping[str, torch.Tensor]) -> None:
        chains = {site: s.double().cpu().numpy() for site, s in draws.items()}
        self._draws = {site: s.reshape(-1, s.shape[-1]) for site, s in chains.items()}
        self.mean = {site: s.mean(0) for site, s in self._draws.items()}
        self.sd = {site: s.std(0, ddof=1) for site, s in self._draws.items()}
        dataset = az.convert_to_dataset(chains)
        # The least over units, of the bulk and of both tails: of what the marginals are made.
        self.effective_draws = min(
            float(az.ess(dataset, method=method)[site].min())
            for method in ("bulk", "tail")
            for site in chains
        )
        self.rhat = max(float(az.rhat(dataset)[site].max()) for site in chains)

    def cdf(self, site: str, unit: int, x: Floats) -> Floats:
        values = np.sort(self._draws[site][:, unit])
        return np.searchsorted(values, x, side="right") / len(values)

    def quantile(self, site: str, unit: int, p: Floats) -> Floats:
        return np.asarray(np.quantile(self._draws[site][:, unit], p))

    def draws(self, number: int, seed: int = 0) -> dict[str, Floats]:
        have = len(next(iter(self._draws.values())))
        rows = np.random.default_rng(seed).choice(have, number, replace=number > have)
        return {site: s[rows] for site, s in self._draws.items()}


def _simplex_rule(size: int, nodes: int) -> tuple[Floats, Floats]:
    """Points [n, K] on a simplex and their weights [n] for Lebesgue measure on K - 1 coordinates.

    >>> points, weights = _simplex_rule(3, 4)
    >>> float(weights.sum().round(12))  # the area of a triangle
    0.5
    """
    x, w = np.polynomial.legendre.leggauss(nodes)
    x, w = (x + 1) / 2, w / 2
    points, weights, left = np.zeros((1, 0)), np.ones(1), np.ones(1)
    for j in range(1, size):
        stick = np.outer(left, x).ravel()
        weights = np.outer(weights, w * (1 - x) ** (size - 1 - j)).ravel()
        points = np.column_stack([np.repeat(points, nodes, axis=0), stick])
        left = np.repeat(left, nodes) - stick
    return np.column_stack([points, left]), weights
