"""Importance weights: Pareto tails of known shape, and a conjugate posterior to recover."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import xarray as xr

from dirprune.analysis.diagnostics import importance
from dirprune.analysis.diagnostics.findings import largest_khat
from dirprune.model.errors import DirpruneError


def test_importance_of_the_exact_posterior(make_tree, dirichlet):
    draws = dirichlet([2.0, 3.0], 2, 400)
    log_q = torch.distributions.Dirichlet(torch.tensor([2.0, 3.0]).double()).log_prob(draws).numpy()
    found = importance(make_tree({"a": draws}, lp=log_q + 7.0, log_q=log_q))
    assert found["good"]
    assert found["value"]["khat"] <= 0.1
    assert found["value"]["sd_log_w"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("k", "good"), [(0.3, True), (1.5, False)])
def test_importance_of_pareto_weights(k, good, make_tree, dirichlet):
    """exp(k x Exponential) is Pareto with the tail shape k."""
    log_w = k * np.random.default_rng(0).exponential(size=(2, 20000))
    draws = dirichlet([1.0, 1.0], 2, 20000)
    found = importance(make_tree({"a": draws}, lp=log_w - 4.0, log_q=np.full_like(log_w, -4.0)))
    assert found["good"] is good
    assert found["value"]["khat"] == pytest.approx(k, abs=0.2)
    assert found["value"]["sd_log_w"] == pytest.approx(k, rel=0.05)


def test_importance_needs_draws(make_tree, dirichlet):
    with pytest.raises(DirpruneError, match="at least 25"):
        importance(make_tree({"a": dirichlet([1.0, 1.0], 1, 10)}))


def test_re_weighting_recovers_a_conjugate_posterior(conjugate):
    """From a guide whose concentrations are 20 % off, in both directions."""
    a, n = np.ones(4), np.array([9, 5, 3, 1])
    exact = a + n
    guide = exact * np.array([1.2, 0.8, 1.2, 0.8])
    found = importance(conjugate(a, n, guide, draws=8000))
    moved = np.abs(exact / exact.sum() - guide / guide.sum())
    mean, total = guide / guide.sum(), guide.sum()
    moved /= np.sqrt(mean * (1 - mean) / (total + 1))
    assert found["good"]
    # A weighted mean errs by about 1 / sqrt(effective draws) sds.
    error = 4 / math.sqrt(found["value"]["effective_draws"])
    assert error < 0.1 < moved.max() - error
    assert found["value"]["shift_max"] == pytest.approx(moved.max(), abs=error)
    assert found["value"]["shift_median"] == pytest.approx(np.median(moved), abs=error)
    assert "Re-weighted to the posterior" in found["text"]


def test_an_exact_guide_moves_nowhere(conjugate):
    value = importance(conjugate([1.0] * 4, [9, 5, 3, 1], draws=100))["value"]
    assert value["shift_max"] < 1e-9
    assert value["effective_draws"] == pytest.approx(100)


def test_the_limit_depends_on_the_number_of_draws(make_tree, dirichlet):
    """Vehtari et al. 2024: 1 - 1 / log10(S), at most 0.7: 0.5 for 100 draws, 0.7 from 2,155."""
    assert largest_khat(100) == pytest.approx(0.5)
    assert largest_khat(10**6) == 0.7
    assert largest_khat(2150) < 0.7


def test_a_point_has_no_density(point_tree):
    with pytest.raises(DirpruneError, match=r"point mass .* no density"):
        importance(point_tree)


def test_nuts_needs_no_weights(nuts_tree):
    with pytest.raises(DirpruneError, match="NUTS drew from the posterior itself"):
        importance(nuts_tree)


def test_infinite_densities_are_refused(conjugate):
    tree = conjugate([1.0] * 3, [2, 1, 1], draws=50)
    tree["sample_stats"]["lp"].values[0, 3] = -math.inf
    with pytest.raises(DirpruneError, match="some not finite"):
        importance(tree)


def test_parameters_of_priors_are_dimensions_too(conjugate):
    tree = conjugate([1.0] * 4, [9, 5, 3, 1], draws=100)
    assert importance(tree)["value"]["dimensions"] == 3
    posterior = tree["posterior"].to_dataset()
    posterior["a_concentration"] = posterior["a"] + 1.0  # one for each unit
    tree["posterior"] = xr.DataTree(posterior)
    tree.attrs["sites"] = json.dumps({"a": [[], []]})
    assert importance(tree)["value"]["dimensions"] == 7


def test_a_large_khat_over_many_units_is_put_plainly(make_tree, dirichlet):
    log_w = 3 * np.random.default_rng(0).exponential(size=(2, 400))
    tree = make_tree({"a": dirichlet([1.0] * 200, 2, 400)}, lp=log_w, log_q=0 * log_w)
    text = importance(tree)["text"]
    assert "no verdict on single units: in hundreds of dimensions small errors of every" in text
    assert "concentration" not in text  # other guides have none


def test_a_large_sd_is_not_laid_at_the_guides_door_alone(conjugate):
    """SVI that has not come to rest and a sub-sample of images widen the weights too."""
    tree = conjugate([1.0] * 4, [900, 500, 300, 100], [90.0, 500, 300, 100], draws=100)
    text = importance(tree)["text"]
    assert "SVI that has not come to rest" in text
    assert "images stand for" not in text
    tree.attrs["lp_images"] = 50
    assert "50 images stand for 1,800" in importance(tree)["text"]
