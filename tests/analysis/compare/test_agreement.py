"""Agreement of removal orders against cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from dirprune.analysis.compare import UnitScores, kept_agreement, mean_agreement, rank_agreement
from dirprune.model.errors import DirpruneError


def scores(**sites: list[float]) -> dict[str, np.ndarray]:
    return {site: np.array(values) for site, values in sites.items()}


def test_tau_is_weighted_by_the_pairs_of_a_site() -> None:
    a = scores(one=[4.0, 3.0, 2.0, 1.0], two=[1.0, 2.0, 3.0])
    # Site one: of 6 pairs the swap of neighbours turns 1, tau = (5 - 1) / 6. Site two: reversed.
    b = scores(one=[4.0, 2.0, 3.0, 1.0], two=[3.0, 2.0, 1.0])
    assert rank_agreement(a, b) == pytest.approx((6 * 4 / 6 + 3 * -1) / 9)
    assert rank_agreement(b, a) == pytest.approx(rank_agreement(a, b))
    assert rank_agreement(a, a) == pytest.approx(1)
    # Only the order counts.
    assert rank_agreement(a, {s: np.exp(v) for s, v in b.items()}) == rank_agreement(a, b)


def test_ties_are_those_of_tau_b() -> None:
    # Pairs 01: tied in b; 02 and 12: concordant. tau-b = 2 / sqrt(3 x 2).
    found = rank_agreement(scores(one=[1.0, 2.0, 3.0]), scores(one=[1.0, 1.0, 3.0]))
    assert found == pytest.approx(2 / math.sqrt(6))


def test_a_site_without_an_order_is_left_out() -> None:
    a = scores(one=[1.0], flat=[2.0, 2.0, 2.0], two=[1.0, 2.0])
    b = scores(one=[5.0], flat=[1.0, 2.0, 3.0], two=[1.0, 3.0])
    assert rank_agreement(a, b) == pytest.approx(1)
    assert math.isnan(rank_agreement(scores(one=[1.0]), scores(one=[1.0])))


def test_scores_of_another_network_are_refused() -> None:
    with pytest.raises(DirpruneError, match="different networks"):
        rank_agreement(scores(one=[1.0, 2.0]), scores(one=[1.0, 2.0, 3.0]))


def test_kept_sets_overlap_over_all_sites() -> None:
    a, b = {"one": [0, 1, 2], "two": [0]}, {"one": [1, 2, 3], "two": [1]}
    assert kept_agreement(a, b) == pytest.approx(2 / 6)
    assert kept_agreement(a, a) == 1
    assert kept_agreement({"one": [0]}, {"one": [1]}) == 0
    assert kept_agreement({"one": [0]}, {"two": [0]}) == 0  # the same index of another site


def pair(order: list[float]) -> tuple[UnitScores, UnitScores]:
    return UnitScores(scores(one=[1.0, 2.0, 3.0, 4.0])), UnitScores(scores(one=order))


def test_interval_over_three_seeds_is_students_on_fishers_scale() -> None:
    orders = [[1.0, 2.0, 4.0, 3.0], [2.0, 1.0, 4.0, 3.0], [1.0, 3.0, 2.0, 4.0]]
    taus = np.array([4 / 6, 2 / 6, 4 / 6])
    z = np.arctanh(taus)
    half = t.ppf(0.975, 2) * z.std(ddof=1) / math.sqrt(3)
    found = mean_agreement([pair(order) for order in orders])
    assert found.value == pytest.approx(taus.mean())
    assert found.low == pytest.approx(math.tanh(z.mean() - half))
    assert found.high == pytest.approx(math.tanh(z.mean() + half))
    assert found.over == "seeds"


def test_without_seeds_or_draws_there_is_no_interval() -> None:
    found = mean_agreement([pair([1.0, 2.0, 4.0, 3.0])])
    assert found.value == pytest.approx(4 / 6)
    assert math.isnan(found.low)
    assert found.over == ""


def noisy(truth: np.ndarray, noise: float, draws: int, rng: np.random.Generator) -> UnitScores:
    values = {"one": truth + noise * rng.standard_normal((draws, len(truth)))}
    return UnitScores({"one": values["one"].mean(0)}, values)


def test_interval_over_draws_is_as_wide_as_tau_varies() -> None:
    # Tau between means of 32 draws, over 200 repetitions, against the width the bootstrap gives.
    rng = np.random.default_rng(0)
    truth = np.linspace(0, 1, 40)
    repeated = [
        (noisy(truth, 1.0, 32, rng), noisy(truth[::-1] + truth**2, 1.0, 32, rng))
        for _ in range(200)
    ]
    sd = np.std([np.arctanh(rank_agreement(a.scores, b.scores)) for a, b in repeated])
    widths = []
    for a, b in repeated[:20]:
        found = mean_agreement([(a, b)])
        assert found.over == "draws"
        widths.append((np.arctanh(found.high) - np.arctanh(found.low)) / (2 * 1.96))
    # The bootstrap is known to be somewhat too wide or narrow for ranks: a factor of 1.5.
    assert 1 / 1.5 < np.mean(widths) / sd < 1.5


def test_halves_show_the_noise_of_the_draws() -> None:
    rng = np.random.default_rng(0)
    truth = np.linspace(0, 1, 30)
    clear, blurred = (noisy(truth, noise, 32, rng) for noise in (0.01, 5.0))
    assert mean_agreement([clear.halves()]).value > 0.9
    assert mean_agreement([blurred.halves()]).value < 0.7
    one, two = clear.halves()
    assert one.draws is not None
    assert clear.draws is not None
    assert np.array_equal(one.draws["one"], clear.draws["one"][::2])
    assert np.array_equal(two.scores["one"], clear.draws["one"][1::2].mean(0))
