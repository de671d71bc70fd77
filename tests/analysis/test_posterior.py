"""The posterior's DataTree: what is in it is what the formulas give, and ArviZ reads it."""

import json
import math
from pathlib import Path
from typing import Any

import arviz as az
import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.distributions import Dirichlet
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.evidence import evidence
from dirprune.analysis.posterior import posterior
from dirprune.analysis.tree import (
    concentrations,
    cost_table,
    evidence_draws,
    load_tree,
    save_tree,
    site_sizes,
)
from dirprune.inference.fit import Fit, fit
from dirprune.model.errors import DirpruneError
from dirprune.model.likelihoods import Gaussian
from dirprune.model.switched import SwitchedNetwork

mpl.use("Agg")
Case = Any  # of conftest.py

# -- layout ----------------------------------------------------------------------------------------


def test_groups_variables_dimensions_and_coordinates(case: Case) -> None:
    tree, draws, chains = case.tree, 400, 2
    assert set(tree.children) == {
        "posterior", "prior", "log_prior", "sample_stats", "log_likelihood", "observed_data",
        "concentration", "evidence", "cost_table",
    }  # fmt: skip
    for group, sizes in {
        "posterior": {"chain": chains, "draw": draws},
        "prior": {"chain": 1, "draw": draws},
        "concentration": {"chain": chains},
        "evidence": {"chain": chains, "draw": 32},
    }.items():
        assert list(tree[group].data_vars) == ["0", "2"]
        for site, units in (("0", 6), ("2", 5)):
            variable = tree[group][site]
            assert dict(variable.sizes) == {**sizes, f"{site}_unit": units}
            assert variable.dtype == np.float64
            for dim, size in variable.sizes.items():
                assert variable.coords[dim].values.tolist() == list(range(size))
    for name, dims in {
        ("sample_stats", "lp"): (chains, draws),
        ("sample_stats", "log_q"): (chains, draws),
        ("log_prior", "switches"): (chains, draws),
        ("log_likelihood", "targets"): (chains, draws, 50),
        ("observed_data", "targets"): (50,),
    }.items():
        assert tree[name[0]][name[1]].shape == dims
    assert tree["observed_data"]["targets"].values.tolist() == case.targets[:50].tolist()
    assert site_sizes(tree) == {"0": 6, "2": 5}


def test_attributes_say_where_it_comes_from(case: Case) -> None:
    attrs = case.tree.attrs
    assert attrs["seed"] == 0
    assert attrs["lp_images"] == 50
    assert attrs["temperature"] == 0.5
    assert json.loads(attrs["settings"]) == case.fit.settings
    assert attrs["version_torch"] == torch.__version__.split("+")[0] or attrs["version_torch"]
    assert json.loads(attrs["sites"])["0"] == [["0"], ["2"]]
    assert case.tree["evidence"].attrs == {
            "criterion": "removal-cost", "unit": "nats", "across_sites": 1,
            "passes": "[1920, 1920]",  # 2 chains x 32 draws x 30 images: see conftest.py
            "learning": f"[{case.fit.examples}, {case.fit.examples}]",
        }  # fmt: skip


def test_switches_are_on_the_simplex(case: Case) -> None:
    for group in ("posterior", "prior"):
        for site in ("0", "2"):
            values = case.tree[group][site].values
            np.testing.assert_allclose(values.sum(-1), 1, rtol=1e-12)  # float64 rounding
            assert (values >= 0).all()


# -- the numbers -----------------------------------------------------------------------------------


def test_draws_have_the_moments_of_the_guides(case: Case) -> None:
    for chain, guide in enumerate(case.fit.guides):
        for site, mean in guide.mean().items():
            draws = case.tree["posterior"][site].values[chain]
            error = np.sqrt(guide.variance()[site].numpy() / 400)
            assert (np.abs(draws.mean(0) - mean.numpy()) < 5 * error).all()
            assert torch.equal(concentrations(case.tree)[site][chain], guide.concentration()[site])
    flat = case.tree["prior"]["0"].values[0]
    # Dirichlet(1, ..., 1), K = 6: mean 1/6, variance 5/252
    assert (np.abs(flat.mean(0) - 1 / 6) < 5 * math.sqrt(5 / 252 / 400)).all()
    assert flat.var(0).mean() == pytest.approx(5 / 252, rel=0.2)


def test_log_q_is_the_guides_density(case: Case) -> None:
    for chain, guide in enumerate(case.fit.guides):
        total = torch.zeros(400, dtype=torch.float64)
        for site, phi in guide.concentration().items():
            s = torch.from_numpy(case.tree["posterior"][site].values[chain].copy())
            total += Dirichlet(phi).log_prob(s)
        found = case.tree["sample_stats"]["log_q"].values[chain]
        np.testing.assert_allclose(found, total.numpy(), rtol=1e-10)


def by_hand(case: Case, chain: int, draw: int) -> torch.Tensor:
    """log p(y_i | x_i, s) of 50 examples, through the network's layers written out."""
    gains = [
        k * torch.from_numpy(case.tree["posterior"][site].values[chain, draw].copy())
        for site, k in (("0", 6), ("2", 5))
    ]
    net = case.model.network
    with torch.no_grad():
        h = torch.tanh(net[0](case.inputs[:50])) * gains[0]
        logits = net[4](torch.tanh(net[2](h)) * gains[1])
    return logits.log_softmax(1)[torch.arange(50), case.targets[:50]]


def test_log_likelihood_and_lp_are_the_models(case: Case) -> None:
    # lp = log p(s) + tau N/n sum_i log p(y_i | x_i, s), N = 60, n = 50, tau = 1/2; the flat prior
    # has density Gamma(6) Gamma(5) everywhere. Float64 rounding.
    prior = math.log(math.factorial(5) * math.factorial(4))
    for chain, draw in ((0, 0), (0, 399), (1, 7)):
        expected = by_hand(case, chain, draw)
        found = case.tree["log_likelihood"]["targets"].values[chain, draw]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-12)
        lp = float(case.tree["sample_stats"]["lp"].values[chain, draw])
        assert lp == pytest.approx(prior + 0.5 * 60 / 50 * float(expected.sum()), rel=1e-10)


def test_every_restart_is_scored_with_the_noise_that_it_learned() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    x = torch.randn(30, 4, dtype=torch.float64)
    data = DataLoader(TensorDataset(x, torch.randn(30, 1, dtype=torch.float64)), batch_size=30)
    model = SwitchedNetwork(network, x[:2], num_data=30, likelihood="gaussian")
    fitted = fit(model, "dirichlet", data, epochs=5, restarts=2)
    assert isinstance(model.likelihood, Gaussian)
    scale = model.likelihood.log_scale
    assert [set(part) for part in fitted.learned] == [{"likelihood.log_scale"}] * 2
    assert fitted.learned[1]["likelihood.log_scale"].equal(scale.detach())
    fitted.learned[0]["likelihood.log_scale"] = scale.detach() + 3

    def each(tree: xr.DataTree, group: str, name: str) -> np.ndarray:
        return np.asarray(tree[group][name].values)

    tree = posterior(model, fitted, data, draws=20, images=30, cost_draws=5, cost_images=30)
    apart = []
    for log_scale in [part["likelihood.log_scale"] for part in fitted.learned]:
        with torch.no_grad():
            scale.copy_(log_scale)
        plain = Fit(fitted.guides, fitted.history, 0.0)  # scored with the model's noise
        apart.append(
            posterior(model, plain, data, draws=20, images=30, cost_draws=5, cost_images=30)
        )
    stored = evidence("removal-cost", model, fitted, data)["0"].draws
    assert stored is not None
    for chain in (0, 1):
        for group, name in (("sample_stats", "lp"), ("evidence", "0")):
            own = each(apart[chain], group, name)[chain]
            np.testing.assert_array_equal(each(tree, group, name)[chain], own)
            assert not np.allclose(each(apart[1 - chain], group, name)[chain], own)
    assert stored[:32].mean() < 1e-3 * stored[32:].mean()  # the noise of the first is e^3 as large
    assert fitted.learned[1]["likelihood.log_scale"].equal(scale.detach())  # put back


def test_same_seed_same_tree_and_the_random_state_is_untouched(case: Case) -> None:
    state = torch.get_rng_state()
    again = posterior(case.model, case.fit, case.loader, images=50, cost_images=30)
    assert torch.equal(torch.get_rng_state(), state)
    other = posterior(case.model, case.fit, case.loader, images=50, cost_images=30, seed=1)
    for group in case.tree.children:
        xr.testing.assert_identical(again[group].to_dataset(), case.tree[group].to_dataset())
    assert not np.array_equal(np.array(other["posterior"]["0"]), case.tree["posterior"]["0"].values)


@pytest.mark.parametrize("own_generator", [False, True])
def test_a_shuffling_loader_gives_the_same_images_each_time(
    case: Case, own_generator: bool
) -> None:
    generator = torch.Generator().manual_seed(9) if own_generator else None
    data = TensorDataset(case.inputs, case.targets)
    loader = DataLoader(data, batch_size=20, shuffle=True, generator=generator)
    trees: list[Any] = [
        posterior(case.model, case.fit, loader, draws=4, images=30) for _ in range(2)
    ]
    xr.testing.assert_identical(
        trees[0]["observed_data"].to_dataset(), trees[1]["observed_data"].to_dataset()
    )
    assert trees[0]["observed_data"]["targets"].values.tolist() != case.targets[:30].tolist()
    if generator is not None:
        assert torch.equal(generator.get_state(), torch.Generator().manual_seed(9).get_state())


def test_a_small_data_set_gives_all_its_images(case: Case) -> None:
    tree = posterior(case.model, case.fit, case.loader, draws=4, images=1000)
    assert tree.attrs["lp_images"] == 60


def test_a_guide_without_concentrations_has_no_such_group(case: Case) -> None:
    from pyro.infer.autoguide import AutoNormal

    fitted = fit(case.model, AutoNormal, case.loader)
    tree: Any = posterior(case.model, fitted, case.loader, draws=50, images=10)
    assert "concentration" not in tree.children
    guide = fitted.guides[0]
    # log q of the transformed draw: the normal's density, and the Jacobian of stick breaking.
    from torch.distributions import biject_to, constraints

    total = torch.zeros(50, dtype=torch.float64)
    for site in ("0", "2"):
        s = torch.from_numpy(tree["posterior"][site].values[0].copy())
        z = biject_to(constraints.simplex).inv(s)
        loc = guide.locs.get_parameter(site).detach()
        scale = getattr(guide.scales, site).detach()
        total += torch.distributions.Normal(loc, scale).log_prob(z).sum(-1)
        total -= biject_to(constraints.simplex).log_abs_det_jacobian(z, s)
    np.testing.assert_allclose(tree["sample_stats"]["log_q"].values[0], total.numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", ["draws", "images", "cost_draws", "cost_images"])
def test_too_few_draws_or_images(case: Case, name: str) -> None:
    options: dict[str, Any] = {name: 1}
    with pytest.raises(DirpruneError, match=f"{name}: expected at least 2, got 1"):
        posterior(case.model, case.fit, case.loader, **options)


def test_an_empty_fit_and_an_empty_loader(case: Case) -> None:
    with pytest.raises(DirpruneError, match="holds no guide"):
        posterior(case.model, Fit([], [], 0.0), case.loader)
    with pytest.raises(DirpruneError, match="the loader is empty"):
        posterior(case.model, case.fit, [])


# -- ArviZ -----------------------------------------------------------------------------------------


def test_arviz_summarises_concentrations_draws_and_costs(case: Case) -> None:
    table = az.summary(case.tree, group="concentration", sample_dims="chain", kind="stats",
                       round_to="none")  # fmt: skip
    phi = concentrations(case.tree)["0"].numpy()
    assert len(table) == 11
    np.testing.assert_allclose(table["mean"].to_numpy()[:6], phi.mean(0), rtol=1e-6)
    for group in ("posterior", "evidence"):
        # Site "2" has a unit of constant cost 0, whose R-hat is 0/0.
        table = az.summary(case.tree, group=group, var_names=["0"], round_to="none")
        values = case.tree[group]["0"].values
        np.testing.assert_allclose(table["mean"].to_numpy()[:6], values.mean((0, 1)), rtol=1e-6)
        assert len(table) == 6


def test_arvizs_intervals_and_rhat(case: Case) -> None:
    for group in ("posterior", "evidence"):
        interval = az.hdi(case.tree, group=group, prob=0.9)["0"].values
        values = case.tree[group]["0"].values
        inside = (values >= interval[:, 0]) & (values <= interval[:, 1])
        draws = values.shape[0] * values.shape[1]
        # an HDI holds its share of the draws, to one draw at either end
        assert np.abs(inside.mean((0, 1)) - 0.9).max() <= 2 / draws + 1e-9
    # The two restarts found the same posterior: chains of independent draws agree.
    rhat = az.rhat(case.tree)["0"].values
    assert rhat.shape == (6,)
    assert (rhat > 0.99).all()
    # and where one chain is moved by three of its standard deviations, they do not
    moved = case.tree.copy(deep=True)
    moved["posterior"]["0"].values[1] += 3 * moved["posterior"]["0"].values[1].std(0)
    assert (az.rhat(moved)["0"].values > 1.3).all()


@pytest.mark.parametrize("plot", ["plot_forest", "plot_rank"])
@pytest.mark.parametrize("group", ["posterior", "evidence"])
def test_arvizs_plots(case: Case, plot: str, group: str, tmp_path: Path) -> None:
    found = getattr(az, plot)(case.tree, group=group, var_names=["0"], backend="matplotlib")
    found.savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5000  # an empty canvas is far smaller
    mpl.pyplot.close("all")


# -- files -----------------------------------------------------------------------------------------


def test_netcdf_keeps_every_bit(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "posterior.nc"
    save_tree(case.tree, path)
    assert [p.name for p in tmp_path.iterdir()] == ["posterior.nc"]
    loaded = load_tree(path)
    assert set(loaded.children) == set(case.tree.children)
    for group in case.tree.children:
        xr.testing.assert_identical(loaded[group].to_dataset(), case.tree[group].to_dataset())
    assert loaded.attrs == case.tree.attrs
    assert cost_table(loaded).to_dict() == case.model.costs.to_dict()
    stored = evidence_draws(loaded, "removal-cost")
    assert stored is not None
    assert torch.equal(
        stored["2"], torch.from_numpy(case.tree["evidence"]["2"].values.reshape(-1, 5).copy())
    )
    assert evidence_draws(loaded, "fisher") is None
    path.unlink()  # the file is not held open, and what was read lives on
    assert loaded["posterior"]["0"].shape == (2, 400, 6)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DirpruneError, match=r"none\.nc: no such file"):
        load_tree(tmp_path / "none.nc")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file(case: Case, tmp_path: Path, share: float) -> None:
    path = tmp_path / "posterior.nc"
    save_tree(case.tree, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DirpruneError, match=r"posterior\.nc is not a NetCDF file, or is damaged"):
        load_tree(path)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "text.nc").write_text("chain,draw\n" * 100)
    with pytest.raises(DirpruneError, match="is not a NetCDF file"):
        load_tree(tmp_path / "text.nc")
    with pytest.raises(DirpruneError):
        load_tree(tmp_path)  # a folder
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "plain.nc", "w") as file:
        file["numbers"] = np.arange(3)
    with pytest.raises(DirpruneError):
        site_sizes(load_tree(tmp_path / "plain.nc"))


def test_a_tree_that_is_not_ours(tmp_path: Path) -> None:
    other = az.from_dict({"posterior": {"mu": np.random.default_rng(0).normal(size=(4, 10, 3))}})
    other.to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    loaded = load_tree(tmp_path / "other.nc")
    with pytest.raises(DirpruneError, match=r"posterior of 'mu' has the dimensions .*dirprune"):
        site_sizes(loaded)
    for read, group in ((cost_table, "cost_table"), (concentrations, "concentration")):
        with pytest.raises(DirpruneError, match=f"has no group '{group}'.*dirprune.posterior"):
            read(loaded)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"sites": {}}', "null"])
def test_a_damaged_cost_table(case: Case, text: str) -> None:
    tree = case.tree.copy()
    tree["cost_table"] = xr.DataTree(xr.Dataset({"json": text}))
    with pytest.raises(DirpruneError, match="cost table is damaged"):
        cost_table(tree)
    tree["cost_table"] = xr.DataTree(xr.Dataset({"other": 1}))
    with pytest.raises(DirpruneError, match="cost table is damaged"):
        cost_table(tree)
