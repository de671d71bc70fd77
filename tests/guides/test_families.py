"""Guides by name: options, refusals, the ELBO of each, and priors with parameters of their own."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuide,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoNormal,
)
from pyro.optim import Adam
from torch import nn

from dirprune.guides import GUIDES, AutoDirichlet, check_elbo, elbo_for, make_guide
from dirprune.guides.families import parse_guide
from dirprune.model.errors import DirpruneError
from dirprune.model.sites import Site
from dirprune.model.switched import SwitchedNetwork

OURS = [name for name, family in GUIDES.items() if isinstance(family.make, type)]
PYROS = {
    "delta": AutoDelta,
    "normal": AutoNormal,
    "low-rank-normal": AutoLowRankMultivariateNormal,
    "iaf-normal": AutoIAFNormal,
}


def gamma_prior(site: Site) -> dist.Dirichlet:
    alpha = pyro.sample(f"{site.name}_alpha", dist.Gamma(torch.tensor(2.0).double(), 1.0))
    return dist.Dirichlet(alpha.unsqueeze(-1).expand(*alpha.shape, site.size))


def network(**kwargs: Any) -> SwitchedNetwork:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))
    return SwitchedNetwork(layers, torch.randn(2, 4), num_data=20, **kwargs)


@pytest.mark.parametrize("name", GUIDES)
def test_every_name_makes_a_guide_with_parameters_that_starts_at_the_trained_network(
    name: str,
) -> None:
    model = network()
    guide = make_guide(name, model)
    assert list(guide.parameters())
    with torch.no_grad(), pyro.plate("draws", 4000):
        drawn = guide(model.example)
    for site in model.sites.values():
        assert drawn[site.name].shape == (4000, site.size)
        assert drawn[site.name].dtype == torch.float64
        torch.testing.assert_close(drawn[site.name].sum(-1), torch.ones(4000).double())
        # A flow's first normal has sd 1 in stick-breaking space, whose mean is off the centre.
        far = 0.12 if name == "iaf-normal" else 0.02
        assert float((drawn[site.name].mean(0) - 1 / site.size).abs().max()) < far


@pytest.mark.parametrize("name", GUIDES)
def test_no_name_asks_the_model_for_more_than_its_latent_part(name: str) -> None:
    model = network()
    model.forward = None  # type: ignore[method-assign, assignment]
    make_guide(name, model)


@pytest.mark.parametrize(("name", "kind"), PYROS.items())
def test_pyros_guides_go_by_name(name: str, kind: type[AutoGuide]) -> None:
    assert type(make_guide(name, network())) is kind


@pytest.mark.parametrize("name", GUIDES)
def test_the_right_elbo_is_named_and_chosen(name: str) -> None:
    model = network()
    guide = make_guide(name, model)
    assert type(elbo_for(guide)).__name__ == GUIDES[name].right_elbo
    check_elbo(elbo_for(guide), guide, model.example)


@pytest.mark.parametrize("name", ["normal", "low-rank-normal", "iaf-normal"])
def test_the_pair_that_drops_the_jacobian_is_refused(name: str) -> None:
    model = network()
    with pytest.raises(DirpruneError, match=r"site '0'.*Delta with a log_density.*Trace_ELBO"):
        check_elbo(TraceMeanField_ELBO(), make_guide(name, model), model.example)


@pytest.mark.parametrize("name", [*OURS, "delta"])
def test_a_guide_without_a_jacobian_in_a_delta_goes_with_both(name: str) -> None:
    """AutoDelta's density on the simplex has none: it finds the mode under either."""
    model = network()
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        check_elbo(elbo, make_guide(name, model), model.example)


def test_a_list_takes_the_elbo_that_is_right_for_every_part() -> None:
    model = network()
    latent = model.sample_switches

    def part(make: Callable[..., AutoGuide], site: str) -> AutoGuide:
        return make(poutine.block(latent, expose=[site]))

    ours, mixed = AutoGuideList(latent), AutoGuideList(latent)
    for guide, makes in ((ours, (AutoDirichlet,) * 2), (mixed, (AutoDirichlet, AutoNormal))):
        for make, site in zip(makes, model.sites, strict=True):
            guide.append(part(make, site))
    assert type(elbo_for(ours)) is TraceMeanField_ELBO
    assert type(elbo_for(mixed)) is Trace_ELBO
    check_elbo(elbo_for(mixed), mixed)
    with pytest.raises(DirpruneError, match="site '2'"):
        check_elbo(TraceMeanField_ELBO(), mixed)


@pytest.mark.parametrize("name", GUIDES)
def test_priors_with_parameters_are_fitted_by_every_name(name: str) -> None:
    model = network(prior=gamma_prior)
    guide = make_guide(name, model)
    trace = poutine.trace(guide).get_trace(model.example)
    for latent in (*model.sites, *model.hyper_sites):
        assert trace.nodes[latent]["type"] == "sample"
    assert all(float(trace.nodes[h]["value"].detach()) > 0 for h in model.hyper_sites)
    assert isinstance(guide, AutoGuideList) == (name in OURS)
    elbo = elbo_for(guide)
    with pyro.validation_enabled(False):  # of the order of sites; `fit` says why it may differ
        elbo.differentiable_loss(model, guide, model.example, torch.tensor([0, 1])).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in guide.parameters())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dirichlt", {}, "unknown guide 'dirichlt'; did you mean 'dirichlet'"),
        ("dirichlet", {"rank": 3}, "'dirichlet' has no option 'rank'; it is an option of .*low-r"),
        ("delta", {"init_scale": 0.1}, "It has: none"),
        ("normal", {"scale": 1}, r"no option 'scale'\. It has: init_scale=0\.1"),
        ("dirichlet", {"init_concentration": 0.0}, "init_concentration > 0, but got 0"),
        ("dirichlet", {"init_concentration": float("nan")}, "init_concentration > 0, but got nan"),
        ("normal", {"init_scale": float("inf")}, "init_scale > 0, but got inf"),
        ("low-rank-normal", {"rank": 0}, "rank to be a whole number of at least 1, but got 0"),
        ("low-rank-normal", {"rank": 2.5}, "rank to be a whole number of at least 1, but got 2.5"),
        ("low-rank-normal", {"rank": 7}, "rank=7 is more than the 6 stick-breaking coordinates"),
        ("low-rank-logistic-normal", {"rank": 11}, "rank=11 is more than the 8 units of all"),
        ("iaf-normal", {"hidden_dim": 2}, "Hidden dimension must not be less than input"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DirpruneError, match=message):
        make_guide(name, network(), options)


def test_options_reach_the_guide() -> None:
    guide = make_guide("low-rank-normal", network(), {"rank": 2, "init_scale": 0.3})
    assert guide.cov_factor.shape == (6, 2)
    dirichlet = make_guide("dirichlet", network(), {"init_concentration": 3.0})
    assert dirichlet.concentration()["0"].tolist() == pytest.approx([3.0] * 5)


def test_a_guide_is_written_with_its_options() -> None:
    assert parse_guide("dirichlet") == ("dirichlet", {})
    name, options = parse_guide("low-rank-logistic-normal:rank=5:init-scale=1e-1")
    assert (name, options) == ("low-rank-logistic-normal", {"rank": 5, "init_scale": 0.1})
    assert isinstance(options["rank"], int)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("dirichlt:rank=3", "unknown guide 'dirichlt'; did you mean 'dirichlet'"),
        ("dirichlet:rank=3", "'dirichlet' has no option 'rank'; it is an option of"),
        ("low-rank-normal:", "'low-rank-normal:': expected low-rank-normal:OPTION=NUMBER"),
        ("low-rank-normal:5", "expected low-rank-normal:OPTION=NUMBER"),
        ("low-rank-normal:rank=many", "expected low-rank-normal:OPTION=NUMBER"),
        ("low-rank-normal:rank=1:rank=2", "rank is given twice"),
    ],
)
def test_a_guide_that_is_not_so_written_is_refused(spec: str, message: str) -> None:
    with pytest.raises(DirpruneError, match=message):
        parse_guide(spec)


@pytest.mark.parametrize("value", ["3", None, True, [1], torch.tensor(2.0)])
@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("dirichlet", "init_concentration"),
        ("low-rank-logistic-normal", "rank"),
        ("normal", "init_scale"),
        ("iaf-normal", "num_transforms"),
    ],
)
def test_options_are_numbers(name: str, option: str, value: Any) -> None:
    with pytest.raises(DirpruneError, match=f"option '{option}': expected a number, as in"):
        make_guide(name, network(), {option: value})


def test_options_are_a_mapping_of_a_name_that_is_a_string() -> None:
    with pytest.raises(DirpruneError, match="guide_options: expected a mapping"):
        make_guide("dirichlet", network(), "rank=3")  # type: ignore[arg-type]
    with pytest.raises(DirpruneError, match="unknown guide 'None'"):
        make_guide(None, network())  # type: ignore[arg-type]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
@pytest.mark.parametrize("name", OURS)
def test_a_list_that_was_never_called_is_copied_and_saved(
    name: str, duplicate: Callable[[Any], Any]
) -> None:
    guide = make_guide(name, network(prior=gamma_prior))
    other = duplicate(guide)
    drawn = []
    for each in (guide, other):  # Pyro's copy takes the model from the guide that was copied
        torch.manual_seed(1)
        drawn.append(each())
    assert set(drawn[0]) == {"0", "2", "0_alpha", "2_alpha"}
    for site, value in drawn[0].items():
        assert torch.equal(value, drawn[1][site])
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    torch.manual_seed(1)
    assert torch.equal(guide()["0"], drawn[0]["0"])


def test_the_check_of_the_elbo_shows_nothing_to_handlers_around_it() -> None:
    model = network()
    guide = make_guide("dirichlet", model)
    with poutine.trace() as outer:
        check_elbo(TraceMeanField_ELBO(), guide, model.example)
    assert not outer.trace.stochastic_nodes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", GUIDES)
def test_guides_are_where_the_model_is(name: str) -> None:
    model = network().to("cuda")
    guide = make_guide(name, model)
    assert all(value.is_cuda for value in guide(model.example).values())


@pytest.mark.parametrize("name", GUIDES)
def test_a_second_guide_of_a_name_is_not_the_first_under_pyros_own_svi(name: str) -> None:
    model, data = network(), (torch.randn(4, 4), torch.tensor([0, 1, 0, 1]))
    first, second = make_guide(name, model), make_guide(name, model)
    before = [p.detach().clone() for p in second.parameters()]
    svi = SVI(model, first, Adam({"lr": 0.05}), elbo_for(first))
    for _ in range(3):
        svi.step(*data)
    after = [p.detach().clone() for p in first.parameters()]
    svi = SVI(model, second, Adam({"lr": 0.05}), elbo_for(second))
    svi.step(*data)
    assert not all(map(torch.equal, second.parameters(), before))
    assert all(map(torch.equal, first.parameters(), after))


def test_a_priors_parameter_off_the_half_line_goes_with_pyros_guides_only() -> None:
    def prior(site: Site) -> dist.Dirichlet:
        x = pyro.sample(f"{site.name}_log", dist.Normal(torch.tensor(0.0).double(), 1.0))
        return dist.Dirichlet(x.exp().unsqueeze(-1).expand(*x.shape, site.size))

    model = network(prior=prior)
    with pytest.raises(DirpruneError, match=r"'0_log' is a Normal .*'normal'.* take any"):
        make_guide("dirichlet", model)
    assert set(make_guide("normal", model)()) == {"0", "0_log", "2", "2_log"}
