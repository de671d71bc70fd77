"""Reliability of predicted probabilities, on simulated outcomes of known calibration."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.special import softmax
from scipy.stats import binom
from sklearn.calibration import calibration_curve

from dirprune.analysis.diagnostics import reliability
from dirprune.analysis.diagnostics.reliability import calibration
from dirprune.model.errors import DirpruneError


def simulate(number, power=1.0, seed=0):
    """Targets drawn from softmax(z), predictions softmax(power z)."""
    rng = np.random.default_rng(seed)
    z = 1.5 * rng.normal(size=(number, 4))
    p = softmax(z, axis=1)
    targets = (p.cumsum(1) < rng.random((number, 1))).sum(1)
    return softmax(power * z, axis=1), targets


def tree_of(p, targets, **more):
    data = {"targets": ("image", targets), "probabilities": (("image", "class"), p)}
    data |= {name: (("image", "class"), value) for name, value in more.items()}
    return xr.DataTree.from_dict({"validation": xr.Dataset(data)})


def test_calibrated_predictions_pass_19_times_in_20():
    runs = 150
    p = np.array([calibration(*simulate(200, seed=seed)).p for seed in range(runs)])
    for level in (0.05, 0.5):  # 99.9 % of a binomial
        low, high = binom.ppf((0.0005, 0.9995), runs, level)
        assert low <= (p < level).sum() <= high


@pytest.mark.parametrize(("power", "verdict"), [(2.0, "over-confident"), (0.5, "under-confident")])
def test_over_and_under_confidence_are_told(power, verdict):
    found = reliability(tree_of(*simulate(500, power)))
    assert found["good"] is False
    assert found["value"]["p"] < 0.01
    assert verdict in found["text"]


def test_both_figures_of_the_text_have_their_unit():
    p = np.repeat([[0.8, 0.2]], 40, axis=0)
    text = reliability(tree_of(p, (np.arange(40) % 4 == 0).astype(int)))["text"]
    assert "mean confidence 80.0 %, accuracy 75.0 %" in text


def test_errors_in_both_directions_are_told():
    """The confident half is less accurate than it says, the other half more."""
    p = np.repeat([[0.7, 0.3], [0.9, 0.1]], 400, axis=0)
    right = np.concatenate([np.arange(400) % 10 < 9, np.arange(400) % 10 < 7])
    found = calibration(p, np.where(right, 0, 1))
    assert found.ece == pytest.approx(0.2)
    assert found.mean_confidence == pytest.approx(found.mean_accuracy)
    assert found.verdict == "off in both directions"


def test_the_error_by_hand_and_the_bins_against_scikit_learn():
    p, targets = simulate(1000)
    found = calibration(p, targets)
    confidence, right = p.max(1), p.argmax(1) == targets
    accuracy, mean = calibration_curve(right, confidence, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found.accuracy, accuracy)
    np.testing.assert_allclose(found.confidence, mean)
    assert found.ece == pytest.approx(np.abs(accuracy - mean).mean())
    assert found.mean_accuracy == pytest.approx(right.mean())


def test_certain_and_right_is_calibrated():
    found = calibration(np.eye(3)[np.arange(60) % 3], np.arange(60) % 3)
    assert found.ece == 0
    assert found.p == 1
    assert found.verdict == "reliable"


def test_a_few_images_are_no_proof():
    p, targets = simulate(30)
    assert "as far as 30 validation images can tell" in reliability(tree_of(p, targets))["text"]


def test_the_network_stands_beside_the_posterior():
    p, targets = simulate(500)
    found = reliability(tree_of(p, targets, network_probabilities=simulate(500, 2.0)[0]))
    assert found["good"]
    assert found["value"]["network"]["p"] < 0.01
    assert "The trained network itself is over-confident" in found["text"]


def test_what_cannot_be_computed_is_said():
    p, targets = simulate(19)
    with pytest.raises(DirpruneError, match="at least 20 validation images, got 19"):
        reliability(tree_of(p, targets))
    with pytest.raises(DirpruneError, match="not categorical"):
        reliability(
            xr.DataTree.from_dict({"validation": xr.Dataset({"targets": ("image", [0.5])})})
        )
    with pytest.raises(DirpruneError, match="no images were held out"):
        reliability(xr.DataTree())
