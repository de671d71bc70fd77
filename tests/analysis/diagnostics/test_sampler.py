"""NUTS' own diagnostics, against chains whose effective sample size is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from dirprune.analysis.diagnostics import sampler
from dirprune.analysis.tree import site_dataset
from dirprune.model.errors import DirpruneError


def with_draws(tree, draws, **attrs):
    out = tree.copy()
    out["posterior"] = xr.DataTree(site_dataset({"a": draws}, ("chain", "draw")))
    out.attrs = attrs
    return out


def test_independent_draws_are_worth_their_number(nuts_tree):
    found = sampler(nuts_tree)
    assert found["good"]
    # The worst of four units; estimates of ESS scatter by about 10 % here.
    assert found["value"]["ess_bulk_min"] == pytest.approx(2000, rel=0.25)
    assert found["value"]["rhat_max"] < 1.01
    assert "explored the posterior well" in found["text"]


def test_autocorrelated_draws_are_worth_less(nuts_tree):
    """AR(1) with coefficient r: n (1 - r) / (1 + r) = 1 / 19 of the draws."""
    rng, x = np.random.default_rng(0), np.zeros((2, 1000))
    for t in range(1, 1000):
        x[:, t] = 0.9 * x[:, t - 1] + rng.normal(size=2)
    share = 1 / (1 + np.exp(-x))
    draws = torch.from_numpy(np.stack([share, 1 - share], -1))
    found = sampler(with_draws(nuts_tree, draws))
    assert not found["good"]
    assert found["value"]["ess_bulk_min"] == pytest.approx(2000 / 19, rel=0.5)
    assert "cannot be trusted yet" in found["text"]


def test_a_divergence_is_no_good(nuts_tree):
    tree = nuts_tree.copy(deep=True)
    tree["sample_stats"]["diverging"].values[1, 5] = True
    found = sampler(tree)
    assert found["good"] is False
    assert found["value"]["divergences"] == 1


def test_one_chain_cannot_be_compared(nuts_tree, dirichlet):
    found = sampler(with_draws(nuts_tree, dirichlet([2.0] * 4, 1, 1000)))
    assert not found["good"]
    assert found["value"]["rhat_max"] is None
    assert "one chain has no R-hat" in found["text"]


def test_parameters_of_priors_count_and_single_units_do_not(nuts_tree, dirichlet):
    draws = {"a": dirichlet([2.0] * 4, 2, 1000), "one": torch.ones(2, 1000, 1).double()}
    posterior = site_dataset(draws, ("chain", "draw"))
    posterior["a.concentration"] = (("chain", "draw"), np.repeat([[1.0], [2.0]], 1000, axis=1))
    posterior["a.concentration"] += 1e-3 * np.random.default_rng(0).normal(size=(2, 1000))
    tree = nuts_tree.copy()
    tree["posterior"] = xr.DataTree(posterior)
    tree.attrs = {"sites": '{"a": [], "one": []}'}
    found = sampler(tree)
    assert found["value"]["rhat_max"] > 1.5
    assert not found["good"]


def test_a_guide_is_no_sampler(conjugate):
    with pytest.raises(DirpruneError, match="a guide's"):
        sampler(conjugate([1.0] * 3, [1, 2, 3], draws=50))
