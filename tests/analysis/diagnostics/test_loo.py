"""Leave-one-out, against the closed form of the Dirichlet-multinomial model."""

from __future__ import annotations

import numpy as np
import pytest

from dirprune.analysis.diagnostics import loo
from dirprune.model.errors import DirpruneError

PRIOR, COUNTS = np.full(4, 1.5), np.array([9, 5, 3, 1])


def exact():
    """sum_i log p(y_i | y_-i), p(y_i = k | y_-i) = (a_k + n_k - 1) / (A + N - 1)."""
    p = (PRIOR + COUNTS - 1) / (PRIOR.sum() + COUNTS.sum() - 1)
    return float(COUNTS @ np.log(p) / COUNTS.sum())


@pytest.mark.parametrize(
    "factor", [[1.0, 1.0, 1.0, 1.0], [1.2, 0.8, 1.2, 0.8]], ids=["exact", "20 % off"]
)
def test_the_guide_is_corrected_for(conjugate, factor):
    tree = conjugate(PRIOR, COUNTS, (PRIOR + COUNTS) * factor, draws=10_000)
    found = loo(tree)
    # Monte Carlo error of the mean of 18 terms, each of about 0.4 / sqrt(20,000) = 0.003.
    assert found["value"]["elpd"] == pytest.approx(exact(), abs=0.01)
    assert found["good"]
    assert found["value"]["bad_k"] == 0
    assert found["text"].startswith("In-sample")


def test_without_the_correction_the_wrong_guide_is_seen(conjugate):
    """The test above can fail: p/q left out, LOO is off by more than its tolerance."""
    tree = conjugate(PRIOR, COUNTS, (PRIOR + COUNTS) * [1.5, 0.5, 1.5, 0.5], draws=10_000)
    right = loo(tree)["value"]["elpd"]
    stats = tree["sample_stats"]
    stats["lp"] = stats["log_q"]
    assert abs(loo(tree)["value"]["elpd"] - exact()) > 0.02
    assert right == pytest.approx(exact(), abs=0.02)


def test_nuts_draws_need_no_correction(conjugate):
    tree = conjugate(PRIOR, COUNTS, draws=10_000)
    tree["sample_stats"] = tree["sample_stats"].to_dataset().drop_vars("log_q")
    assert loo(tree)["value"]["elpd"] == pytest.approx(exact(), abs=0.01)


def test_only_at_temperature_1(conjugate, point_tree):
    with pytest.raises(DirpruneError, match=r"needs temperature 1, and this posterior has 0\.25"):
        loo(conjugate(PRIOR, COUNTS, temperature=0.25, draws=100))
    with pytest.raises(DirpruneError, match="point mass"):
        loo(point_tree)


def test_a_bad_tail_is_said_and_nothing_warns(conjugate):
    tree = conjugate(PRIOR, COUNTS, draws=200)
    rng = np.random.default_rng(0)
    lp = tree["sample_stats"]["log_q"].values + 2 * rng.exponential(size=(2, 200))  # k-hat 2
    tree["sample_stats"]["lp"].values[:] = lp
    tree.attrs["num_data"] = 1000
    found = loo(tree)
    assert found["good"] is False
    assert "not reliable" in found["text"]
    assert "stands for 1,000 images by 18" in found["text"]


def test_equal_likelihoods_in_float32_have_a_tail_all_the_same(conjugate):
    """Images that every draw is certain of: log p = 0, as a confident network gives."""
    tree = conjugate(PRIOR, COUNTS, draws=10_000)
    certain = tree["log_likelihood"]["targets"].copy(deep=True)
    certain.values[..., :9] = 0.0
    tree["log_likelihood"] = certain.to_dataset(name="targets")
    tree["sample_stats"] = tree["sample_stats"].to_dataset().drop_vars("log_q")
    found = loo(tree)
    # log p = 0 of nine images, and the closed form of the others
    p = (PRIOR + COUNTS - 1) / (PRIOR.sum() + COUNTS.sum() - 1)
    assert found["value"]["elpd"] == pytest.approx(float(COUNTS[1:] @ np.log(p[1:])) / 18, abs=0.01)
    assert found["good"]
