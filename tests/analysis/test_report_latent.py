"""The report's tables of the prior's parameters and of correlated units, from known draws."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from dirprune.analysis.report.latent import correlated_units, hyper_rows


def tree_of(sites: dict[str, np.ndarray], **more: Any) -> xr.DataTree:
    """Draws [chain, draw, K] under the names of sites; ``more`` joins the posterior."""
    data = {n: (("chain", "draw", f"{n}_unit"), v) for n, v in sites.items()}
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({**data, **more})})
    tree.attrs = {"sites": json.dumps({name: [[], []] for name in sites})}
    chains, draws = next(iter(sites.values())).shape[:2]
    zero = (("chain", "draw"), np.zeros((chains, draws)))
    tree["sample_stats"] = xr.DataTree(xr.Dataset({"lp": zero, "log_q": zero}))
    return tree


def independent(rng: np.random.Generator, sizes: dict[str, int], draws: int = 400) -> Any:
    return {n: rng.dirichlet(np.full(k, 0.5), size=(2, draws)) for n, k in sizes.items()}


def test_parameters_of_the_prior_beside_their_prior() -> None:
    """Quantiles of 0, ..., 100 are exact; every unit's of 2 has its own median."""
    steps = np.arange(101.0)[None]
    tree = tree_of(
        {"a": np.full((1, 101, 2), 0.5)},
        a_scale=(("chain", "draw"), steps),
        a_concentration=(
            ("chain", "draw", "a_unit"),
            np.stack([steps, steps + 100], axis=-1),
        ),
    )
    tree["prior"] = xr.DataTree(xr.Dataset({"a_scale": (("chain", "draw"), 10 * steps)}))
    one, every = hyper_rows(tree)
    assert one == {
        "name": "a_scale", "number": "1", "posterior": "50 (5 to 95)", "range": "–",
        "prior": "500 (50 to 950)",
    }  # fmt: skip
    assert (every["number"], every["range"], every["prior"]) == ("2", "50 to 150", "–")
    assert every["posterior"].startswith("100 (")


def test_without_a_hierarchical_prior_there_is_no_row() -> None:
    assert hyper_rows(tree_of({"a": np.full((1, 5, 2), 0.5)})) == []


def test_units_that_go_together_are_found() -> None:
    rng = np.random.default_rng(0)
    sites = independent(rng, {"a": 5, "b": 40, "c": 3})
    log = np.log(sites["b"][..., 7])
    sites["c"][..., 1] = np.exp(-log + 0.5 * log.std() * rng.normal(size=log.shape))
    found = correlated_units(tree_of(sites))
    assert (found[0]["one"], found[0]["other"]) == (("b", 7), ("c", 1))
    each = [spearmanr(sites["b"][c, :, 7], sites["c"][c, :, 1]).statistic for c in (0, 1)]
    assert found[0]["r"] == pytest.approx(np.mean(each))
    assert len(found) == 1  # what is left is independent


def test_independent_units_are_rarely_listed() -> None:
    """In 1 % of cases: of 60, more than 4 have a chance of 0.03 %."""
    rng = np.random.default_rng(1)
    cases = [tree_of(independent(rng, {"a": 8, "b": 20}, 100)) for _ in range(60)]
    assert sum(bool(correlated_units(tree)) for tree in cases) <= 4


def test_restarts_at_different_places_are_no_correlation() -> None:
    sites = independent(np.random.default_rng(2), {"a": 4, "b": 4})
    for draws in sites.values():
        draws[1] += 5
    assert correlated_units(tree_of(sites)) == []


def test_draws_of_a_chain_count_by_their_effective_number() -> None:
    """Two independent random walks agree or disagree strongly, by chance."""
    walks = np.random.default_rng(3).normal(size=(2, 400, 6)).cumsum(1)
    sites = {"a": np.exp(walks[..., :3] / 10), "b": np.exp(walks[..., 3:] / 10)}
    tree = tree_of(sites)
    assert correlated_units(tree)  # as if they were a guide's
    tree["sample_stats"] = xr.DataTree(tree["sample_stats"].to_dataset().drop_vars("log_q"))
    assert correlated_units(tree) == []


def test_a_point_and_a_single_site_have_none() -> None:
    assert correlated_units(tree_of({"a": np.full((1, 50, 2), 0.5)})) == []
    assert correlated_units(tree_of(independent(np.random.default_rng(0), {"a": 6}))) == []
