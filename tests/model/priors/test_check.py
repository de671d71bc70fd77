"""What a model asks of a prior, and how it says no."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from dirprune.model.errors import DirpruneError
from dirprune.model.priors import Dirichlet, Hierarchical, Symmetric, check_on_simplex, check_prior
from dirprune.model.sites import Site

SITE = Site("conv1", 4, ("conv1",), ("conv2",))
SITES = {"conv1": SITE, "fc": Site("fc", 3, ("fc",), ("out",))}


def test_any_distribution_on_the_simplex_is_taken() -> None:
    normal = dist.LogisticNormal(torch.zeros(3), torch.ones(3))
    assert check_on_simplex(normal, SITE) is normal
    wide = dist.Dirichlet(torch.ones(4096))  # in float32
    assert check_on_simplex(wide, Site("wide", 4096, (), ())) is wide


@pytest.mark.parametrize(
    "wrong",
    [
        dist.Dirichlet(torch.ones(5)),
        dist.Dirichlet(torch.ones(2, 4)),
        dist.Normal(torch.zeros(4), 1.0).to_event(1),
        dist.Beta(1.0, 1.0),
        torch.distributions.Dirichlet(torch.ones(4)),  # torch's: pyro.sample cannot draw from it
        torch.ones(4) / 4,
        None,
    ],
    ids=repr,
)
def test_what_is_not_on_the_simplex_is_refused(wrong: object) -> None:
    with pytest.raises(DirpruneError, match="'conv1': expected a distribution on the simplex of 4"):
        check_on_simplex(wrong, SITE)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_concentrations_are_checked_also_where_pyro_does_not(value: float) -> None:
    wrong = torch.tensor([1.0, 1.0, value, 1.0])
    with pytest.raises(DirpruneError, match=f"positive and finite, got {value}"):
        check_on_simplex(dist.Dirichlet(wrong, validate_args=False), SITE)


def test_draws_are_checked() -> None:
    broken = dist.LogisticNormal(torch.full((3,), torch.nan), torch.ones(3), validate_args=False)
    with pytest.raises(DirpruneError, match=r"'conv1': a draw from .* is not on the simplex"):
        check_on_simplex(broken, SITE)


def test_a_prior_without_hyper_parameters() -> None:
    assert check_prior(Symmetric(0.5), SITES) == ()


def test_hyper_parameters_are_found() -> None:
    def prior(site: Site) -> dist.TorchDistribution:
        a = pyro.sample(f"{site.name}.a", dist.LogNormal(torch.tensor(0.0).double(), 1.0))
        b = pyro.sample(f"{site.name}.b", dist.Gamma(a, 1.0))
        pyro.deterministic(f"{site.name}.sum", a + b)
        return Dirichlet(b.unsqueeze(-1).expand(*b.shape, site.size))

    assert check_prior(prior, SITES) == ("conv1.a", "conv1.b", "fc.a", "fc.b")
    assert check_prior(Hierarchical(), SITES) == ("conv1_concentration", "fc_concentration")


def test_the_callers_state_stays_as_it_is() -> None:
    def prior(site: Site) -> dist.TorchDistribution:
        pyro.param("left", torch.ones(()))
        return Hierarchical()(site)

    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    with poutine.trace() as outer:
        check_prior(prior, SITES)
    assert [n for n, s in outer.trace.nodes.items() if s["type"] == "sample"] == []
    assert torch.equal(torch.rand(5), expected)
    assert "left" not in pyro.get_param_store()


def two_hyper(first: str, second: str) -> Callable[[Site], dist.TorchDistribution]:
    def prior(site: Site) -> dist.TorchDistribution:
        a = pyro.sample(first if site.name == "conv1" else second, dist.Gamma(2.0, 1.0))
        return dist.Dirichlet(a.unsqueeze(-1).expand(*a.shape, site.size))

    return prior


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("fc", "b", "site 'conv1': its hyper-parameter 'fc' .*a switch.*'conv1_something'"),
        ("conv1", "b", "site 'conv1': its hyper-parameter 'conv1' has a name that is taken"),
        ("targets", "b", r"'targets' has a name that is taken \(of the model\)"),
        ("a", "data", "site 'fc': its hyper-parameter 'data'"),
        ("a", "a", r"site 'fc': .*'a' has a name that is taken \(a hyper-parameter of site 'conv1"),
    ],
)
def test_names_that_are_taken(first: str, second: str, message: str) -> None:
    with pytest.raises(DirpruneError, match=message):
        check_prior(two_hyper(first, second), SITES)


@pytest.mark.parametrize(
    ("spread", "size"),
    [
        (lambda a, k: dist.Dirichlet(a * torch.ones(k)), 4),
        (lambda a, k: dist.Dirichlet(a.expand(k)), 4),
        (lambda a, k: dist.Dirichlet(a * torch.ones(k)), 2),
        # At a plate of K this takes row p for unit p, in silence.
        (lambda a, k: dist.Dirichlet(a.expand(*a.shape, k)), 4),
    ],
)
def test_a_prior_that_takes_its_hyper_parameter_for_a_scalar(spread: Any, size: int) -> None:
    def prior(site: Site) -> dist.TorchDistribution:
        return spread(pyro.sample(f"{site.name}.a", dist.Gamma(2.0, 1.0)), site.size)

    with pytest.raises(DirpruneError, match=r"'s' does not work under a plate.*unsqueeze\(-1\)"):
        check_prior(prior, {"s": Site("s", size, (), ())})


def test_a_prior_that_fails() -> None:
    def fails(site: Site) -> dist.TorchDistribution:
        raise KeyError(site.name)

    with pytest.raises(DirpruneError, match="prior of site 'conv1' raised KeyError: 'conv1'"):
        check_prior(fails, SITES)

    def negative(site: Site) -> dist.TorchDistribution:
        return dist.Dirichlet(-torch.ones(site.size))

    with pytest.raises(DirpruneError, match="prior of site 'conv1' raised ValueError: Expected"):
        check_prior(negative, SITES)
