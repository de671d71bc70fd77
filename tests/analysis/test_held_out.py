"""Predictions on held-out images, against the network written out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.diagnostics import elpd, reliability
from dirprune.analysis.evidence.switches import draw_switches
from dirprune.analysis.held_out import held_out
from dirprune.analysis.tree import load_tree, save_tree
from dirprune.inference.fit import Fit, fit
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

Case = Any  # of conftest.py


def by_hand(case: Case, switches: dict[str, torch.Tensor]) -> torch.Tensor:
    """log p(class | x_i, s) of all 60 examples, through the network's layers written out."""
    net = case.model.network
    with torch.no_grad():
        h = torch.tanh(net[0](case.inputs)) * 6 * switches["0"]
        logits = net[4](torch.tanh(net[2](h)) * 5 * switches["2"])
    return logits.log_softmax(1)


def test_likelihoods_and_probabilities_are_the_models(case: Case) -> None:
    found = held_out(case.model, case.fit, case.loader, draws=7, images=500, seed=3)
    assert dict(found.sizes) == {"chain": 2, "draw": 7, "image": 60, "class": 3}
    switches = draw_switches(case.model, case.fit, 7, 3).switches
    flat = {name: s.flatten(0, 1) for name, s in switches.items()}
    each = torch.stack([by_hand(case, {n: s[i] for n, s in flat.items()}) for i in range(14)])
    each = each.unflatten(0, (2, 7))
    expected = each[..., torch.arange(60), case.targets]
    # Float64 rounding; the likelihood is untempered although the model's temperature is 1/2.
    np.testing.assert_allclose(found["log_likelihood"].values, expected.numpy(), rtol=1e-9)
    np.testing.assert_allclose(
        found["probabilities"].values, each.exp().mean((0, 1)).numpy(), rtol=1e-9
    )
    with torch.no_grad():
        own = case.model.network(case.inputs).softmax(1)
    np.testing.assert_allclose(found["network_probabilities"].values, own.numpy(), rtol=1e-9)
    assert found["targets"].values.tolist() == case.targets.tolist()


def test_simplex_scaling_shows_the_network_at_gains_of_one(case: Case) -> None:
    model = SwitchedNetwork(case.model.network, case.inputs[:2], num_data=60, scaling="simplex")
    found = held_out(model, fit(model, "dirichlet", case.loader), case.loader, draws=2)
    with torch.no_grad():
        own = case.model.network(case.inputs).softmax(1)
    np.testing.assert_allclose(found["network_probabilities"].values, own.numpy(), rtol=1e-9)


def test_it_goes_to_a_file_and_back_and_the_diagnostics_read_it(case: Case, tmp_path: Any) -> None:
    tree = case.tree.copy()
    found = held_out(case.model, case.fit, case.loader, draws=7)
    tree["validation"] = xr.DataTree(found)
    save_tree(tree, tmp_path / "posterior.nc")
    loaded = load_tree(tmp_path / "posterior.nc")
    xr.testing.assert_identical(loaded["validation"].to_dataset(), found)
    predicted = np.exp(found["log_likelihood"].values).mean((0, 1))
    value = elpd(loaded)["value"]
    assert value["elpd"] == pytest.approx(np.log(predicted).mean(), rel=1e-9)
    p = found["network_probabilities"].values[np.arange(60), case.targets]
    assert value["network"] == pytest.approx(np.log(p).mean(), rel=1e-9)
    assert reliability(loaded)["value"]["images"] == 60


def test_a_gaussian_likelihood_has_no_classes_and_its_own_noise_in_each_restart() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    x, y = torch.randn(30, 4).double(), torch.randn(30, 2).double()
    data = DataLoader(TensorDataset(x, y), batch_size=30)
    model = SwitchedNetwork(network, x[:2], num_data=30, likelihood="gaussian")
    fitted = fit(model, "dirichlet", data, epochs=2, restarts=2)
    fitted.learned[0]["likelihood.log_scale"] += 3
    found = held_out(model, fitted, data, draws=5, images=20)
    assert set(found.data_vars) == {"log_likelihood", "targets"}
    assert found["targets"].dims == ("image", "target")
    # e^3 as much noise costs about 3 nats for each of two outputs.
    low, high = found["log_likelihood"].mean(("draw", "image")).values
    assert low < high - 3


def test_draws_of_nuts_serve_as_well(case: Case) -> None:
    switches = draw_switches(case.model, case.fit, 10, 0).switches
    chains = [{name: s[c] for name, s in switches.items()} for c in range(2)]
    sampled = Fit([], [], 0.0, {"guide": "NUTS"}, draws=chains, stats=[{}, {}])
    found = held_out(case.model, sampled, case.loader, draws=10, images=30)
    again = held_out(case.model, case.fit, case.loader, draws=10, images=30)
    np.testing.assert_array_equal(found["log_likelihood"], again["log_likelihood"])


def test_same_seed_same_result_and_the_random_state_is_untouched(case: Case) -> None:
    state = torch.get_rng_state()
    first, second = (held_out(case.model, case.fit, case.loader, draws=3) for _ in range(2))
    assert first.identical(second)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["draws", "images"])
def test_nothing_asked_for(case: Case, name: str) -> None:
    options: dict[str, Any] = {name: 0}
    with pytest.raises(DirpruneError, match=f"{name}: expected at least 1, got 0"):
        held_out(case.model, case.fit, case.loader, **options)
    with pytest.raises(DirpruneError, match="the loader is empty"):
        held_out(case.model, case.fit, [])
