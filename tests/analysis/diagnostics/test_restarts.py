"""Agreement of restarts, against two distributions whose distance is known."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from dirprune.analysis.diagnostics import restart_agreement
from dirprune.analysis.diagnostics.restarts import largest_rhat
from dirprune.model.errors import DirpruneError


def test_restarts_of_one_distribution_agree(make_tree, dirichlet):
    found = restart_agreement(make_tree({"a": dirichlet([2.0] * 20, 2, 1000)}))
    assert found["good"]
    assert found["value"]["rhat_median"] == pytest.approx(1, abs=0.01)
    assert found["value"]["difference_max"] < 0.25  # 5 standard errors of sqrt(2 / 1000)


def test_restarts_at_different_answers_do_not_agree(make_tree, dirichlet):
    one, two = [9.0, 1.0, 1.0, 1.0], [1.0, 9.0, 1.0, 1.0]
    draws = torch.stack([dirichlet(one, 1000), dirichlet(two, 1000, seed=1)])
    found = restart_agreement(make_tree({"a": draws}))
    exact = stats.beta(9, 3).mean() - stats.beta(1, 11).mean()
    sd = math.sqrt((stats.beta(9, 3).var() + stats.beta(1, 11).var()) / 2)
    assert not found["good"]
    assert "differ by more" in found["text"]
    assert found["value"]["difference_max"] == pytest.approx(exact / sd, rel=0.1)
    assert found["value"]["rhat_max"] > 1.5


def test_one_restart_cannot_agree(make_tree, dirichlet):
    with pytest.raises(DirpruneError, match="at least 2 restarts"):
        restart_agreement(make_tree({"a": dirichlet([1.0, 1.0], 1, 50)}))


def test_a_point_has_no_spread_to_measure_by(point_tree):
    with pytest.raises(DirpruneError, match=r"point mass at a \(all draws are equal\): there is"):
        restart_agreement(point_tree)


def test_a_site_of_one_unit_is_left_out(make_tree, dirichlet):
    draws = dirichlet([2.0] * 3, 2, 500)
    both = restart_agreement(make_tree({"a": draws, "one": torch.ones(2, 500, 1)}))
    assert both == restart_agreement(make_tree({"a": draws}))
    with pytest.raises(DirpruneError, match="no site has more than one unit"):
        restart_agreement(make_tree({"one": torch.ones(2, 500, 1)}))


@pytest.mark.parametrize(
    ("draws", "limit"), [(24, 1.118), (100, 1.030), (294, 1.0102), (400, 1.01)]
)
def test_few_draws_widen_the_limit(draws, limit):
    assert largest_rhat(draws) == pytest.approx(limit, abs=1e-3)


def test_equal_restarts_are_not_told_apart_by_the_noise_of_few_draws(make_tree, dirichlet):
    """R-hat of 100 draws exceeds 1.01 by chance alone for a tenth of the units and more."""
    good = []
    for seed in range(10):
        found = restart_agreement(make_tree({"a": dirichlet([2.0] * 30, 2, 100, seed=seed)}))
        assert found["value"]["rhat_95"] > 1.01
        good.append(found["good"])
    assert sum(good) >= 9
    far = torch.stack([dirichlet([9.0, 1.0], 100), dirichlet([1.0, 9.0], 100)])
    assert not restart_agreement(make_tree({"a": far}))["good"]
