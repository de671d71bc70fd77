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
    assert found["good"] is False
    assert found["value"]["restarts"][0]["drift"] == pytest.approx(-100, abs=1)
    assert found["value"]["restarts"][0]["z"] < -2
    assert "still improving" in found["text"]
    assert "changed by -99.9 nats" in found["text"]  # the sign of the value


def test_a_rising_loss_has_not_come_to_rest():
    rng = np.random.default_rng(0)
    found = svi_convergence({"svi": [(1000 + np.arange(400) + rng.normal(size=400)).tolist()]})
    assert found["good"] is False
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
    assert (first["at_rest"], second["at_rest"], found["good"]) == (True, False, False)
    assert "still improving" in found["text"]
    assert svi_convergence({"svi": [rest]})["good"]


def test_noise_that_hides_a_drift_is_no_rest():
    """200 steps of 1,000 +- 400 nats, falling by 80 from quarter to quarter: z is about 1."""
    rng = np.random.default_rng(3)
    losses = 1000 + 400 * rng.normal(size=200) - 80 * (np.arange(200) // 50)
    found = svi_convergence({"svi": [losses]})
    (only,) = found["value"]["restarts"]
    assert abs(only["z"]) < 2
    assert found["good"] is None
    assert only["at_rest"] is None
    assert found["text"].startswith("Cannot be told whether SVI came to rest")
    assert "more epochs would tell" in found["text"]


def test_much_noise_passes_in_few_cases_whatever_the_drift():
    """At a drift of exactly the margin, 10 of 1,000 nats, an equivalence test with 95 % intervals
    passes in 2.5 % of cases: of 200, 5 with sd 2.2."""
    rng = np.random.default_rng(4)
    falls = 10.0 * (np.arange(800) < 600)
    good = [svi_convergence({"svi": [990 + falls + 40 * rng.normal(size=800)]})["good"]
            for _ in range(200)]  # fmt: skip
    assert sum(g is True for g in good) <= 12  # 3 sd


def test_a_few_nats_are_judged_by_their_size_and_not_by_their_share():
    """A loss near 0, noise of 1 nat: 1 % of it would be nothing."""
    rng = np.random.default_rng(5)
    assert svi_convergence({"svi": [rng.normal(size=400)]})["good"] is True
    shift = -5.0 * (np.arange(400) >= 300)
    assert svi_convergence({"svi": [shift + rng.normal(size=400)]})["good"] is False


def test_quarters_that_do_not_mix_are_not_at_rest():
    """Equal means within 1 %, and yet not the same: four times the spread."""
    rng = np.random.default_rng(6)
    width = np.where(np.arange(4000) >= 3000, 80.0, 5.0)
    found = svi_convergence({"svi": [1000 + width * rng.normal(size=4000)]})
    (only,) = found["value"]["restarts"]
    assert abs(only["drift"]) + 2 * only["se"] < 10
    assert only["rhat"] > 1.1
    assert found["good"] is None


def test_a_loss_without_noise_that_hardly_falls_is_at_rest():
    losses = 1000 + 0.5 * np.exp(-np.arange(400) / 200)  # its ranks never mix
    found = svi_convergence({"svi": [losses]})
    assert found["value"]["restarts"][0]["rhat"] > 1.1
    assert found["good"] is True


def test_the_worst_restart_is_reported():
    rng = np.random.default_rng(0)
    rest = 1000 + rng.normal(size=400)
    noisy = 1000 + 300 * rng.normal(size=400)
    falls = 1000 - 2 * np.arange(400) + rng.normal(size=400)
    assert svi_convergence({"svi": [rest, noisy]})["good"] is None
    assert svi_convergence({"svi": [noisy, rest, falls]})["good"] is False
