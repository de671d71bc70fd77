"""The pictures of the diagnostics: their bands against simulation, and what they show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from dirprune.analysis import plots
from dirprune.analysis.diagnostics.reliability import calibration
from dirprune.analysis.uniformity import rank_band


def lines_of(ax, label):
    return [line for line in ax.lines if str(line.get_label()).startswith(label)]


@pytest.mark.parametrize(("chains", "draws"), [(2, 100), (4, 60)])
def test_the_rank_band_holds_all_chains_in_95_of_100_cases(chains, draws):
    rng = np.random.default_rng(7)
    x, low, high = rank_band(draws, chains)
    inside, runs = 0, 400
    for _ in range(runs):
        ranks = rankdata(rng.normal(size=(chains, draws))).reshape(chains, draws) / (chains * draws)
        ecdf = (ranks[:, :, None] <= x + 1e-12).mean(1)
        inside += bool(((ecdf >= low - 1e-12) & (ecdf <= high + 1e-12)).all())
    # Counts are whole, so the band holds somewhat more than 95 %; sd of the share is 1.1 %.
    assert 0.92 <= inside / runs <= 0.995


def test_ranks_of_the_worst_and_the_median_unit():
    torch.manual_seed(0)
    draws = torch.distributions.Dirichlet(torch.ones(5).double()).sample((2, 200)).numpy()
    draws[0, :, 3] += 2  # restart 1 is far above restart 2 there
    rhat = np.array([1.001, 1.002, 1.003, 3.0, 1.004])
    figure = plots.rank_plot_figure({"conv": draws}, {"conv": rhat})
    worst, _, median = figure.axes
    assert "3.000" in worst.get_title(loc="left")
    assert "unit 3" in worst.get_title(loc="left")
    assert "unit 2" in median.get_title(loc="left")
    first, second = (lines_of(worst, f"restart {c}")[0].get_ydata() for c in (1, 2))
    # All of restart 2 is below all of restart 1: at the middle its ECDF is 1, and the other's 0.
    assert second.max() == pytest.approx(0.5, abs=0.01)
    assert first.min() == pytest.approx(-0.5, abs=0.01)
    np.testing.assert_allclose(first, -second, atol=1e-12)


def test_equal_draws_share_the_ranks_by_lot():
    """Switches that underflow are equal; their order in the file would set the restarts apart."""
    draws = np.full((2, 200, 3), 1e-300)
    figure = plots.rank_plot_figure({"conv": draws}, {"conv": np.ones(3)})
    for ax in figure.axes:
        curve = lines_of(ax, "restart 1")[0].get_ydata()
        assert np.abs(curve).max() < 0.12  # 0.5 in the order of the file; sd at most 0.025


def test_reliability_marks_what_is_outside_its_bar():
    rng = np.random.default_rng(0)
    p = np.full((400, 2), 0.5)
    p[:, 0] = rng.uniform(0.6, 0.99, 400)
    p[:, 1] = 1 - p[:, 0]
    found = calibration(p, np.where(rng.random(400) < 0.5, 0, 1))  # says 80 %, right in 50 %
    parts = found.confidence, found.accuracy, found.resampled_accuracy
    figure = plots.reliability_figure({"posterior": parts, "network": parts})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["posterior", "network"]
    (outside,) = lines_of(figure.axes[0], "accuracy, outside")
    assert len(outside.get_xdata()) >= 6
    figure.canvas.draw()
    (legend,) = figure.legends
    assert {t.get_text() for t in legend.get_texts()} == {
        "accuracy if calibrated (95 %)", "mean confidence", "accuracy", "accuracy, outside",
    }  # fmt: skip
    box = legend.get_window_extent()
    assert not any(box.overlaps(ax.get_tightbbox()) for ax in figure.axes)


def test_sensitivity_shows_every_unit_and_no_panel_of_a_flat_prior():
    likelihood = {"a": np.array([0.01, 0.2, 3.0]), "b": np.array([0.1, 0.4])}
    flat = {site: 0 * v for site, v in likelihood.items()}
    both = plots.sensitivity_figure(
        {"prior": likelihood, "likelihood": likelihood}, ["a", "b"], 0.05
    )
    assert len(both.axes) == 2
    one = plots.sensitivity_figure({"prior": flat, "likelihood": likelihood}, ["a", "b"], 0.05)
    (ax,) = one.axes
    assert ax.get_title(loc="left") == "To the likelihood"
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert sorted(x for line in points for x in line.get_xdata()) == [0.01, 0.1, 0.2, 0.4, 3.0]
    one.canvas.draw()
