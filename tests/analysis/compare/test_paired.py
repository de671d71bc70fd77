"""The standard error of a paired difference, against what it estimates."""

from __future__ import annotations

import math
from collections.abc import Callable

import arviz as az
import numpy as np
import pytest
import xarray as xr

from dirprune.analysis.compare import elpd_data, paired_difference, pointwise_elpd
from dirprune.model.errors import DirpruneError


def test_one_network_is_the_usual_paired_error() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=50), rng.normal(size=50)
    mean, se = paired_difference([a], [b])
    assert mean == pytest.approx((a - b).mean())
    assert se == pytest.approx((a - b).std(ddof=1) / math.sqrt(50))


def test_two_networks_by_hand() -> None:
    # Differences 1, 3 and 5, 7: means 2 and 6, image part (2/2 + 2/2) / 4 = 0.5, network part
    # var(2, 6) / 2 = 4.
    mean, se = paired_difference([np.array([1.0, 3.0]), np.array([5.0, 7.0])], [np.zeros(2)] * 2)
    assert (mean, se) == (4.0, 2.0)
    # The same images: image means 3 and 5, variance 2 / 2 = 1; no interaction: 4 + 1 - 0.
    mean, se = paired_difference(
        [np.array([1.0, 3.0]), np.array([5.0, 7.0])], [np.zeros(2)] * 2, same_images=True
    )
    assert mean == 4
    assert se == pytest.approx(math.sqrt(5))


def test_what_both_share_cancels() -> None:
    rng = np.random.default_rng(0)
    hard = [100 * rng.normal(size=30) for _ in range(3)]
    gain = [0.01 * rng.normal(size=30) for _ in range(3)]
    _, se = paired_difference([h + g for h, g in zip(hard, gain, strict=True)], hard)
    assert se < 0.01


Draw = Callable[[np.random.Generator], list[np.ndarray]]


def nested(rng: np.random.Generator) -> list[np.ndarray]:
    return [0.3 * rng.normal() + rng.normal(size=40) for _ in range(5)]


def no_network_effect(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.normal(size=40) for _ in range(5)]


def crossed(rng: np.random.Generator) -> list[np.ndarray]:
    image = rng.normal(size=40)
    return [0.3 * rng.normal() + image + 0.5 * rng.normal(size=40) for _ in range(5)]


@pytest.mark.parametrize(
    ("draw", "same", "low", "high"),
    [
        # se^2 over the variance of the means that it estimates: 1, within the noise of 2,000
        # repetitions (4 %). Without a network effect the larger of two estimates is taken, which
        # is more than either, by some 25 % at 5 networks.
        (nested, False, 0.9, 1.15),
        (no_network_effect, False, 1.0, 1.4),
        (crossed, True, 0.9, 1.15),
    ],
    ids=["nested", "no network effect", "crossed"],
)
def test_error_is_that_of_repetitions(draw: Draw, same: bool, low: float, high: float) -> None:
    rng = np.random.default_rng(1)
    zero = [np.zeros(40)] * 5
    found = np.array([paired_difference(draw(rng), zero, same_images=same) for _ in range(2000)])
    assert low < (found[:, 1] ** 2).mean() / found[:, 0].var() < high


def test_scores_that_do_not_pair_are_refused() -> None:
    for other in ([np.zeros(4)], [np.zeros(3), np.zeros(3)]):
        with pytest.raises(DirpruneError, match="expected the same images"):
            paired_difference([np.zeros(3)], other)
    with pytest.raises(DirpruneError, match="two at least"):
        paired_difference([np.zeros(1)], [np.zeros(1)])


def tree_of(log_likelihood: np.ndarray) -> xr.DataTree:
    values = xr.Dataset({"log_likelihood": (("chain", "draw", "image"), log_likelihood)})
    return xr.DataTree.from_dict({"validation": values})


def test_pointwise_elpd_is_the_log_of_the_mean_probability() -> None:
    p = np.random.default_rng(0).uniform(0.1, 1, size=(2, 5, 3))
    found = pointwise_elpd(tree_of(np.log(p)))
    assert np.allclose(found, np.log(p.mean((0, 1))))
    with pytest.raises(DirpruneError, match="validation"):
        pointwise_elpd(xr.DataTree())


def test_arviz_compares_what_we_hand_it_as_we_do() -> None:
    rng = np.random.default_rng(0)
    trees = [tree_of(np.log(rng.uniform(0.2 * i, 1, size=(1, 9, 200)))) for i in (1, 2)]
    table = az.compare({"a": elpd_data(trees[0]), "b": elpd_data(trees[1])}, round_to="none")
    first, second = (pointwise_elpd(tree) for tree in trees)
    mean, se = paired_difference([first], [second])
    assert list(table.index) == ["b", "a"]
    assert table.loc["a", "elpd_diff"] == pytest.approx(200 * mean)
    # ArviZ divides by n where we divide by n - 1.
    assert table.loc["a", "dse"] == pytest.approx(200 * se * math.sqrt(199 / 200))
