"""The expected log predictive density, against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr

from dirprune.analysis.diagnostics import elpd
from dirprune.analysis.diagnostics.elpd import chance, log_predictive
from dirprune.model.errors import DirpruneError


def held_out(log_likelihood, targets, **more):
    data = {
        "log_likelihood": (("chain", "draw", "image"), log_likelihood),
        "targets": ("image", targets),
    }
    data |= {name: (("image", "class"), value) for name, value in more.items()}
    return xr.DataTree.from_dict({"validation": xr.Dataset(data)})


def test_it_is_the_mean_log_mean_over_all_chains():
    log_lik = np.random.default_rng(0).normal(size=(2, 7, 11))
    each = np.log(np.exp(log_lik).mean((0, 1)))
    found = elpd(held_out(log_lik, np.zeros(11)))["value"]
    assert found["elpd"] == pytest.approx(each.mean(), rel=1e-12)
    assert found["se"] == pytest.approx(each.std(ddof=1) / math.sqrt(11), rel=1e-12)
    assert set(found) == {"elpd", "se", "images"}  # no classes: nothing to guess by


def test_tiny_likelihoods_do_not_underflow():
    assert log_predictive(np.full((3, 4), -900.0)) == pytest.approx(-900)
    with pytest.raises(DirpruneError, match="draws, images"):
        log_predictive(np.zeros(3))


def test_chance_and_the_network_stand_beside_it():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.9, 0.05, 0.05]])
    y = np.array([0, 1, 2, 0])
    tree = held_out(np.zeros((1, 2, 4)), y, probabilities=p, network_probabilities=p)
    found = elpd(tree)["value"]
    assert found["chance"] == pytest.approx(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert found["network"] == pytest.approx(np.log([0.5, 0.8, 0.6, 0.9]).mean())
    assert chance(np.arange(10).repeat(7)) == pytest.approx(-math.log(10))


def test_nothing_held_out():
    with pytest.raises(DirpruneError, match="no group 'validation'"):
        elpd(xr.DataTree())


def test_one_image_has_no_standard_error():
    found = elpd(held_out(np.full((1, 3, 1), -2.0), np.zeros(1)))
    assert found["value"]["se"] is None
    assert "nan" not in found["text"]
