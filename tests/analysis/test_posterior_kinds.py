"""The DataTree of what is no plain Dirichlet guide: priors with parameters, draws of NUTS."""

import json
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoGuideList
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.decision.decide import decide
from dirprune.analysis.evidence import evidence
from dirprune.analysis.evidence.switches import draw_switches
from dirprune.analysis.posterior import posterior
from dirprune.analysis.tree import load_tree, save_tree, site_sizes, switches
from dirprune.guides import AutoDirichlet
from dirprune.inference.fit import Fit, fit
from dirprune.model.errors import DirpruneError
from dirprune.model.sites import Site
from dirprune.model.switched import SwitchedNetwork

F64 = torch.float64


def gamma_prior(site: Site) -> dist.Dirichlet:
    alpha = pyro.sample(f"{site.name}_alpha", dist.Gamma(torch.tensor(2.0, dtype=F64), 1.0))
    return dist.Dirichlet(alpha.unsqueeze(-1).expand(*alpha.shape, site.size))


def unit_prior(site: Site) -> dist.Dirichlet:
    shape = torch.full((site.size,), 3.0, dtype=F64)
    lam = pyro.sample(f"{site.name}_lambda", dist.Gamma(shape, 1.0).to_event(1))
    return dist.Dirichlet(lam)


def network(prior: Any = "symmetric") -> tuple[SwitchedNetwork, DataLoader[Any]]:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(40, 3)
    model = SwitchedNetwork(layers, x[:2], num_data=40, prior=prior)
    data = TensorDataset(x, torch.randint(2, (40,)))
    return model, DataLoader(data, batch_size=20)


@pytest.mark.parametrize(
    ("prior", "name", "dims"),
    [(gamma_prior, "alpha", ()), (unit_prior, "lambda", ("{}_unit",))],
    ids=["one for a site", "one for a unit"],
)
def test_parameters_of_a_prior_stand_beside_the_switches(
    prior: Any, name: str, dims: tuple[str, ...], tmp_path: Any
) -> None:
    model, loader = network(prior)
    assert set(model.hyper_sites) == {f"0_{name}", f"2_{name}"}
    found = fit(model, "dirichlet", loader, epochs=2, restarts=2)
    tree = posterior(model, found, loader, draws=30, images=20, cost_draws=4, cost_images=20)
    save_tree(tree, tmp_path / "posterior.nc")
    tree = load_tree(tmp_path / "posterior.nc")
    for group in ("posterior", "prior"):
        for site, size in (("0", 4), ("2", 5)):
            parameter = tree[group][f"{site}_{name}"]
            assert parameter.dims == ("chain", "draw", *(d.format(site) for d in dims))
            assert bool((parameter > 0).all())
            assert switches(tree, group)[site].shape[-1] == size
        assert list(switches(tree, group)) == ["0", "2"]
    assert site_sizes(tree) == {"0": 4, "2": 5}
    assert set(tree["concentration"].data_vars) == {"0", "2"}
    decision = decide(tree, evidence("removal-cost", None, tree), keep=0.5)
    assert sum(len(kept) for kept in decision.kept.values()) == 5


def test_log_prior_and_lp_count_the_parameters_of_a_prior() -> None:
    model, loader = network(gamma_prior)
    found = fit(model, "dirichlet", loader)
    tree = posterior(model, found, loader, draws=20, images=40, cost_draws=2, cost_images=4)
    expected = np.zeros((1, 20))
    for site, s in switches(tree).items():
        alpha = tree["posterior"][f"{site}_alpha"].values
        expected += stats.gamma(2).logpdf(alpha)
        for draw in range(20):
            phi = np.full(s.shape[-1], alpha[0, draw])
            # SciPy wants the sum nearer to 1 than float32 in the network could tell.
            expected[0, draw] += stats.dirichlet(phi).logpdf(s[0, draw] / s[0, draw].sum())
    np.testing.assert_allclose(tree["log_prior"]["switches"].values, expected, rtol=1e-9)
    likelihood = tree["log_likelihood"]["targets"].values.sum(-1)  # all 40 images, temperature 1
    np.testing.assert_allclose(tree["sample_stats"]["lp"].values, expected + likelihood, rtol=1e-9)


def of_nuts(number: int = 60) -> Fit:
    """Two chains as ``sample`` returns them, made up: unit 0 has a rising switch."""
    chains = []
    for chain in range(2):
        rise = torch.linspace(0.1, 0.6, number, dtype=F64).unsqueeze(-1) + 0.01 * chain
        rest = (1 - rise) * torch.tensor([[0.5, 0.3, 0.2]], dtype=F64)
        other = torch.full((number, 5), 0.2, dtype=F64)
        chains.append({"0": torch.cat([rise, rest], -1), "2": other})
    stats = [{"diverging": torch.arange(number) == 3} for _ in range(2)]
    return Fit([], [], 1.0, {"guide": "NUTS"}, draws=chains, stats=stats)


def test_draws_of_nuts_are_the_posterior() -> None:
    model, loader = network()
    tree = posterior(model, of_nuts(), loader, draws=60, images=20, cost_draws=4, cost_images=20)
    np.testing.assert_array_equal(switches(tree)["0"][1], of_nuts().draws[1]["0"].numpy())
    assert "log_q" not in tree["sample_stats"]
    assert "concentration" not in tree.children
    assert tree["sample_stats"]["diverging"].values.sum(1).tolist() == [1, 1]
    assert json.loads(tree.attrs["settings"])["guide"] == "NUTS"
    assert decide(tree, evidence("removal-cost", None, tree), keep=0.5).probability


def test_fewer_draws_of_nuts_are_evenly_spaced() -> None:
    model, _ = network()
    drawn = draw_switches(model, of_nuts(), 4)
    loader = network()[1]
    tree = posterior(model, of_nuts(), loader, draws=4, images=20, cost_draws=2, cost_images=4)
    assert tree["sample_stats"]["diverging"].values.sum() == 0
    assert tree.attrs["divergences"] == 2  # of the draws that were left out
    expected = of_nuts().draws[0]["0"][[0, 20, 39, 59]]  # 59/3 apart, rounded
    assert torch.equal(drawn.switches["0"][0], expected)
    assert drawn.log_q is None


def test_what_is_of_another_model_is_refused() -> None:
    model, loader = network()
    fitted = fit(model, "dirichlet", loader)
    other = network(gamma_prior)[0]
    with pytest.raises(DirpruneError, match="does not sample the site '0_alpha'"):
        draw_switches(other, fitted, 5)
    with pytest.raises(DirpruneError, match="they lack 0_alpha, 2_alpha"):
        draw_switches(other, of_nuts(), 5)
    with pytest.raises(DirpruneError, match="the Fit holds no guide"):
        draw_switches(model, Fit([], [], 0.0), 5)


def test_concentrations_are_those_of_all_dirichlet_parts() -> None:
    model, loader = network()

    def parts(model: SwitchedNetwork) -> AutoGuideList:
        latent = model.sample_switches
        guide = AutoGuideList(lambda *args: latent())
        for site in model.sites:
            hidden = pyro.poutine.block(latent, expose=[site])
            guide.append(AutoDirichlet(hidden, prototype_args=()))
        return guide

    found = fit(model, parts, loader)
    scores = evidence("concentration", model, found)
    for part, site in zip(found.guides[0], model.sites, strict=True):
        assert torch.equal(scores[site].scores, part.concentration()[site])
    with pytest.raises(DirpruneError, match="has no concentrations: evidence 'concentration'"):
        evidence("concentration", model, fit(model, "logistic-normal", loader))
