"""Convergence of SVI, against series whose drift is known."""

from __future__ import annotations

import numpy as np
import pytest

from dirprune.analysis.diagnostics import svi_convergence
from dirprune.model.errors import DirpruneError


def test_convergence_of_noise_around_a_level():
    rng = np.random.default_rng(0)
    found = svi_convergence({"svi": [(100 + rng.normal(size=400)).tolist() for _ in range(3)]})
    assert found["good"]
    assert all(abs(f["z"]) < 3 and f["rhat"] < 1.1 for f in found["value"]["restarts"])


def test_convergence_of_a_falling_loss():
    rng = np.random.default_rng(0)
    found = svi_convergence({"svi": [(1000 - np.arange(400) + rng.normal(size=400)).tolist()]})
    assert not found["good"]
    assert found["value"]["restarts"][0]["drift"] == pytest.approx(100, abs=1)
    assert "still improving" in found["text"]


def test_a_rising_loss_has_not_come_to_rest():
    rng = np.random.default_rng(0)
    found = svi_convergence({"svi": [(1000 + np.arange(400) + rng.normal(size=400)).tolist()]})
    assert not found["good"]
    assert "getting worse" in found["text"]
    assert "A smaller lr" in found["text"]


def test_autocorrelated_noise_is_no_drift():
    """With independent errors assumed, z of an AR(1) series is sqrt((1 + r) / (1 - r)) too wide."""
    rng = np.random.default_rng(1)
    z = []
    for _ in range(30):
        x = np.zeros(2000)
        for t in range(1, 2000):
            x[t] = 0.9 * x[t - 1] + rng.normal()
        z.append(svi_convergence({"svi": [x]})["value"]["restarts"][0]["z"])
    assert 0.6 < np.std(z) < 1.8  # 4.4 without the effective number


def test_constant_loss_has_come_to_rest():
    assert svi_convergence({"svi": [[5.0] * 100]})["good"]


def test_convergence_needs_steps():
    with pytest.raises(DirpruneError, match="got 3"):
        svi_convergence({"svi": [[3.0, 2.0, 1.0]]})


def test_a_restart_that_still_falls_is_not_hidden_by_one_with_a_larger_z():
    rng = np.random.default_rng(0)
    last = np.arange(8000) >= 6000
    rest = 1000 + rng.normal(size=8000) - 0.3 * last  # z about 9.5, yet 0.03 % of the loss
    falls = 1000 + 100 * rng.normal(size=8000) - 20 * last  # z about 6, and 2 % of the loss
    found = svi_convergence({"svi": [rest, falls]})
    first, second = found["value"]["restarts"]
    assert abs(first["z"]) > abs(second["z"]) > 2
    assert not found["good"]
    assert "still improving" in found["text"]
    assert svi_convergence({"svi": [rest]})["good"]
