"""Log-normal noise on units: the exact optimum of its ELBO, and Bayesian model reduction."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize
from torch import Tensor, nn
from torch.distributions import kl_divergence
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from dirprune.analysis.decision.threshold import keep_above
from dirprune.analysis.evidence import Passes, evidence
from dirprune.analysis.evidence.log_normal_noise import (
    LOG_HIGH,
    LOG_LOW,
    Noise,
    NoiseJob,
    learn_noise,
)
from dirprune.analysis.evidence.model_reduction import reduced_to_interval, reduced_to_spike
from dirprune.analysis.evidence.structured_bayesian import SNR_THRESHOLD, noise_evidence
from dirprune.guides.distributions import TruncatedLogNormal, TruncatedLogUniform
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

F64 = torch.float64
A, B = math.exp(LOG_LOW), math.exp(LOG_HIGH)


def posterior(mu: float, sigma: float) -> TruncatedLogNormal:
    return TruncatedLogNormal(torch.tensor(mu, dtype=F64), torch.tensor(sigma, dtype=F64), A, B)


# -- Bayesian model reduction ----------------------------------------------------------------------

SMOOTH = [(-20.0, 3.0), (-12.0, 0.8), (-10.0, 10.0), (-2.0, 4.0), (0.0, 1.5), (0.0, 20.0)]
# 100 panels of 20 Gauss-Legendre nodes between two bounds of x = log theta: exact to rounding for
# densities that change over .3 and more.
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(20))


def integral(f: Callable[[Tensor], Tensor], low: float, high: float) -> float:
    edges = torch.linspace(low, high, 101, dtype=F64)
    half = 0.5 * (edges[1:] - edges[:-1])[:, None]
    return float((f(edges[:-1, None] + half * (NODES + 1)) * WEIGHTS * half).sum())


@pytest.mark.parametrize(("mu", "sigma"), SMOOTH)
def test_a_spike_by_quadrature(mu: float, sigma: float) -> None:
    # log E_q[p~ / p] with p~ = LogN(a, t^2), t large enough for quadrature; all in x = log theta.
    q, t = posterior(mu, sigma), 0.5
    reduced = TruncatedLogNormal(torch.tensor(LOG_LOW, dtype=F64), t, A, B)
    prior = TruncatedLogUniform(q.low, q.high)

    def integrand(x: Tensor) -> Tensor:
        theta = x.exp().clamp(A, B)
        return (q.log_prob(theta) + x + reduced.log_prob(theta) - prior.log_prob(theta)).exp()

    expected = math.log(integral(integrand, LOG_LOW, LOG_HIGH))
    assert float(reduced_to_spike(q, t)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("mu", "sigma"), [*SMOOTH, (-1.0, 0.05), (0.0, 1e-3), (-20.0, 1e-3)])
def test_a_thin_spike_is_savage_and_dickeys_ratio(mu: float, sigma: float) -> None:
    # log q_x(A) + log 20. The spike of 1e-6 reaches 1e-6 / sigma standard deviations into q, and
    # 1e-6 (mu - A) / sigma^2 of its slope: 20 / 1e-6 x 1e-6 = 20 for the needle at 0, of -2e8.
    q = posterior(mu, sigma)
    expected = float(q.log_prob(q.low) + q.low.log()) + math.log(20)
    assert float(reduced_to_spike(q)) == pytest.approx(expected, rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("bits", [4.0, 8.0, 20.0])
@pytest.mark.parametrize(("mu", "sigma"), SMOOTH)
def test_an_interval_by_quadrature(mu: float, sigma: float, bits: float) -> None:
    q = posterior(mu, sigma)
    end = -bits * math.log(2)

    inside = integral(lambda x: (q.log_prob(x.exp().clamp(A, B)) + x).exp(), LOG_LOW, end)
    # The ratio of the priors is constant there, and 0 beyond.
    expected = math.log(inside * 20 / (end - LOG_LOW))
    assert float(reduced_to_interval(q, bits)) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_posterior_that_is_the_prior_says_nothing() -> None:
    flat = posterior(-10.0, 1e5)  # log theta varies by (10 / 1e5)^2 / 2 = 5e-9
    assert float(reduced_to_spike(flat)) == pytest.approx(0, abs=2e-8)
    assert float(reduced_to_interval(flat, 8.0)) == pytest.approx(0, abs=2e-8)


# -- a linear network with Gaussian noise: the ELBO in closed form ---------------------------------

NUMBER, NOISE = 50, 0.5
READ, UNREAD, HARMFUL = 0, 1, 2


@pytest.fixture(scope="module")
def linear() -> tuple[SwitchedNetwork, Tensor, Tensor]:
    """y = .6 x_1 + noise, but the network says x_1 + 0 x_2 + 2 x_3."""
    network: Any = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 1, bias=False)).double()
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(NUMBER, 3, generator=generator, dtype=F64)
    targets = 0.6 * inputs[:, :1] + NOISE * torch.randn(NUMBER, 1, generator=generator, dtype=F64)
    with torch.no_grad():
        network[0].weight.copy_(torch.eye(3))
        network[1].weight.copy_(torch.tensor([[1.0, 0.0, 2.0]]))
    model = SwitchedNetwork(
        network, inputs[:2], num_data=NUMBER,
        likelihood=lambda out: dist.Normal(out, NOISE).to_event(1),
    )  # fmt: skip
    return model, inputs, targets


@pytest.fixture(scope="module")
def learned(linear: tuple[SwitchedNetwork, Tensor, Tensor]) -> Noise:
    model, inputs, targets = linear
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=NUMBER)
    return learn_noise(model, loader, steps=500, lr=0.2)


@dataclass(frozen=True)
class Optimum:
    """Of the units that are read: mu and sigma, and what their negative ELBO is at any."""

    loc: Tensor
    scale: Tensor
    value: float
    negative_elbo: Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="module")
def optimum(linear: tuple[SwitchedNetwork, Tensor, Tensor]) -> Optimum:
    """Found by scipy, from the ELBO in closed form.

    With m and v the moments of q, E_q of the squared residuals is (y - sum w m x)^2 + sum w^2 v
    x^2. The unread unit's KL is left out: it can be as small as one likes.
    """
    _, inputs, targets = linear
    x, y = inputs[:, [READ, HARMFUL]].numpy(), targets[:, 0].numpy()
    w = np.array([1.0, 2.0])

    def negative_elbo(loc: Tensor, scale: Tensor) -> float:
        q = TruncatedLogNormal(loc, scale, A, B)
        m, v = q.mean.numpy(), q.variance.numpy()
        squares = (y - x @ (w * m)) ** 2 + (x**2) @ (w**2 * v)
        kl = float(kl_divergence(q, TruncatedLogUniform(q.low, q.high)).sum())
        constant = NUMBER * math.log(NOISE * math.sqrt(2 * math.pi))
        return float(squares.sum() / (2 * NOISE**2) + constant + kl)

    found = optimize.minimize(
        lambda p: negative_elbo(torch.from_numpy(p[:2]), torch.from_numpy(p[2:]).exp()),
        np.array([math.log(0.6), -12.0, -2.0, 1.5]), method="L-BFGS-B",
        bounds=[(LOG_LOW, LOG_HIGH)] * 2 + [(-10, 5)] * 2,
    )  # fmt: skip
    loc, scale = torch.from_numpy(found.x[:2]), torch.from_numpy(found.x[2:]).exp()
    return Optimum(loc, scale, float(found.fun), negative_elbo)


def test_svi_comes_to_the_optimum(learned: Noise, optimum: Optimum) -> None:
    q = learned.posterior["0"]
    read = [READ, HARMFUL]
    found = optimum.negative_elbo(q.loc[read], q.scale[read])
    # 500 steps begin at mu = 0, and the harmful unit's optimum is at -14, where the ELBO is flat:
    # two of the 25 nats that they gain are left.
    start = optimum.negative_elbo(torch.zeros(2, dtype=F64), torch.full((2,), -5.0).double().exp())
    assert start - optimum.value > 25
    assert optimum.value - 1e-6 <= found < optimum.value + 2
    unread = TruncatedLogNormal(q.loc[UNREAD], q.scale[UNREAD], A, B)
    assert 0 <= float(kl_divergence(unread, TruncatedLogUniform(unread.low, unread.high))) < 0.1


def test_svi_finds_the_posterior_of_what_the_data_know(
    linear: tuple[SwitchedNetwork, Tensor, Tensor], learned: Noise, optimum: Optimum
) -> None:
    q = learned.posterior["0"]
    loc, scale = float(q.loc[READ]), float(q.scale[READ])
    # The last steps' noise, a tenth of the posterior's standard deviation and of its logarithm.
    assert abs(loc - float(optimum.loc[0])) < 0.2 * float(optimum.scale[0])
    assert scale == pytest.approx(float(optimum.scale[0]), rel=0.15)
    # And the exact posterior's mode in log theta, on a grid: the prior is flat there.
    _, inputs, targets = linear
    grid = torch.linspace(-1.5, 0, 3001, dtype=F64)
    rest = 2 * q.mean[HARMFUL] * inputs[:, HARMFUL]
    residual = targets - rest[:, None] - inputs[:, [READ]] * grid.exp()
    log_posterior = -residual.square().sum(0) / (2 * NOISE**2)
    weight = log_posterior.softmax(0)
    mean = weight @ grid
    spread = float((weight @ (grid - mean) ** 2).sqrt())
    # q is symmetric in log theta and the posterior is normal in theta: mode and mean differ by
    # about .1 of the spread.
    assert abs(loc - float(grid[log_posterior.argmax()])) < 0.3 * spread
    assert scale == pytest.approx(spread, rel=0.15)


def test_what_the_rules_say_of_each_kind_of_unit(
    linear: tuple[SwitchedNetwork, Tensor, Tensor], learned: Noise, optimum: Optimum
) -> None:
    model, *_ = linear
    snr = noise_evidence(learned, lambda q: q.signal_to_noise, "")
    s = snr["0"].scores
    # theta = .5 +- .08 by least squares: an SNR of about 6; the prior's own is 1/3.
    assert 4 < float(s[READ]) < 9
    assert float(s[UNREAD]) == pytest.approx(1 / 3, abs=0.02)
    assert float(s[HARMFUL]) < SNR_THRESHOLD
    assert keep_above(model, snr, SNR_THRESHOLD).kept["0"].tolist() == [READ]

    spike = noise_evidence(learned, lambda q: -reduced_to_spike(q), "nats")
    interval = noise_evidence(learned, lambda q: -reduced_to_interval(q, 8.0), "nats")
    for found in (spike, interval):
        # Hundreds of nats for what the data hold at .5; nothing, up to the KL's error, for what
        # they say nothing of: on either side of BMRS's threshold of 0, and below one nat for sure.
        assert float(found["0"].scores[READ]) > 100
        assert abs(float(found["0"].scores[UNREAD])) < 0.5
        assert UNREAD not in keep_above(model, found, 1.0).kept["0"].tolist()
    # What the data want gone has a posterior from a up to .04 or so, flat in log theta: Savage and
    # Dickey's ratio is log(20 / 17) = .2. The closest normal falls towards a, so that even at the
    # optimum a spike there gains nothing; a cut to 2^-8 does, nearly all that it can (.33). (After
    # 500 steps the posterior is at -6 still, too high for either.)
    best = TruncatedLogNormal(optimum.loc[1], optimum.scale[1], A, B)
    assert -1 < float(reduced_to_spike(best)) < 0
    assert 0.3 < float(reduced_to_interval(best, 8.0)) < math.log(20 / (20 - 8 * math.log(2)))


# -- as evidence by name ---------------------------------------------------------------------------


def small(inputs: Tensor, targets: Tensor, batch_size: int = 20) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    return DataLoader(
        TensorDataset(inputs, targets), batch_size=batch_size, shuffle=True, generator=generator
    )


def test_a_unit_that_nobody_reads_is_as_noisy_as_the_prior(problem: Any) -> None:
    found = evidence("sbp", problem.model, None, problem.loader, steps=120, lr=0.3)
    for site, unit in problem.unread.items():
        scores = found[site].scores
        # Of 11 examples that a network of random weights classifies, others may be of no use too.
        assert float(scores[unit]) == pytest.approx(1 / 3, abs=0.05)
        assert float(scores[unit]) < SNR_THRESHOLD


def test_by_name_with_passes_and_repeatable(linear: tuple[SwitchedNetwork, Tensor, Tensor]) -> None:
    model, inputs, targets = linear
    before = torch.get_rng_state()
    first = evidence("sbp:steps=7", model, None, small(inputs, targets))
    assert torch.equal(torch.get_rng_state(), before)
    # 50 examples in batches of 20, 20 and 10: seven steps are two epochs and a batch.
    assert first.passes == Passes(120, 120)
    assert first.learning == Passes()
    again = evidence("sbp", model, None, small(inputs, targets), steps=7)
    other = evidence("sbp:steps=7:seed=1", model, None, small(inputs, targets))
    assert torch.equal(first["0"].scores, again["0"].scores)
    assert not torch.equal(first["0"].scores, other["0"].scores)
    for name in ("bmrs", "bmrs-uniform:bits=4"):
        found = evidence(f"{name}:steps=7", model, None, small(inputs, targets))
        assert found["0"].unit == "nats"
        assert bool((found["0"].scores > 0).all())  # next to no noise yet: all are to be kept


def test_generators_of_the_loader_are_left_alone(
    linear: tuple[SwitchedNetwork, Tensor, Tensor],
) -> None:
    model, inputs, targets = linear
    found = []
    for seed in (3, 4):
        own, own_of_sampler = (torch.Generator().manual_seed(seed) for _ in range(2))
        data = TensorDataset(inputs, targets)
        sampler = RandomSampler(data, generator=own_of_sampler)
        loader = DataLoader(data, 20, sampler=sampler, generator=own)
        states = own.get_state(), own_of_sampler.get_state()
        found.append(learn_noise(model, loader, steps=7, lr=0.1).losses)
        assert torch.equal(own.get_state(), states[0])
        assert torch.equal(own_of_sampler.get_state(), states[1])
    assert found[0] == found[1]


def test_the_likelihood_has_its_power_and_is_scaled_to_all_data(
    linear: tuple[SwitchedNetwork, Tensor, Tensor],
) -> None:
    # The first loss is tau N/B x (a) + KL, with the same draws each time.
    model, inputs, targets = linear

    def loss(temperature: float, num_data: int) -> float:
        other = SwitchedNetwork(
            model.network, inputs[:2], num_data=num_data, temperature=temperature,
            likelihood=model.likelihood,
        )  # fmt: skip
        torch.manual_seed(4)
        return NoiseJob(other, 0.1, 1).step(inputs, targets)

    once, half, quarter = loss(1.0, NUMBER), loss(0.5, NUMBER), loss(0.25, NUMBER)
    assert once - half == pytest.approx(2 * (half - quarter), rel=1e-10)
    assert loss(0.5, 2 * NUMBER) == pytest.approx(once, rel=1e-12)
    kl = 2 * half - once
    q = TruncatedLogNormal(torch.zeros(3, dtype=F64), math.exp(-5), A, B)
    expected = float(kl_divergence(q, TruncatedLogUniform(q.low, q.high)).sum())
    assert kl == pytest.approx(expected, rel=1e-9)


def test_the_state_of_learning_can_be_put_back(
    linear: tuple[SwitchedNetwork, Tensor, Tensor],
) -> None:
    model, inputs, targets = linear
    first, second = NoiseJob(model, 0.1, 9), NoiseJob(model, 0.1, 9)
    for _ in range(3):
        first.step(inputs, targets)
    second.restore(copy.deepcopy(first.state()))
    for job in (first, second):
        torch.manual_seed(5)
        job.step(inputs, targets)
    assert first.examples == second.examples == 4 * NUMBER
    for one, other in zip(first.parameters, second.parameters, strict=True):
        assert torch.equal(one, other)


def test_what_the_likelihood_learns_is_left_alone() -> None:
    network: Any = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    inputs, targets = torch.randn(30, 3), torch.randn(30, 1)
    model = SwitchedNetwork(network, inputs[:2], num_data=30, likelihood="gaussian")
    before = {name: p.clone() for name, p in model.named_parameters()}
    evidence("sbp:steps=3", model, None, small(inputs, targets))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


def test_errors(linear: tuple[SwitchedNetwork, Tensor, Tensor]) -> None:
    model, inputs, targets = linear
    with pytest.raises(DirpruneError, match="'sbp' needs a loader of training images"):
        evidence("sbp", model, None)
    with pytest.raises(DirpruneError, match=r"bits=30: expected less than 28\.9"):
        evidence("bmrs-uniform:bits=30", model, None, small(inputs, targets))
    with pytest.raises(DirpruneError, match="the loader is empty"):
        evidence("bmrs", model, None, [])
    with pytest.raises(DirpruneError, match="step 1: not finite: the input images"):
        evidence("bmrs", model, None, small(inputs * math.nan, targets))
