"""Priors: names, numbers and callables, and what is refused."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch

from dirprune.model.errors import DirpruneError
from dirprune.model.priors import check_on_simplex, make_prior
from dirprune.model.sites import Site

SITE = Site("conv1", 4, ("conv1",), ("conv2",))


@pytest.mark.parametrize(
    ("spec", "concentration"),
    [
        ("symmetric", 1.0),
        ("symmetric:0.3", 0.3),
        ("alpha/K", 0.25),
        ("alpha/K:2", 0.5),
        ("0.5", 0.5),
        ("1e-3", 0.001),
        (2, 2.0),
        (0.5, 0.5),
    ],
)
def test_names_and_numbers(spec: str | float, concentration: float) -> None:
    prior: Any = make_prior(spec)(SITE)
    assert isinstance(prior, dist.Dirichlet)
    # float64: a small concentration must not be rounded to float32 first.
    assert prior.concentration.dtype == torch.float64
    assert prior.concentration.tolist() == [concentration] * 4
    assert check_on_simplex(prior, SITE) is prior


def test_a_callable_stays_itself() -> None:
    def informed(site: Site) -> dist.Dirichlet:
        return dist.Dirichlet(torch.arange(1.0, site.size + 1))

    assert make_prior(informed) is informed


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("symetric", "unknown prior 'symetric'; did you mean 'symmetric'"),
        ("symmetric:", "expected a number after the colon, as in symmetric:0.5"),
        ("alpha/K:x", "expected a number after the colon, as in alpha/K:0.5"),
        ("horseshoe:1", "unknown prior 'horseshoe'"),
        ("-1", "positive and finite, got -1"),
        ("nan", "positive and finite, got nan"),
        (0, "positive and finite, got 0"),
        (-0.5, "positive and finite, got -0.5"),
        (float("inf"), "positive and finite, got inf"),
        ("alpha/K:0", "positive and finite, got 0"),
        (True, "expected a name, a number or a callable"),
        (None, "expected a name, a number or a callable"),
        ([1, 2], "expected a name, a number or a callable"),
    ],
)
def test_what_is_no_prior(spec: Any, message: str) -> None:
    with pytest.raises(DirpruneError, match=message):
        make_prior(spec)


def test_any_distribution_on_the_simplex_is_taken() -> None:
    normal = dist.LogisticNormal(torch.zeros(3), torch.ones(3))
    assert check_on_simplex(normal, SITE) is normal


@pytest.mark.parametrize(
    "wrong",
    [
        dist.Dirichlet(torch.ones(5)),
        dist.Dirichlet(torch.ones(2, 4)),
        dist.Normal(torch.zeros(4), 1.0).to_event(1),
        dist.Beta(1.0, 1.0),
        torch.ones(4) / 4,
        None,
    ],
    ids=repr,
)
def test_what_is_not_on_the_simplex_is_refused(wrong: object) -> None:
    with pytest.raises(DirpruneError, match="'conv1': expected a distribution on the simplex of 4"):
        check_on_simplex(wrong, SITE)
