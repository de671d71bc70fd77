"""Priors by name, number or callable, and what is refused."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch

from dirprune.model.errors import DirpruneError
from dirprune.model.priors import (
    PRIORS,
    AlphaOverK,
    BatchNormScale,
    HalfCauchy,
    Hierarchical,
    NetworkPrior,
    Symmetric,
    WeightNorm,
    check_on_simplex,
    make_prior,
)
from dirprune.model.sites import Site

SITE = Site("conv1", 4, ("conv1",), ("conv2",))


@pytest.mark.parametrize(
    ("spec", "prior"),
    [
        ("symmetric", Symmetric(1.0)),
        ("symmetric:0.3", Symmetric(0.3)),
        ("alpha/K", AlphaOverK(1.0)),
        ("alpha/K:2", AlphaOverK(2.0)),
        ("hierarchical", Hierarchical(1.0, 1.0)),
        ("hierarchical:2:0.5", Hierarchical(2.0, 0.5)),
        ("half-cauchy", HalfCauchy(0.1)),
        ("half-cauchy:0.01", HalfCauchy(0.01)),
        ("weight-norm:3", WeightNorm(3.0)),
        ("bn-scale", BatchNormScale(1.0)),
        ("0.5", Symmetric(0.5)),
        ("1e-3", Symmetric(0.001)),
        (2, Symmetric(2.0)),
        (0.5, Symmetric(0.5)),
    ],
)
def test_names_and_numbers(spec: Any, prior: object) -> None:
    found = make_prior(spec)
    assert found == prior
    assert eval(repr(found)) == prior  # the words that a run keeps say it all
    assert make_prior(found) is found


@pytest.mark.parametrize(
    ("spec", "concentration"), [("symmetric:0.3", 0.3), ("alpha/K", 0.25), ("alpha/K:2", 0.5)]
)
def test_fixed_concentrations(spec: str, concentration: float) -> None:
    prior: Any = make_prior(spec)
    found = prior(SITE)
    assert isinstance(found, dist.Dirichlet)
    # float64: a small concentration must not be rounded to float32 first.
    assert found.concentration.dtype == torch.float64
    assert found.concentration.tolist() == [concentration] * 4
    assert check_on_simplex(found, SITE) is found


def test_the_list_of_names() -> None:
    parameters = {name: family.parameters for name, family in PRIORS.items()}
    assert parameters == {
        "symmetric": {"alpha": 1.0},
        "alpha/K": {"alpha": 1.0},
        "hierarchical": {"shape": 1.0, "rate": 1.0},
        "half-cauchy": {"scale": 0.1},
        "weight-norm": {"alpha": 1.0},
        "bn-scale": {"alpha": 1.0},
    }
    for name, family in PRIORS.items():
        assert family.summary
        assert "\n" not in family.summary
        assert make_prior(name) == family.make(*family.parameters.values())


def test_a_callable_stays_itself() -> None:
    def informed(site: Site) -> dist.Dirichlet:
        return dist.Dirichlet(torch.arange(1.0, site.size + 1))

    assert make_prior(informed) is informed
    assert not isinstance(informed, NetworkPrior)
    assert isinstance(make_prior("weight-norm"), NetworkPrior)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("symetric", "unknown prior 'symetric'; did you mean 'symmetric'"),
        ("half_cauchy:1", "unknown prior 'half_cauchy'; did you mean 'half-cauchy'"),
        ("horseshoe:1", "unknown prior 'horseshoe'"),
        ("symmetric:", r"a number after each colon \(symmetric:ALPHA\), as in symmetric:1"),
        ("alpha/K:x", r"a number after each colon \(alpha/K:ALPHA\), as in alpha/K:1"),
        ("symmetric:1:2", r"expected 1 value after the name .*; got 2"),
        ("hierarchical:1", r"2 values after the name \(hierarchical:SHAPE:RATE\).*1:1.*; got 1"),
        ("hierarchical:1:1:1", r"expected 2 values .* got 3"),
        ("hierarchical:0:1", "the shape of a Gamma must be positive and finite, got 0"),
        ("hierarchical:1:inf", "the rate of a Gamma must be positive and finite, got inf"),
        ("half-cauchy:-1", "the scale of a half-Cauchy must be positive and finite, got -1"),
        ("weight-norm:nan", "a concentration must be positive and finite, got nan"),
        ("bn-scale:0", "a concentration must be positive and finite, got 0"),
        ("alpha/K:0", "a concentration must be positive and finite, got 0"),
        ("-1", "positive and finite, got -1"),
        ("nan", "positive and finite, got nan"),
        (0, "positive and finite, got 0"),
        (-0.5, "positive and finite, got -0.5"),
        (float("inf"), "positive and finite, got inf"),
        (True, "expected a name, a number or a callable"),
        (None, "expected a name, a number or a callable"),
        ([1, 2], "expected a name, a number or a callable"),
        (Symmetric, "expected a name, a number or a callable .* a class: call it first"),
        (WeightNorm, "expected a name, a number or a callable .* a class: call it first"),
    ],
)
def test_what_is_no_prior(spec: Any, message: str) -> None:
    with pytest.raises(DirpruneError, match=message):
        make_prior(spec)
