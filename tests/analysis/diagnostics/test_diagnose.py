"""All diagnostics together: JSON, and words where a value cannot be had."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from dirprune.analysis.diagnostics import LIMITS, diagnose

LOSSES = np.random.default_rng(0).normal(size=(2, 100)).tolist()
GUIDES = {
    "elpd", "reliability", "svi_convergence", "restart_agreement", "importance", "power_scaling",
    "overlap", "loo",
}  # fmt: skip


def held_out(number=40):
    p = np.full((number, 2), 0.5)
    data = {
        "log_likelihood": (("chain", "draw", "image"), np.log(np.full((2, 3, number), 0.5))),
        "targets": ("image", np.arange(number) % 2),
        "probabilities": (("image", "class"), p),
        "network_probabilities": (("image", "class"), p),
    }
    return xr.DataTree(xr.Dataset(data))


def test_all_are_computed_and_are_json(conjugate):
    tree = conjugate([2.0] * 3, [5, 3, 1], draws=200)
    tree["validation"] = held_out()
    found = diagnose(tree, {"svi": LOSSES})
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found) == GUIDES < set(LIMITS)
    assert all(f["text"] and f["value"] and f["threshold"] and f["source"] for f in found.values())


def test_it_says_what_it_could_not_compute(make_tree, dirichlet):
    found = diagnose(make_tree({"a": dirichlet([2.0] * 3, 1, 5)}), {"svi": []})
    assert all(f["value"] is None and "Not computed" in f["text"] for f in found.values())
    assert "at least 2 restarts, got 1: give restarts=2" in found["restart_agreement"]["text"]
    assert all(f["good"] is None for f in found.values())


def test_a_point_gets_no_verdict_that_needs_a_density(point_tree):
    found = diagnose(point_tree, {"svi": LOSSES})
    for name in ("restart_agreement", "importance", "power_scaling", "overlap", "loo"):
        assert "Not computed: the guide is a point mass" in found[name]["text"], name
    assert found["svi_convergence"]["value"]


def test_nuts_gets_its_own(nuts_tree):
    found = diagnose(nuts_tree, {"svi": []})
    assert set(found) == GUIDES - {"restart_agreement"} | {"sampler"}
    assert found["sampler"]["good"]
    assert found["loo"]["good"]
    assert "Not computed: NUTS" in found["importance"]["text"]
    assert "Not computed: NUTS drew these; there was no SVI" in found["svi_convergence"]["text"]


def test_a_tree_that_holds_nothing_is_said():
    found = diagnose(xr.DataTree(), {})
    assert all("Not computed" in f["text"] for f in found.values())
