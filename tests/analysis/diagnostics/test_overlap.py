"""Overlap of prior and posterior, against quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dirprune.analysis.diagnostics import overlap
from dirprune.analysis.diagnostics.overlap import beta_overlap
from dirprune.model.errors import DirpruneError


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


def test_overlap_of_equal_and_of_disjoint_distributions(make_tree, dirichlet):
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


def test_overlap_without_concentrations_comes_from_the_draws(make_tree, dirichlet):
    phi = [1.0, 2.0, 3.0, 6.0]
    tree = make_tree({"a": dirichlet(phi, 2, 2000)}, prior={"a": dirichlet([1.0] * 4, 1, 2000)})
    a, one = np.array(phi), np.ones(4)
    exact = beta_overlap(a, a.sum() - a, one, 3 * one).mean()
    assert overlap(tree)["value"]["mean"] == pytest.approx(exact, abs=0.02)


def test_a_point_overlaps_with_nothing(point_tree):
    with pytest.raises(DirpruneError, match=r"point mass .* overlaps with no prior"):
        overlap(point_tree)


def test_a_site_of_one_unit_has_no_overlap(make_tree, dirichlet):
    draws, one = dirichlet([2.0] * 3, 2, 500), torch.ones(2, 500, 1)
    tree = make_tree({"a": draws, "one": one}, prior={"a": draws[:1], "one": one[:1]})
    assert set(overlap(tree)["value"]["sites"]) == {"a"}
