"""The truncated log-normal and log-uniform against quadrature, draws and finite differences."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor
from torch.distributions import kl_divergence

from dirprune.guides.distributions import TruncatedLogNormal, TruncatedLogUniform
from dirprune.guides.distributions.truncated_normal import log_mass, quantile

F64 = torch.float64
A, B = math.exp(-20), 1.0
# Below, at and above both bounds; needles and a nearly flat log theta.
GRID = [
    (mu, sigma)
    for mu in (-22.0, -20.0, -19.0, -10.0, -1.0, -1e-3, 0.0, 0.5, 2.0)
    for sigma in (1e-3, 0.05, 0.7, 3.0, 10.0, 100.0)
]


def make(mu: float, sigma: float) -> TruncatedLogNormal:
    loc, scale = torch.tensor(mu, dtype=F64), torch.tensor(sigma, dtype=F64)
    return TruncatedLogNormal(loc, scale, A, B)


def quadrature(mu: float, sigma: float) -> Callable[[Callable[[float], float]], float]:
    """E[f(log theta)], scipy's: the density relative to its mode, in pieces of its own width."""
    mode = min(max(mu, -20.0), 0.0)
    # The length over which the log density falls by one: sigma, or less where it is steep.
    length = min(sigma, sigma**2 / abs(mu - mode)) if mu != mode else sigma
    pieces = [mode + sign * length * k for k in (0, 2, 5, 10, 20, 45) for sign in (-1, 1)]
    pieces = sorted({min(max(x, -20.0), 0.0) for x in [-20.0, 0.0, *pieces]})

    def weight(x: float) -> float:
        return math.exp(-(x - mode) * (x + mode - 2 * mu) / (2 * sigma**2))

    def integral(f: Callable[[float], float]) -> float:
        parts = [
            integrate.quad(lambda x: weight(x) * f(x), low, high, epsabs=0, epsrel=1e-10, limit=200)
            for low, high in itertools.pairwise(pieces)
            if weight(min(max(mode, low), high)) > 1e-30
        ]
        return math.fsum(value for value, _ in parts)

    total = integral(lambda x: 1.0)
    return lambda f: integral(f) / total


@pytest.mark.parametrize(("mu", "sigma"), GRID)
def test_moments_and_kl_by_quadrature(mu: float, sigma: float) -> None:
    q, mean_of = make(mu, sigma), quadrature(mu, sigma)
    mean = mean_of(math.exp)
    # Two units of log beyond a bound and sigma = 1e-3, logs of masses are -2e6: 1e-10 of digits.
    assert float(q.mean) == pytest.approx(mean, rel=2e-9)
    variance = mean_of(lambda x: (math.exp(x) - mean) ** 2)
    assert float(q.variance) == pytest.approx(variance, rel=2e-7)
    assert float(q.signal_to_noise) == pytest.approx(mean / math.sqrt(variance), rel=1e-7)
    # KL = E[log q_x] + log 20 with q_x the density of log theta.
    kl = mean_of(lambda x: float(q.log_prob(torch.tensor(math.exp(x), dtype=F64).clamp(A, B))) + x)
    found = kl_divergence(q, TruncatedLogUniform(torch.tensor(A, dtype=F64), B))
    assert float(found) == pytest.approx(kl + math.log(20), rel=1e-7, abs=2e-9)


@pytest.mark.parametrize(("mu", "sigma"), [(m, s) for m, s in GRID if s >= 0.05])
def test_the_density_integrates_to_one(mu: float, sigma: float) -> None:
    # Over theta itself, by log-spaced Gauss-Legendre panels: no normalisation in the test. The
    # needles of sigma = 1e-3 are in the test of the KL, whose value has the constant.
    q = make(mu, sigma)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    edges = np.linspace(-20, 0, 4001)
    half = 0.5 * (edges[1:] - edges[:-1])[:, None]
    x = torch.from_numpy((edges[:-1, None] + half * (nodes + 1)).ravel())
    w = torch.from_numpy((half * weights).ravel())
    # Steps of .005 and 20 nodes see a density that falls with 40 to a unit to rounding.
    assert float(w @ (q.log_prob(x.exp()) + x).exp()) == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize(("mu", "sigma"), GRID)
def test_quantiles_and_probabilities_are_inverse(mu: float, sigma: float) -> None:
    q = make(mu, sigma)
    u = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.9, 0.999], dtype=F64)
    theta = q.icdf(u)
    assert bool(q.support.check(theta).all())
    # theta has a relative rounding of 1e-16 and log theta is known to 4e-15 (near -20), in units
    # of the density's length, 5e-7 at the steepest.
    torch.testing.assert_close(q.cdf(theta), u, rtol=1e-5, atol=1e-7)
    ends = torch.tensor([0.0, 1.0], dtype=F64)
    torch.testing.assert_close(q.icdf(ends), torch.tensor([A, B], dtype=F64), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 2.0), (-2000.5, -2000.0), (3000.0, 3000.1), (-40.0, -39.0), (30, 60.0)]
)
def test_mass_and_quantile_far_out(low: float, high: float) -> None:
    # scipy's log_ndtr and ndtri_exp in the tail where they have digits (mirrored for the upper).
    left, right = (low, high) if low + high < 0 else (-high, -low)
    a, b = special.log_ndtr(left), special.log_ndtr(right)
    expected = b + math.log(-math.expm1(a - b))
    l, h = torch.tensor(low, dtype=F64), torch.tensor(high, dtype=F64)  # noqa: E741
    assert float(log_mass(l, h)) == pytest.approx(expected, rel=1e-12)
    u = 0.3 if low + high < 0 else 0.7
    z = special.ndtri_exp(np.logaddexp(a + math.log(0.7), b + math.log(0.3)))
    found = float(quantile(l, h, torch.tensor(u, dtype=F64)))
    assert found == pytest.approx(z if low + high < 0 else -z, rel=1e-12)


@pytest.mark.parametrize(
    ("mu", "sigma"), [(0.0, 1e-3), (0.0, 0.5), (-3.0, 0.1), (-10.0, 8.0), (-20.0, 2.0), (1.0, 0.3)]
)
def test_gradients_against_finite_differences(mu: float, sigma: float) -> None:
    prior = TruncatedLogUniform(torch.tensor(A, dtype=F64), B)
    u = torch.tensor([0.02, 0.4, 0.97], dtype=F64)
    middle = make(mu, sigma).icdf(torch.tensor([0.5], dtype=F64))

    def outcomes(parameters: Tensor) -> Tensor:
        loc, log_scale = parameters.unbind()
        q = TruncatedLogNormal(loc, log_scale.exp(), A, B)
        of_q = torch.stack([kl_divergence(q, prior), q.mean.log()])
        return torch.cat([of_q, q.icdf(u).log(), q.log_prob(middle)])

    at = torch.tensor([mu, math.log(sigma)], dtype=F64, requires_grad=True)
    own = torch.autograd.functional.jacobian(outcomes, at)
    assert bool(own.isfinite().all())
    # Fourth-order differences with steps of 1e-3 of the natural scale: 1e-9 and better, and the
    # rounding of values of 10 over steps of 1e-6.
    with torch.no_grad():
        for column, size in enumerate((1e-3 * min(sigma, 1.0), 1e-3)):
            step = torch.zeros(2, dtype=F64)
            step[column] = size
            near = outcomes(at + step) - outcomes(at - step)
            far = outcomes(at + 2 * step) - outcomes(at - 2 * step)
            expected = (8 * near - far) / (12 * size)
            torch.testing.assert_close(own[:, column], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("mu", "sigma"), GRID)
def test_gradients_are_finite(mu: float, sigma: float) -> None:
    loc = torch.tensor(mu, dtype=F64, requires_grad=True)
    scale = torch.tensor(sigma, dtype=F64, requires_grad=True)
    q = TruncatedLogNormal(loc, scale, A, B)
    u = torch.tensor([0.0, 1e-300, 0.5, 1 - 1e-16], dtype=F64)
    total = q.icdf(u).sum() + kl_divergence(q, TruncatedLogUniform(q.low, q.high))
    for gradient in torch.autograd.grad(total, (loc, scale)):
        assert bool(gradient.isfinite())


@pytest.mark.parametrize(("mu", "sigma"), [(-1.0, 0.7), (0.0, 0.05), (2.0, 0.7), (-10.0, 10.0)])
def test_draws_have_the_moments(mu: float, sigma: float) -> None:
    q = make(mu, sigma)
    draws = q.rsample(torch.Size([200_000]))
    assert bool(q.support.check(draws).all())
    se = math.sqrt(float(q.variance) / len(draws))
    assert abs(float(draws.mean() - q.mean)) < 4 * se
    # Kolmogorov's distance exceeds 1.95 / sqrt(n) in one of a thousand runs; the seed is fixed.
    distance = stats.kstest(q.cdf(draws).numpy(), "uniform").statistic
    assert distance < 1.95 / math.sqrt(len(draws))


def test_the_log_uniform() -> None:
    p = TruncatedLogUniform(torch.tensor(0.25, dtype=F64), 2.0)
    width = math.log(8)
    theta = torch.tensor([0.25, 0.7, 2.0], dtype=F64)
    expected = stats.loguniform(0.25, 2.0)
    torch.testing.assert_close(p.log_prob(theta), torch.from_numpy(expected.logpdf(theta)))
    torch.testing.assert_close(p.cdf(theta), torch.from_numpy(expected.cdf(theta)))
    torch.testing.assert_close(p.expand((3,)).icdf(p.cdf(theta)), theta)
    assert float(p.mean) == pytest.approx(1.75 / width, rel=1e-14)
    assert float(p.variance) == pytest.approx(float(expected.var()), rel=1e-10)
    draws = p.rsample(torch.Size([100_000]))
    assert abs(float(draws.mean()) - float(p.mean)) < 4 * math.sqrt(float(p.variance) / 1e5)
    assert bool(p.support.check(draws).all())


def test_a_flat_log_normal_is_the_log_uniform() -> None:
    # The density of log theta varies by (10 / sigma)^2 / 2 = 5e-7, and the KL by its square.
    q, p = make(-10.0, 1e4), TruncatedLogUniform(torch.tensor(A, dtype=F64), B)
    assert 0 <= float(kl_divergence(q, p)) + 1e-11 < 2e-11
    assert float(q.signal_to_noise) == pytest.approx(float(p.mean / p.variance.sqrt()), rel=1e-6)


def test_infinite_kl_outside_of_the_support() -> None:
    narrow = TruncatedLogUniform(torch.tensor(0.1, dtype=F64), 1.0)
    assert float(kl_divergence(make(0.0, 1.0), narrow)) == math.inf


def test_batches_and_bounds_are_checked() -> None:
    q = TruncatedLogNormal(torch.zeros(3), torch.ones(2, 1), A, B)
    assert q.batch_shape == (2, 3)
    assert q.expand((4, 2, 3)).rsample((5,)).shape == (5, 4, 2, 3)
    assert q.to_event(1).log_prob(torch.full((2, 3), 0.5)).shape == (2,)
    with pytest.raises(ValueError, match="low must be less than high"):
        TruncatedLogNormal(0.0, 1.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="low must be less than high"):
        TruncatedLogUniform(1.0, 0.5)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.tensor(2.0))


def test_an_expanded_one_is_as_many_copies() -> None:
    loc, scale = torch.tensor([-1.0, -3.0], dtype=F64), torch.tensor([0.5, 4.0], dtype=F64)
    loc.requires_grad_()
    u = torch.rand(3, 2, dtype=F64)
    q = TruncatedLogNormal(loc, scale, A, B)
    wide, copies = q.expand((3, 2)), TruncatedLogNormal(loc.expand(3, 2), scale, A, B)
    prior = TruncatedLogUniform(torch.tensor(A, dtype=F64), B).expand((3, 2))
    theta = wide.icdf(u)
    for of in (
        lambda d: d.mean, lambda d: d.variance, lambda d: d.log_prob(theta.detach()),
        lambda d: kl_divergence(d, prior), lambda d: d.icdf(u).sum(-1),
    ):  # fmt: skip
        torch.testing.assert_close(of(wide), of(copies), rtol=1e-15, atol=0)
    one, other = (torch.autograd.grad(d.icdf(u).square().sum(), loc)[0] for d in (wide, copies))
    torch.testing.assert_close(one, other, rtol=1e-14, atol=0)
