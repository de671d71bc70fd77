"""What is measured of a fit, against closed forms: a Dirichlet guide of known concentrations."""

import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import Dirichlet, kl_divergence

from dirprune.analysis.truth import (
    DirichletReference,
    Problem,
    dirichlet_multinomial,
    linear_gaussian,
    measure,
    worst,
)
from dirprune.analysis.truth.measures import variation_noise
from dirprune.guides import AutoDirichlet
from dirprune.inference.fit import Fit

DRAWS = 20_000
OTHER = np.array([22.0, 5.0, 6.0, 3.0])


@pytest.fixture(scope="module")
def problem() -> Problem:
    return dirichlet_multinomial()


def fit_of(problem: Problem, concentration: np.ndarray) -> Fit:
    guide = AutoDirichlet(problem.model)
    setattr(guide, "concentration/0", torch.from_numpy(concentration))
    return Fit([guide], [[]], 1.5, {"guide": "dirichlet"})


def exact_of(problem: Problem) -> DirichletReference:
    assert isinstance(problem.reference, DirichletReference)
    return problem.reference


def test_the_truth_is_found_true(problem: Problem) -> None:
    report = measure(problem, fit_of(problem, exact_of(problem).concentration), draws=DRAWS)
    # The log weights are constant, all equal to the evidence: to rounding.
    assert report["elbo_gap"] == pytest.approx(0, abs=1e-9)
    assert report["sd_log_w"] < 1e-9
    se = 1 / math.sqrt(DRAWS)
    assert np.abs(report["bias_mean"]["0"]).max() < 4.5 * se
    assert np.abs(np.log(report["sd_ratio"]["0"])).max() < 0.05  # 4.5 se at a kurtosis of 7
    # The noise is the mean for equal marginals; its own spread is about a fifth.
    noise = report["total_variation_noise"]
    assert report["total_variation"]["0"] == pytest.approx([noise] * 4, rel=0.8)
    for level, covered in report["coverage"].items():
        assert covered["0"] == pytest.approx([float(level) / 100] * 4, abs=0.015)


def test_a_wrong_guide_is_found_wrong_by_as_much_as_it_is(problem: Problem) -> None:
    report = measure(problem, fit_of(problem, OTHER), draws=DRAWS)
    truth, wrong = exact_of(problem), DirichletReference("0", OTHER, 0.0)
    se = 1 / math.sqrt(DRAWS)
    bias = (wrong.mean["0"] - truth.mean["0"]) / truth.sd["0"]
    ratio = wrong.sd["0"] / truth.sd["0"]
    assert report["bias_mean"]["0"] == pytest.approx(bias, abs=4.5 * se)
    assert report["sd_ratio"]["0"] == pytest.approx(ratio, rel=0.05)
    assert np.abs(bias).max() > 0.4  # so that there is something to see
    kl = float(
        kl_divergence(
            Dirichlet(torch.from_numpy(OTHER)), Dirichlet(torch.from_numpy(truth.concentration))
        )
    )
    assert kl > 0.5
    assert abs(report["elbo_gap"] - kl) < 4.5 * report["elbo_se"]
    assert report["elbo"] + report["elbo_gap"] == pytest.approx(truth.log_evidence)
    q = np.arange(21) / 20
    for k in range(4):
        share = np.diff(wrong.cdf("0", k, truth.quantile("0", k, q)))
        exact = 0.5 * np.abs(share - 0.05).sum()
        # Finite draws add to a distance: by the noise at most.
        assert report["total_variation"]["0"][k] == pytest.approx(
            exact, abs=report["total_variation_noise"]
        )
        ends = wrong.quantile("0", k, np.array([0.1, 0.9]))
        assert report["coverage"]["80"]["0"][k] == pytest.approx(
            float(np.diff(truth.cdf("0", k, ends))[0]), abs=0.02
        )


def test_khat_is_of_weights_with_a_known_tail() -> None:
    # Posterior Beta(2, 2) and guide Beta(8, 2): w = s^-6 up to a constant, and
    # P(w > t) = P(s < t^(-1/6)) ~ t^(-8/6) is a Pareto tail of shape 6/8.
    problem = dirichlet_multinomial((1, 1))
    assert exact_of(problem).concentration == pytest.approx([2, 2])
    report = measure(problem, fit_of(problem, np.array([8.0, 2.0])), draws=DRAWS)
    # By the largest 424 of 20,000 weights: an error of about .08, and a tail that is not quite
    # asymptotic yet (.73 here). Of the weights' inverses it would be negative.
    assert report["khat"] == pytest.approx(0.75, abs=0.2)


def test_the_correlation_between_sites_is_of_the_strongest_pair() -> None:
    problem = linear_gaussian()
    fitted = Fit([AutoDirichlet(problem.model)], [[]], 0.0, {"guide": "dirichlet"})
    found = measure(problem, fitted, draws=4000)["correlation"]
    assert found["units"] in ([["0", 0], ["1", 0]], [["0", 0], ["1", 1]])
    assert abs(found["reference"]) == pytest.approx(0.65, abs=0.04)
    assert abs(found["guide"]) < 4.5 / math.sqrt(4000)  # mean-field


def test_noise_of_the_total_variation() -> None:
    # By simulation: the mean over 300 pairs of equal marginals.
    rng = np.random.default_rng(0)
    shares = rng.multinomial(1000, np.full(20, 0.05), size=300) / 1000
    simulated = 0.5 * np.abs(shares - 0.05).sum(1)
    assert variation_noise(1000, math.inf) == pytest.approx(simulated.mean(), rel=0.05)


def test_a_report_is_json_and_has_a_row(problem: Problem) -> None:
    report = measure(problem, fit_of(problem, OTHER), draws=500)
    assert json.loads(json.dumps(report)) == report
    row = worst(report)
    assert row["bias"] in report["bias_mean"]["0"]
    assert row["seconds"] == 1.5
    assert row["coverage_50"] == pytest.approx(np.mean(report["coverage"]["50"]["0"]))


def test_draws_of_a_chain_have_no_density_but_a_worth(problem: Problem) -> None:
    phi = torch.from_numpy(exact_of(problem).concentration)
    draws = Dirichlet(phi).sample((500,)).repeat_interleave(4, 0)
    fitted = Fit([], [], 0.0, {"guide": "NUTS"}, draws=[{"0": draws}])
    report = measure(problem, fitted)
    assert report["elbo"] is None
    assert report["khat"] is None
    assert report["effective_draws"] < 1000 < report["draws"]
    assert np.abs(report["bias_mean"]["0"]).max() < 4.5 / math.sqrt(500)
    # Worth 500 draws: the noise is that of so many, not of 2,000.
    assert report["total_variation_noise"] == pytest.approx(0.78 / math.sqrt(100), rel=0.3)
