"""Each diagnostic against cases whose answer is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats

from dirprune.analysis.diagnostics import (
    beta_overlap,
    diagnose,
    elpd,
    importance,
    overlap,
    restart_agreement,
    svi_convergence,
)
from dirprune.analysis.tree import site_dataset
from dirprune.model.errors import DirpruneError


def dirichlet(concentration, *shape, seed=0):
    torch.manual_seed(seed)
    phi = torch.as_tensor(concentration, dtype=torch.float64)
    return torch.distributions.Dirichlet(phi).sample(shape)


def make_tree(posterior, prior=None, concentration=None, lp=None, log_q=None):
    """A DataTree from site -> [chain, draw, K]."""
    chains, draws = next(iter(posterior.values())).shape[:2]
    groups = {"posterior": site_dataset(posterior, ("chain", "draw"))}
    if prior is not None:
        groups["prior"] = site_dataset(prior, ("chain", "draw"))
    if concentration is not None:
        groups["concentration"] = site_dataset(concentration, ("chain",))
    zero = np.zeros((chains, draws))
    stats_ = {"lp": zero if lp is None else lp, "log_q": zero if log_q is None else log_q}
    groups["sample_stats"] = xr.Dataset({n: (("chain", "draw"), v) for n, v in stats_.items()})
    return xr.DataTree.from_dict(groups)


def test_restarts_of_one_distribution_agree():
    found = restart_agreement(make_tree({"a": dirichlet([2.0] * 20, 2, 1000)}))
    assert found["good"]
    assert found["value"]["rhat_median"] == pytest.approx(1, abs=0.01)
    assert found["value"]["difference_max"] < 0.25  # 5 standard errors of sqrt(2 / 1000)


def test_restarts_at_different_answers_do_not_agree():
    one, two = [9.0, 1.0, 1.0, 1.0], [1.0, 9.0, 1.0, 1.0]
    draws = torch.stack([dirichlet(one, 1000), dirichlet(two, 1000, seed=1)])
    found = restart_agreement(make_tree({"a": draws}))
    exact = stats.beta(9, 3).mean() - stats.beta(1, 11).mean()
    sd = math.sqrt((stats.beta(9, 3).var() + stats.beta(1, 11).var()) / 2)
    assert not found["good"]
    assert "differ by more" in found["text"]
    assert found["value"]["difference_max"] == pytest.approx(exact / sd, rel=0.1)
    assert found["value"]["rhat_max"] > 1.5


def test_one_restart_cannot_agree():
    with pytest.raises(DirpruneError, match="at least 2 restarts"):
        restart_agreement(make_tree({"a": dirichlet([1.0, 1.0], 1, 50)}))


def test_convergence_of_noise_around_a_level():
    rng = np.random.default_rng(0)
    found = svi_convergence({"svi": [(100 + rng.normal(size=400)).tolist() for _ in range(3)]})
    assert found["good"]
    assert all(abs(f["z"]) < 3 and f["rhat"] < 1.1 for f in found["value"]["restarts"])


def test_convergence_of_a_falling_loss():
    rng = np.random.default_rng(0)
    found = svi_convergence({"svi": [(1000 - np.arange(400) + rng.normal(size=400)).tolist()]})
    assert not found["good"]
    assert found["value"]["restarts"][0]["drift"] == pytest.approx(100, abs=1)
    assert "still improving" in found["text"]


def test_a_rising_loss_has_not_come_to_rest():
    rng = np.random.default_rng(0)
    found = svi_convergence({"svi": [(1000 + np.arange(400) + rng.normal(size=400)).tolist()]})
    assert not found["good"]
    assert "getting worse" in found["text"]
    assert "A smaller lr" in found["text"]


def test_autocorrelated_noise_is_no_drift():
    """With independent errors assumed, z of an AR(1) series is sqrt((1 + r) / (1 - r)) too wide."""
    rng = np.random.default_rng(1)
    z = []
    for _ in range(30):
        x = np.zeros(2000)
        for t in range(1, 2000):
            x[t] = 0.9 * x[t - 1] + rng.normal()
        z.append(svi_convergence({"svi": [x]})["value"]["restarts"][0]["z"])
    assert 0.6 < np.std(z) < 1.8  # 4.4 without the effective number


def test_constant_loss_has_come_to_rest():
    assert svi_convergence({"svi": [[5.0] * 100]})["good"]


def test_convergence_needs_steps():
    with pytest.raises(DirpruneError, match="got 3"):
        svi_convergence({"svi": [[3.0, 2.0, 1.0]]})


def test_importance_of_the_exact_posterior():
    draws = dirichlet([2.0, 3.0], 2, 400)
    log_q = torch.distributions.Dirichlet(torch.tensor([2.0, 3.0]).double()).log_prob(draws).numpy()
    found = importance(make_tree({"a": draws}, lp=log_q + 7.0, log_q=log_q))
    assert found["good"]
    assert found["value"]["khat"] <= 0.1
    assert found["value"]["sd_log_w"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("k", "good"), [(0.3, True), (1.5, False)])
def test_importance_of_pareto_weights(k, good):
    """exp(k x Exponential) is Pareto with the tail shape k."""
    log_w = k * np.random.default_rng(0).exponential(size=(2, 20000))
    draws = dirichlet([1.0, 1.0], 2, 20000)
    found = importance(make_tree({"a": draws}, lp=log_w - 4.0, log_q=np.full_like(log_w, -4.0)))
    assert found["good"] is good
    assert found["value"]["khat"] == pytest.approx(k, abs=0.2)
    assert found["value"]["sd_log_w"] == pytest.approx(k, rel=0.05)


def test_importance_needs_draws():
    with pytest.raises(DirpruneError, match="at least 25"):
        importance(make_tree({"a": dirichlet([1.0, 1.0], 1, 10)}))


@pytest.mark.parametrize(
    "case",
    [(2, 5, 2, 5), (2, 5, 5, 2), (1, 1, 2, 2), (0.5, 3, 4, 9), (0.002, 1, 0.01, 1), (3, 8, 3, 4)],
)
def test_beta_overlap_against_quadrature(case):
    a, b, c, d = case
    u = np.linspace(-2000 if min(a, c) < 0.1 else -60, 60, 2_000_001)  # x = expit(u)
    log_x, log_rest = -np.logaddexp(0, -u), -np.logaddexp(0, u)
    one = a * log_x + b * log_rest - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
    two = c * log_x + d * log_rest - math.lgamma(c) - math.lgamma(d) + math.lgamma(c + d)
    exact = np.trapezoid(np.exp(np.minimum(one, two)), u)
    found = beta_overlap(*(np.array([float(v)]) for v in case))
    assert found[0] == pytest.approx(exact, abs=0.02 if min(a, c) < 0.1 else 1e-5)


def test_overlap_of_equal_and_of_disjoint_distributions():
    same, apart = torch.ones(2, 8).double(), torch.tensor([[1e5, 1.0]] * 2).double()
    tree = make_tree(
        {"same": dirichlet([1.0] * 8, 2, 400), "apart": dirichlet([1e5, 1.0], 2, 400)},
        prior={
            "same": dirichlet([1.0] * 8, 1, 400, seed=5),
            "apart": dirichlet([1.0, 1e5], 1, 400),
        },
        concentration={"same": same, "apart": apart},
    )
    found = overlap(tree)["value"]["sites"]
    assert found["same"] == pytest.approx(1, abs=0.02)
    assert found["apart"] == pytest.approx(0, abs=1e-3)


def test_overlap_without_concentrations_comes_from_the_draws():
    phi = [1.0, 2.0, 3.0, 6.0]
    tree = make_tree({"a": dirichlet(phi, 2, 2000)}, prior={"a": dirichlet([1.0] * 4, 1, 2000)})
    a, one = np.array(phi), np.ones(4)
    exact = beta_overlap(a, a.sum() - a, one, 3 * one).mean()
    assert overlap(tree)["value"]["mean"] == pytest.approx(exact, abs=0.02)


def test_elpd_is_the_mean_log_mean():
    log_lik = torch.randn(7, 11, dtype=torch.float64)
    each = np.log(np.exp(log_lik.numpy()).mean(0))
    value, error = elpd(log_lik)
    assert value == pytest.approx(each.mean(), rel=1e-12)
    assert error == pytest.approx(each.std(ddof=1) / math.sqrt(11), rel=1e-12)
    assert elpd(torch.full((3, 4), -900.0)) == (pytest.approx(-900), pytest.approx(0))
    with pytest.raises(DirpruneError, match="draws, images"):
        elpd(torch.zeros(3))


def test_diagnose_gathers_all_as_json():
    draws = dirichlet([2.0] * 3, 2, 100)
    tree = make_tree({"a": draws}, prior={"a": draws[:1]})
    losses = np.random.default_rng(0).normal(size=(2, 100)).tolist()
    found = diagnose(tree, {"svi": losses}, torch.zeros(5, 6))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == {"elpd", "svi_convergence", "restart_agreement", "importance", "overlap"}
    assert all(f["text"] and f["value"] and f["threshold"] and f["source"] for f in found.values())


def test_diagnose_says_what_it_could_not_compute():
    tree = make_tree({"a": dirichlet([2.0] * 3, 1, 5)})
    found = diagnose(tree, {"svi": []})
    assert all(f["value"] is None and "Not computed" in f["text"] for f in found.values())
