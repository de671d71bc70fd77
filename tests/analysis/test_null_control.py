"""The null control: its statistic by enumeration, and a leak that it must find."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.diagnostics.elpd import chance
from dirprune.analysis.null_control import (
    Relabelled,
    judge,
    null_control,
    permutation_z,
    permuted_labels,
)
from dirprune.analysis.posterior import posterior
from dirprune.inference.fit import fit
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

OPTIONS: dict[str, Any] = {"epochs": 80, "particles": 2}


def loader_of(inputs: torch.Tensor, targets: torch.Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(inputs, targets), batch_size=20, shuffle=True)


@pytest.fixture(scope="module")
def memoriser() -> Any:
    """A random network of 300 units and a likelihood of the power 10: its switches can learn the
    labels of 80 images nearly by heart."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(30, 300), nn.Tanh(), nn.Linear(300, 3))
        with torch.no_grad():
            network[0].weight *= 2
            network[2].weight *= 3
        train, validation = torch.randn(40, 30), torch.randn(40, 30)
        y = torch.arange(40) % 3
    model = SwitchedNetwork(network, train[:2], num_data=80, temperature=10.0)
    return model, loader_of(train, y), loader_of(validation, y)


def test_no_signal_without_a_leak(memoriser: Any) -> None:
    model, train, validation = memoriser
    found = null_control(model, "dirichlet", train, validation, **OPTIONS)
    assert found["good"] is True
    assert found["value"]["images"] == 40
    assert found["value"]["chance"] == pytest.approx(-math.log(3), abs=0.03)
    assert "no signal, as it should be" in found["text"]


def test_validation_images_in_the_training_set_are_found(memoriser: Any) -> None:
    """The leak: the fit sees the validation images with the labels they are judged by."""
    model, train, validation = memoriser
    both = map(torch.cat, zip(train.dataset.tensors, validation.dataset.tensors, strict=True))
    found = null_control(model, "dirichlet", loader_of(*both), validation, **OPTIONS)
    assert found["good"] is False
    assert found["value"]["z"] > 3
    assert found["value"]["elpd"] > found["value"]["chance"] + 2 * found["value"]["se"]
    assert "Labels of validation images reach the fit" in found["text"]


def test_the_ranking_is_compared_and_the_model_is_left_alone(memoriser: Any) -> None:
    model, train, validation = memoriser
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    fitted = fit(model, "dirichlet", train, epochs=5)
    tree = posterior(model, fitted, train, draws=30)
    found = null_control(model, "dirichlet", train, validation, tree=tree, epochs=5, draws=10)
    assert set(found["value"]["tau"]) == {"0"}
    assert -1 <= found["value"]["tau"]["0"] <= 1
    assert "needs no labels" in found["text"]
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_the_same_labels_give_the_same_ranking(memoriser: Any) -> None:
    """One class only: permuting changes nothing, and the costs are those of the real labels."""
    model, train, validation = memoriser
    loaders = [loader_of(d.dataset.tensors[0], torch.zeros(40).long()) for d in (train, validation)]
    tree = posterior(model, fit(model, "dirichlet", loaders[0], epochs=30), loaders[0], draws=40)
    found = null_control(model, "dirichlet", *loaders, tree=tree, epochs=30, draws=10)
    assert found["value"]["tau"]["0"] > 0.8  # two fits, 32 draws each
    assert found["value"]["z"] == 0


def test_a_resumed_control_is_that_of_an_undisturbed_one(memoriser: Any, tmp_path: Any) -> None:
    model, train, validation = memoriser
    first = null_control(model, "dirichlet", train, validation, epochs=4, draws=5)
    options = {"epochs": 4, "draws": 5, "checkpoint": tmp_path / "null", "resume": True}
    second = null_control(model, "dirichlet", train, validation, **options)
    assert (tmp_path / "null.0").exists()
    assert first == second == null_control(model, "dirichlet", train, validation, **options)


def test_targets_that_are_no_classes_are_left_alone() -> None:
    x, y = torch.randn(20, 4), torch.randn(20, 1)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))
    model = SwitchedNetwork(network, x[:2], num_data=20, likelihood="gaussian")
    found = null_control(model, "dirichlet", loader_of(x, y), loader_of(x, y), epochs=1)
    assert found["value"] is None
    assert found["good"] is None
    assert "Not computed: the null control is for classification" in found["text"]


# -- labels ----------------------------------------------------------------------------------------


def test_labels_are_permuted_once_and_stay_with_their_images() -> None:
    x, y = torch.randn(60, 4), torch.arange(60) % 5
    train, validation = loader_of(x[:40], y[:40]), loader_of(x[30:], y[30:])  # ten in both
    labels = permuted_labels([train, validation], 0)
    seen: dict[tuple[float, ...], int] = {}
    for loader in (train, train, validation):
        wrapped = Relabelled(loader, labels)
        assert len(wrapped) == 2
        for inputs, targets in wrapped:
            for image, label in zip(inputs.tolist(), targets.tolist(), strict=True):
                assert seen.setdefault(tuple(image), label) == label
    assert len(seen) == 60
    assert Counter(seen.values()) == Counter(y.tolist())
    changed = sum(seen[tuple(image.tolist())] != int(c) for image, c in zip(x, y, strict=True))
    assert changed >= 30  # four of five, in the mean: 48, sd 3.1
    assert permuted_labels([validation, train], 0) == labels  # whatever the order of the batches
    assert permuted_labels([train, validation], 1) != labels


def test_other_images_in_a_second_pass_are_refused() -> None:
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    labels = permuted_labels([loader_of(x, y)], 0)
    with pytest.raises(DirpruneError, match="without augmentation"):
        list(Relabelled(loader_of(x + 0.1, y), labels))


def test_inputs_may_be_a_tree_of_tensors() -> None:
    x, y = torch.randn(6, 4), torch.arange(6)
    batch = ({"image": x, "mask": x > 0}, y)
    ((_, targets),) = Relabelled([batch], permuted_labels([[batch]], 0))
    assert sorted(targets.tolist()) == list(range(6))


# -- the verdict -----------------------------------------------------------------------------------


def enumerate_fits(a: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """sum_i a[i, y_pi(i)] of all permutations pi."""
    rows = np.arange(len(targets))
    return np.array([a[rows, list(p)].sum() for p in itertools.permutations(targets)])


def test_z_against_all_permutations() -> None:
    rng = np.random.default_rng(0)
    targets = np.array([0, 0, 1, 2, 2, 2])
    a = np.log(rng.dirichlet(np.ones(4), size=6))  # class 3 does not occur
    every = enumerate_fits(a, targets)
    z = (a[np.arange(6), targets].sum() - every.mean()) / every.std()
    assert permutation_z(a, targets) == pytest.approx(z, rel=1e-9)


def test_no_prediction_beats_chance_in_the_mean_over_permutations() -> None:
    rng = np.random.default_rng(1)
    targets = np.array([0, 0, 0, 1, 1, 2])
    for p in rng.dirichlet(np.ones(3), size=(20, 6)):
        assert enumerate_fits(np.log(p), targets).mean() / 6 <= chance(targets)
    blind = np.tile(np.array([3, 2, 1]) / 6, (6, 1))
    assert enumerate_fits(np.log(blind), targets).mean() / 6 == pytest.approx(chance(targets))


def predictions(p: np.ndarray, targets: np.ndarray) -> xr.Dataset:
    log_likelihood = np.log(p[np.arange(len(targets)), targets])[None, None]
    return xr.Dataset(
        {
            "log_likelihood": (("chain", "draw", "image"), log_likelihood),
            "probabilities": (("image", "class"), p),
            "targets": ("image", targets),
        }
    )


def test_predictions_that_know_nothing_pass_997_times_in_1000() -> None:
    rng, bad = np.random.default_rng(2), 0
    for _ in range(500):
        p = rng.dirichlet(np.ones(4), size=80)
        bad += judge(predictions(p, rng.integers(0, 4, 80)), {})["good"] is False
    assert bad <= 5  # z > 3 by chance in 0.13 % of cases, 0.7 of 500


def test_what_knows_a_little_fails_though_it_is_worse_than_chance() -> None:
    """Confident and mostly wrong, yet better on the true labels than on others."""
    rng = np.random.default_rng(3)
    targets = rng.integers(0, 4, 300)
    said = np.where(rng.random(300) < 0.5, targets, rng.integers(0, 4, 300))
    p = np.full((300, 4), 1e-4)
    p[np.arange(300), said] = 1 - 3e-4
    found = judge(predictions(p, targets), {})
    assert found["value"]["elpd"] < found["value"]["chance"]
    assert found["good"] is False


def test_a_few_images_cannot_tell_signal_from_none() -> None:
    rng = np.random.default_rng(4)
    targets = rng.integers(0, 4, 19)
    found = judge(predictions(rng.dirichlet(np.ones(4), size=19), targets), {})
    assert (found["value"], found["good"]) == (None, None)
    assert "at least 20 validation images, got 19" in found["text"]


def test_equal_predictions_of_balanced_classes_are_chance() -> None:
    found = judge(predictions(np.full((40, 4), 0.25), np.arange(40) % 4), {"a": None})
    assert found["good"] is True
    assert found["value"]["z"] == 0
    assert "Kendall" not in found["text"]
    found = judge(predictions(np.full((40, 4), 0.25), np.arange(40) % 4), {"a": None, "b": 0.5})
    assert "the real one is 0.50 (b): near 1 the ranking needs no labels" in found["text"]
    found = judge(predictions(np.full((40, 4), 0.25), np.arange(40) % 4), {"a": -0.19, "b": 0.5})
    assert "is -0.19 (a) to 0.50 (b): near 1" in found["text"]
