"""Hierarchical and half-Cauchy priors: exact moments and densities, and every way to run them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Predictive
from scipy import integrate, stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.inference.fit import fit
from dirprune.inference.particles import Particles
from dirprune.model.errors import DirpruneError
from dirprune.model.priors import HalfCauchy, Hierarchical, Prior
from dirprune.model.sites import Site
from dirprune.model.switched import SwitchedNetwork

HYPER: list[Prior] = [Hierarchical(2.0, 0.5), HalfCauchy(0.3)]
SIZES = {"a": 6, "b": 4}


def make(prior: Any = "hierarchical", **options: Any) -> SwitchedNetwork:
    """A switched 5-6-4-3 perceptron in float64."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))

    x = torch.zeros(2, 5, dtype=torch.float64)
    return SwitchedNetwork(Small().double(), x, num_data=40, prior=prior, **options)


def draws_of(prior: Prior, size: int, number: int) -> tuple[Tensor, Tensor]:
    """Hyper-parameters and switches, drawn under a plate as the analysis draws them."""
    site = Site("s", size, (), ())
    with pyro.plate("_draws", number, dim=-1), poutine.trace() as outer:
        pyro.sample("s", prior(site))
    nodes: Any = outer.trace.nodes
    return nodes["s_concentration"]["value"], nodes["s"]["value"]


# -- moments --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "rate", "size"), [(1.0, 1.0, 5), (2.0, 0.5, 3), (0.5, 4.0, 8)])
def test_hierarchical_moments_by_quadrature(shape: float, rate: float, size: int) -> None:
    """V[s_k] = E_alpha (K - 1) / (K^2 (K alpha + 1)), as E[s_k | alpha] is 1 / K throughout."""
    density = stats.gamma(shape, scale=1 / rate).pdf
    variance, _ = integrate.quad(
        lambda a: density(a) * (size - 1) / (size**2 * (size * a + 1)), 0, np.inf
    )
    number = 40_000
    alpha, s = draws_of(Hierarchical(shape, rate), size, number)
    assert alpha.shape == (number,)
    assert s.shape == (number, size)
    assert alpha.dtype == s.dtype == torch.float64
    # Four standard errors of a mean, and of a variance: its relative error is sqrt((kurtosis - 1) /
    # n), with a kurtosis of at most 7 here (s_k near 0 or 1): 1.2 %.
    error = 4 * math.sqrt(variance / number)
    assert bool(((s.mean(0) - 1 / size).abs() < error).all())
    torch.testing.assert_close(s.var(0), torch.full((size,), variance).double(), rtol=0.05, atol=0)
    assert float(alpha.mean()) == pytest.approx(
        shape / rate, abs=4 * math.sqrt(shape / rate**2 / number)
    )


@pytest.mark.parametrize(("scale", "size"), [(0.1, 6), (1.0, 3)])
def test_half_cauchy_against_an_independent_simulation(scale: float, size: int) -> None:
    number = 40_000
    concentration, s = draws_of(HalfCauchy(scale), size, number)
    assert concentration.shape == s.shape == (number, size)
    assert concentration.dtype == s.dtype == torch.float64
    generator = np.random.default_rng(1)
    lam = np.abs(scale * generator.standard_cauchy((number, size)))
    gamma = generator.standard_gamma(lam)
    usable = gamma.sum(1) > 0  # numpy's Gammas underflow together in a few rows
    assert usable.mean() > 0.9999
    want = gamma[usable] / gamma[usable].sum(1, keepdims=True)
    # By symmetry the mean is 1 / K. Switches lie in [0, 1]: an sd of at most .5.
    assert bool(((s.mean(0) - 1 / size).abs() < 4 * 0.5 / math.sqrt(number)).all())
    # Both are draws: a two-sample test of the first component and of the largest, at 1e-4.
    for ours, theirs in ((s[:, 0], want[:, 0]), (s.amax(1), want.max(1))):
        assert stats.ks_2samp(ours.numpy(), theirs).pvalue > 1e-4
    # The median of a half-Cauchy is its scale; its density there gives the error of the median.
    error = math.pi * scale / 2 / math.sqrt(number * size)
    assert float(concentration.median()) == pytest.approx(scale, abs=5 * error)


# -- the density ----------------------------------------------------------------------------------


def log_dirichlet(s: Any, a: Any) -> float:
    return float(stats.dirichlet.logpdf(s / s.sum(), a))


@pytest.mark.parametrize("prior", HYPER, ids=repr)
def test_the_density_of_the_model_is_the_sum_of_closed_forms(prior: Prior) -> None:
    model = make(prior)
    assert model.hyper_sites == ("a_concentration", "b_concentration")
    trace = poutine.trace(model.sample_switches).get_trace()
    nodes: Any = trace.nodes
    assert set(nodes["_RETURN"]["value"]) == set(SIZES)
    total = 0.0
    for name, size in SIZES.items():
        c = nodes[f"{name}_concentration"]["value"].numpy()
        if isinstance(prior, Hierarchical):
            assert c.shape == ()
            total += stats.gamma(prior.shape, scale=1 / prior.rate).logpdf(c)
        else:
            assert isinstance(prior, HalfCauchy)
            assert c.shape == (size,)
            total += stats.halfcauchy(scale=prior.scale).logpdf(c).sum()
        total += log_dirichlet(nodes[name]["value"].numpy(), np.broadcast_to(c, size))
    assert float(trace.log_prob_sum()) == pytest.approx(total, rel=1e-9)


# -- under plates, handlers, and the inference of others ------------------------------------------


@pytest.mark.parametrize("prior", HYPER, ids=repr)
def test_particles_draw_the_hyper_parameters_too(prior: Prior) -> None:
    model, num = make(prior), 3
    with Particles(num):
        trace = poutine.trace(model.sample_switches).get_trace()
    trace.compute_log_prob()
    nodes: Any = trace.nodes
    for name, size in SIZES.items():
        event = () if isinstance(prior, Hierarchical) else (size,)
        hyper, switch = nodes[f"{name}_concentration"], nodes[name]
        assert hyper["value"].shape == (num, *event)
        assert switch["value"].shape == (num, size)
        assert hyper["log_prob"].shape == switch["log_prob"].shape == (num,)
        assert hyper["scale"] == switch["scale"] == pytest.approx(1 / num)
        # Row p of the switches has the concentration of row p.
        for p in range(num):
            c = hyper["value"][p].expand(size)
            want = log_dirichlet(switch["value"][p].numpy(), c.numpy()) / num
            assert float(switch["log_prob"][p]) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("prior", HYPER, ids=repr)
def test_predictive(prior: Prior) -> None:
    model = make(prior)
    x = torch.randn(7, 5, dtype=torch.float64)
    drawn = Predictive(model, num_samples=4, parallel=False)(x)
    assert set(drawn) == {*SIZES, *model.hyper_sites, "targets"}
    assert drawn["targets"].shape == (4, 7)
    for name, size in SIZES.items():
        assert drawn[name].reshape(4, size).unique(dim=0).shape == (4, size)  # all different
        event = 1 if isinstance(prior, Hierarchical) else size
        assert drawn[f"{name}_concentration"].numel() == 4 * event
    # Given switches, as from a posterior: their hyper-parameters are drawn, and touch nothing.
    given = {name: drawn[name].reshape(4, size) for name, size in SIZES.items()}
    again = Predictive(model, given, parallel=False)(x)
    assert set(again) == {*model.hyper_sites, "targets"}
    assert again["targets"].shape == (4, 7)


@pytest.mark.parametrize("prior", HYPER, ids=repr)
def test_svi_with_particles(prior: Prior) -> None:
    model = make(prior)
    x = torch.randn(40, 5, dtype=torch.float64)
    loader = DataLoader(TensorDataset(x, torch.arange(40) % 3), batch_size=10)
    fitted = fit(model, "normal", loader, epochs=3, particles=4)
    assert all(math.isfinite(loss) for loss in fitted.history[0])
    assert len(fitted.history[0]) > 0


class Scale(nn.Module):
    """y = w2 relu(w1 x) with two hidden units, of which one does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.a.weight.fill_(1.0)
            self.b.weight.copy_(torch.tensor([[2.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def scale_model(prior: Prior) -> tuple[SwitchedNetwork, Tensor, Tensor]:
    x = torch.rand(8, 1, dtype=torch.float64) + 0.5

    def likelihood(outputs: Tensor) -> dist.TorchDistribution:
        return dist.Normal(outputs, 1.0).to_event(1)

    model = SwitchedNetwork(Scale().double(), x, num_data=8, likelihood=likelihood, prior=prior)
    return model, x, 3.0 * x  # gain 1.5 on unit 0, hence the switch (.75, .25)


def run_nuts(model: SwitchedNetwork, x: Tensor, y: Tensor, samples: int, warmup: int) -> Any:
    with pyro.validation_enabled(False):
        mcmc = MCMC(
            NUTS(model), num_samples=samples, warmup_steps=warmup, disable_progbar=True
        )  # fmt: skip
        mcmc.run(x, y)
    return mcmc.get_samples()


def test_nuts_finds_the_hierarchical_posterior_by_quadrature() -> None:
    model, x, y = scale_model(Hierarchical(4.0, 2.0))
    draws = run_nuts(model, x, y, 300, 100)
    # A grid over s_0 (midpoints) and alpha: the joint posterior of two numbers.
    s = (np.arange(800) + 0.5) / 800
    alpha = np.linspace(0.02, 14, 700)
    log_p = stats.norm(4 * s[:, None] * x.numpy().T, 1.0).logpdf(y.numpy().T).sum(1)[:, None]
    log_p = log_p + stats.beta.logpdf(s[:, None], alpha, alpha)
    log_p = log_p + stats.gamma(4.0, scale=0.5).logpdf(alpha)
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    for name, marginal, values in (
        ("a", weight.sum(1), s),
        ("a_concentration", weight.sum(0), alpha),
    ):
        mean = float(marginal @ values)
        sd = math.sqrt(float(marginal @ (values - mean) ** 2))
        ours = draws[name][:, 0] if name == "a" else draws[name]
        # With at least 60 effective draws of 300 the mean is within 4 sd / sqrt(60).
        assert float(ours.mean()) == pytest.approx(mean, abs=4 * sd / math.sqrt(60))
        # The relative error of an sd from 60 draws is 9 %; four of these.
        assert float(ours.std()) == pytest.approx(sd, rel=0.4)


def test_nuts_runs_with_half_cauchy() -> None:
    model, x, y = scale_model(HalfCauchy(0.5))
    draws = run_nuts(model, x, y, 30, 30)
    assert {n: tuple(d.shape) for n, d in draws.items()} == {
        "a": (30, 2), "a_concentration": (30, 2)
    }  # fmt: skip
    assert all(bool(d.isfinite().all()) for d in draws.values())
    assert bool((draws["a_concentration"] > 0).all())
    assert float(draws["a"].std(0).min()) > 0  # it has moved


# -- the users' own -------------------------------------------------------------------------------


def test_a_users_hyper_prior() -> None:
    def prior(site: Site) -> dist.TorchDistribution:
        alpha = pyro.sample(
            f"{site.name}.alpha", dist.LogNormal(torch.zeros((), dtype=torch.float64), 1.0)
        )
        return dist.Dirichlet(alpha.unsqueeze(-1).expand(*alpha.shape, site.size))

    model = make(prior)
    assert model.hyper_sites == ("a.alpha", "b.alpha")
    assert make("symmetric").hyper_sites == ()


def test_a_hyper_parameter_named_as_a_site_is_refused() -> None:
    def prior(site: Site) -> dist.TorchDistribution:
        alpha = pyro.sample("b", dist.Gamma(1.0, 1.0))
        return dist.Dirichlet(alpha.unsqueeze(-1).expand(*alpha.shape, site.size))

    with pytest.raises(DirpruneError, match="site 'a': its hyper-parameter 'b' has a name that is"):
        make(prior)


def test_a_model_is_made_without_touching_the_random_state() -> None:
    torch.manual_seed(5)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    expected = torch.random.get_rng_state()
    SwitchedNetwork(network, torch.zeros(2, 3), num_data=5, prior="hierarchical")
    assert torch.equal(torch.random.get_rng_state(), expected)
