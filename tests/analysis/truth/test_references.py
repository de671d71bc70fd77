"""The references themselves: closed forms, quadrature and draws against each other."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dirprune.analysis.evidence.switches import log_likelihood
from dirprune.analysis.truth import (
    DirichletReference,
    DrawsReference,
    GridReference,
    Problem,
    dirichlet_multinomial,
    linear_gaussian,
)
from dirprune.analysis.truth.linear import ALPHA, slopes
from dirprune.model.errors import DirpruneError

COUNTS = np.array([4.0, 2.0, 1.0])
KS = 1.95  # sqrt(n) times the Kolmogorov-Smirnov distance: above once in a thousand times


@pytest.fixture(scope="module")
def linear() -> Problem:
    return linear_gaussian()


@pytest.fixture(scope="module")
def by_grid() -> GridReference:
    """A Dirichlet-multinomial by quadrature: prior Dirichlet(2, 2, 2), counts 4, 2, 1."""

    def likelihood(switches: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(np.log(switches["s"]) @ COUNTS)

    best = float((COUNTS * np.log(COUNTS / COUNTS.sum())).sum())
    with np.errstate(divide="ignore"):
        return GridReference({"s": 3}, 2, likelihood, best)  # type: ignore[arg-type]


def likelihood_of(problem: Problem, switches: dict[str, np.ndarray]) -> np.ndarray:
    """The model's own log likelihood of all data, [points]."""
    tensors = {site: torch.from_numpy(s) for site, s in switches.items()}
    return log_likelihood(problem.model, tensors, problem.inputs, problem.targets).sum(1).numpy()


# -- the conjugate problem -------------------------------------------------------------------------


def test_the_networks_output_is_its_switch() -> None:
    problem = dirichlet_multinomial((3, 0, 2))
    s = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    out = problem.model.outputs(problem.inputs, {"0": s})
    assert torch.equal(out, s.expand(5, 3))
    assert torch.bincount(problem.targets, minlength=3).tolist() == [3, 0, 2]


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
def test_evidence_is_the_product_of_polyas_predictions(alpha: float) -> None:
    # Draw by draw: p(y_i = k | before) = (alpha + how often k was seen) / (3 alpha + i).
    problem = dirichlet_multinomial((3, 0, 2), alpha)
    seen, total = np.zeros(3), 0.0
    for i, y in enumerate(problem.targets.tolist()):
        total += math.log((alpha + seen[y]) / (3 * alpha + i))
        seen[y] += 1
    assert problem.reference.log_evidence == pytest.approx(total, rel=1e-12)  # roundings


@pytest.mark.parametrize("counts", [(3,), (0, 0), (-1, 2), ()])
def test_what_is_no_count_is_refused(counts: tuple[int, ...]) -> None:
    with pytest.raises(DirpruneError, match="counts: expected two or more whole numbers"):
        dirichlet_multinomial(counts)


# -- quadrature ------------------------------------------------------------------------------------


def test_the_grid_finds_a_dirichlet(by_grid: GridReference) -> None:
    exact = DirichletReference("s", COUNTS + 2, 0.0)
    # Polynomials of degree 11 in each stick: Gauss-Legendre with 32 nodes is exact.
    assert by_grid.mean["s"] == pytest.approx(exact.mean["s"], rel=1e-12)
    assert by_grid.sd["s"] == pytest.approx(exact.sd["s"], rel=1e-10)
    conjugate = dirichlet_multinomial(COUNTS.astype(int).tolist(), 2.0).reference
    assert by_grid.log_evidence == pytest.approx(conjugate.log_evidence, rel=1e-12)
    x, p = np.linspace(0, 1, 57), np.array([0.025, 0.3, 0.5, 0.9])
    for unit in range(3):
        # Between grid points 1/400 apart: cubic interpolation of the integral.
        assert by_grid.cdf("s", unit, x) == pytest.approx(exact.cdf("s", unit, x), abs=1e-6)
        assert by_grid.quantile("s", unit, p) == pytest.approx(
            exact.quantile("s", unit, p), abs=1e-6
        )


@pytest.mark.parametrize("reference", ["grid", "linear"])
def test_draws_are_of_the_posterior(
    reference: str, by_grid: GridReference, linear: Problem
) -> None:
    found = by_grid if reference == "grid" else linear.reference
    draws = found.draws(4000, seed=3)
    for site, s in draws.items():
        assert s.sum(1) == pytest.approx(np.ones(4000))
        for unit in range(s.shape[1]):
            distance = stats.kstest(found.cdf(site, unit, s[:, unit]), "uniform").statistic
            assert distance * math.sqrt(4000) < KS


def test_a_prior_that_the_grid_cannot_integrate_is_refused() -> None:
    with pytest.raises(DirpruneError, match="alpha: expected a whole number of at least 1, got"):
        GridReference({"s": 2}, 0.5, lambda s: s["s"][:, 0], 0.0)  # type: ignore[arg-type]


# -- the linear-Gaussian network -------------------------------------------------------------------


def test_the_linear_networks_likelihood_is_the_models(linear: Problem) -> None:
    # The reference has it by sums of squares, the model by a forward pass: the same to rounding.
    rng = np.random.default_rng(1)
    switches = {"0": rng.dirichlet(np.ones(3), 20), "1": rng.dirichlet(np.ones(2), 20)}
    reference = linear.reference
    assert isinstance(reference, GridReference)
    ours = reference.log_likelihood(switches)
    assert ours == pytest.approx(likelihood_of(linear, switches), rel=1e-11)
    assert (ours <= reference.bound).all()
    with torch.no_grad():
        tensors = {site: torch.from_numpy(s[0]) for site, s in switches.items()}
        out = linear.model.outputs(linear.inputs, tensors)[:, 0].numpy()
    assert out == pytest.approx(linear.inputs.numpy() @ slopes(switches)[0], rel=1e-12)


def test_evidence_of_the_linear_network_is_the_priors_average(linear: Problem) -> None:
    # Plain Monte Carlo over a million draws of the prior.
    rng = np.random.default_rng(2)
    reference = linear.reference
    assert isinstance(reference, GridReference)
    switches = {
        site: rng.dirichlet(np.full(k, float(ALPHA)), 1_000_000)
        for site, k in reference.sizes.items()
    }
    log_likelihood = reference.log_likelihood(switches)
    weights = np.exp(log_likelihood - reference.bound)
    error = weights.std() / weights.mean() / 1000
    assert error < 0.003
    estimate = math.log(weights.mean()) + reference.bound
    assert abs(estimate - reference.log_evidence) < 4.5 * error  # type: ignore[operator]


def test_more_nodes_change_nothing(linear: Problem) -> None:
    coarse = linear.reference
    assert isinstance(coarse, GridReference)
    fine = GridReference(coarse.sizes, coarse.alpha, coarse.log_likelihood, coarse.bound, 48)
    assert fine.log_evidence == pytest.approx(coarse.log_evidence, abs=1e-6)
    for site in coarse.sizes:
        assert fine.mean[site] == pytest.approx(coarse.mean[site], abs=1e-6)
        assert fine.sd[site] == pytest.approx(coarse.sd[site], abs=1e-6)


def test_the_layers_trade_off(linear: Problem) -> None:
    # What the problem is for. -0.65; the standard error of 4,000 draws is .009.
    draws = linear.reference.draws(4000)
    assert np.corrcoef(draws["0"][:, 0], draws["1"][:, 0])[0, 1] == pytest.approx(-0.65, abs=0.04)


# -- draws -----------------------------------------------------------------------------------------


def test_a_reference_of_draws_knows_what_they_are_worth() -> None:
    phi = torch.tensor([3.0, 2.0, 4.0], dtype=torch.float64)
    independent: Tensor = torch.distributions.Dirichlet(phi).sample((2, 2000))
    found = DrawsReference({"s": independent})
    assert found.log_evidence is None
    assert found.effective_draws == pytest.approx(4000, rel=0.2)  # as estimates of it scatter
    assert found.rhat < 1.01
    # The same draws four times over are worth a quarter of their number (tails a little more).
    sticky = DrawsReference({"s": independent.repeat_interleave(4, dim=1)})
    assert sticky.effective_draws < 0.4 * 16_000
    exact = DirichletReference("s", phi.numpy(), 0.0)
    assert np.abs(found.mean["s"] - exact.mean["s"]).max() < 4.5 * exact.sd["s"].max() / 63
    x = np.linspace(0, 1, 30)
    assert np.abs(found.cdf("s", 0, x) - exact.cdf("s", 0, x)).max() * math.sqrt(4000) < KS
    assert found.draws(10)["s"].shape == (10, 3)
