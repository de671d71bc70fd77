"""The Dirichlet that priors are made of: right draws at any concentration, torch's density."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from dirprune.model.priors import Dirichlet


@pytest.mark.parametrize("alpha", [1e-5, 1e-3, 0.1, 1.0, 30.0])
def test_draws_follow_the_beta_marginal(alpha: float) -> None:
    """At K = 2 the first component is Beta(alpha, alpha)."""
    concentration = torch.full((2,), alpha, dtype=torch.float64)
    draws = Dirichlet(concentration).sample(torch.Size((20_000,)))[:, 0].numpy()
    exact = stats.beta(alpha, alpha)
    for low, high in ((0, 0.05), (0.05, 0.5), (0.45, 0.55), (0.05, 0.95)):
        p = exact.cdf(high) - exact.cdf(low)
        error = math.sqrt(p * (1 - p) / len(draws))
        # Four standard errors of a share; torch's own draws miss the middle by 24 % at 1e-3.
        share = ((draws > low) & (draws < high)).mean()
        assert share == pytest.approx(p, abs=4 * error + 1e-4)


def test_unequal_concentrations() -> None:
    alpha = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64)
    draws = Dirichlet(alpha).sample(torch.Size((40_000,)))
    exact = dist.Dirichlet(alpha)
    error = (exact.variance / len(draws)).sqrt()
    assert bool(((draws.mean(0) - exact.mean).abs() < 4 * error).all())
    # The relative error of a variance from 40,000 draws is below 1 %: these have kurtosis < 6.
    torch.testing.assert_close(draws.var(0), exact.variance, rtol=0.04, atol=0)


def test_density_and_shapes_are_those_of_torch() -> None:
    alpha = torch.rand(5, 3, dtype=torch.float64) + 0.1
    ours, theirs = Dirichlet(alpha), dist.Dirichlet(alpha)
    point = theirs.sample()
    assert bool((ours.log_prob(point) == theirs.log_prob(point)).all())
    assert ours.sample(torch.Size((2, 4))).shape == (2, 4, 5, 3)
    wide = ours.expand(torch.Size((6, 5)))
    assert isinstance(wide, Dirichlet)
    assert wide.sample().shape == (6, 5, 3)


def test_the_density_of_an_underflowed_draw_is_finite() -> None:
    prior = Dirichlet(torch.full((3,), 1e-4, dtype=torch.float64))
    draws = prior.sample(torch.Size((500,)))
    assert bool(prior.log_prob(draws).isfinite().all())
    torch.testing.assert_close(draws.sum(-1), torch.ones(500, dtype=torch.float64))


def test_gradients_of_draws() -> None:
    """d/da E[s_1] = b / (a + b)^2, by draws."""
    alpha = torch.tensor([0.4, 1.1], dtype=torch.float64, requires_grad=True)
    Dirichlet(alpha).rsample(torch.Size((40_000,)))[:, 0].mean().backward()
    assert alpha.grad is not None
    # The gradient of a single draw has an sd below 1; four standard errors of 40,000.
    torch.testing.assert_close(
        alpha.grad,
        torch.tensor([1.1, -0.4], dtype=torch.float64) / 1.5**2,
        rtol=0,
        atol=0.02,
    )
