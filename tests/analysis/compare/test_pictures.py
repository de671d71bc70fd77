"""Pictures of few and of many guides, priors, temperatures and methods: all text inside, apart."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import matplotlib.colors as mcolors
import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Text

from dirprune.analysis.compare import Cell, UnitScores
from dirprune.analysis.compare.method_pictures import write_method_pictures
from dirprune.analysis.compare.method_table import lines_of
from dirprune.analysis.compare.outcome import Arm, Chosen, Trial, TrialRecord
from dirprune.analysis.compare.pictures import agreement_matrices
from dirprune.analysis.plots.compare import (
    AgreementMatrix,
    accuracy_figure,
    agreement_figure,
    elpd_figure,
    forest_figure,
)
from dirprune.analysis.plots.methods import (
    Cost,
    Point,
    accuracy_cost_figure,
    accuracy_macs_figure,
)
from dirprune.analysis.plots.style import MARKERS

GUIDES = [
    "dirichlet", "generalized-dirichlet", "logistic-normal", "low-rank-logistic-normal", "delta",
    "normal", "low-rank-normal", "iaf-normal",
]  # fmt: skip
PRIORS = ["symmetric:1", "symmetric:0.3", "alpha/K:1", "hierarchical:1:1", "half-cauchy:1"]


def shown_ticks(axis: Axis) -> list[Text]:
    """The labels of ticks within the axis' limits; the others are not drawn."""
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
    return [t for at, t in ticks if t.get_text() and low - room <= at <= high + room]


def check(figure: Figure) -> None:
    """No text beyond the figure's edge, none in a panel over another, tick labels apart."""
    figure.draw_without_rendering()
    axes = [axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    ticks = {id(t) for axis in axes for tick in axis.get_major_ticks() for t in _labels(tick)}
    shown = {id(t) for axis in axes for t in shown_ticks(axis)}
    for text in figure.findobj(lambda artist: isinstance(artist, Text)):
        assert isinstance(text, Text)
        if text.get_text() and (id(text) not in ticks or id(text) in shown):
            box = text.get_window_extent()
            assert box.x0 >= 0, text.get_text()
            assert box.y0 >= 0, text.get_text()
            assert box.x1 <= figure.bbox.x1, text.get_text()
            assert box.y1 <= figure.bbox.y1, text.get_text()
    for axis in axes:
        way = "x" if axis.axis_name == "x" else "y"
        labels = [t for t in shown_ticks(axis) if not t.get_rotation()]  # slanted ones pass
        boxes = [t.get_window_extent() for t in labels]
        ends = sorted((getattr(b, f"{way}0"), getattr(b, f"{way}1")) for b in boxes)
        assert all(a[1] <= b[0] + 0.5 for a, b in itertools.pairwise(ends))
    for ax in figure.axes:
        texts = [t.get_window_extent() for t in ax.texts]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(texts, 2))


def _labels(tick: Any) -> tuple[Text, Text]:
    return tick.label1, tick.label2


@pytest.mark.parametrize(("guides", "priors"), [(1, 1), (2, 2), (8, 5)])
def test_forest(guides: int, priors: int) -> None:
    rng = np.random.default_rng(0)
    panels = {
        p: {g: 32 * rng.dirichlet(np.ones(32), size=50) for g in GUIDES[:guides]}
        for p in PRIORS[:priors]
    }
    figure = forest_figure(
        "layer1.0.conv2", panels, [3, 1, 30, 7], "temperature 1, seed 0", "a note"
    )
    check(figure)
    assert "a note" in [text.get_text() for text in figure.findobj(Text)]
    assert len(figure.axes) == priors
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["3", "1", "30", "7"]


@pytest.mark.parametrize(("guides", "priors"), [(2, 1), (3, 5), (8, 3)])
def test_agreement(guides: int, priors: int) -> None:
    value = np.random.default_rng(0).uniform(0.2, 1, (guides, guides))
    matrix = AgreementMatrix(GUIDES[:guides], value, value - 0.1, value + 0.05, "seeds")
    figure = agreement_figure(dict.fromkeys(PRIORS[:priors], matrix), "Agreement")
    check(figure)
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert len(labels) == guides**2
    assert labels[1] == f"{value[0, 1]:.2f}\n[{value[0, 1] - 0.1:.2f}, {value[0, 1] + 0.05:.2f}]"


def test_agreement_without_intervals_or_values() -> None:
    value = np.array([[1.0, np.nan], [np.nan, 1.0]])
    none = np.full((2, 2), np.nan)
    figure = agreement_figure({"flat": AgreementMatrix(GUIDES[:2], value, none, none)}, "Agreement")
    check(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1.00", "1.00"]


@pytest.mark.parametrize("number", [1, 5, 60])
def test_elpd(number: int) -> None:
    rows: list[dict[str, Any]] = [
        {
            "guide": GUIDES[i % 8], "prior": PRIORS[i % 5], "temperature": 0.01,
            "elpd": {"mean": -0.1, "sd": None},
            "difference": {"mean": -0.01 * i, "se": 0.003 if i else None},
        }
        for i in range(number)
    ]  # fmt: skip
    figure = elpd_figure(rows)
    check(figure)
    (ax,) = figure.axes
    assert len(ax.get_yticklabels()) == min(number, 30)
    assert ("the best 30 of 60" in ax.get_title(loc="left")) is (number == 60)


@pytest.mark.parametrize(
    ("guides", "priors", "temperatures"),
    [(1, 1, [1.0]), (2, 2, [0.1, 1.0]), (8, 5, [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0])],
)
def test_accuracy(guides: int, priors: int, temperatures: list[float]) -> None:
    rng = np.random.default_rng(0)
    panels = {
        p: {g: {t: rng.uniform(80, 99, 3).tolist() for t in temperatures} for g in GUIDES[:guides]}
        for p in PRIORS[:priors]
    }
    figure = accuracy_figure("macs=0.5", panels, 99.2, "one shot", 500)
    check(figure)
    low, high = figure.axes[0].get_ylim()
    assert low < 80 + 19  # every dot and the original are within
    assert high > 99.2
    assert len(figure.axes) == priors


def test_accuracies_of_one_seed_have_binomial_errors_and_an_axis_of_ten_points() -> None:
    panels = {"symmetric:1": {"dirichlet": {0.1: [97.0], 1.0: [98.0]}}}
    figure = accuracy_figure("macs=0.5", panels, 99.2, "one shot", 100)
    check(figure)
    (ax,) = figure.axes
    low, high = ax.get_ylim()
    assert high - low >= 10
    assert low < 97 - 1.8 < 99.2 < high < 101
    bars = [c for c in ax.collections if isinstance(c, LineCollection)]
    ends = [segment[:, 1] for c in bars for segment in c.get_segments()]
    # sqrt(97 x 3 / 100) = 1.706 points, sqrt(98 x 2 / 100) = 1.4
    assert np.allclose(ends, [[95.294, 98.706], [96.6, 99.4]], atol=1e-3)
    assert any("100 images" in text.get_text() for text in figure.findobj(Text))


def test_accuracies_of_several_seeds_have_their_own_spread() -> None:
    panels = {"symmetric:1": {"dirichlet": {0.1: [97.0, 95.0], 1.0: [98.0, 97.0]}}}
    figure = accuracy_figure("macs=0.5", panels, 99.2, "one shot", 100)
    assert not any("images" in t.get_text() for t in figure.legends[0].get_texts())


def test_matrices_pair_the_seeds_that_both_guides_have() -> None:
    up, down = (UnitScores({"one": np.array(v)}) for v in ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]))
    half = UnitScores({"one": np.array([1.0, 3.0, 2.0])})
    scores = {
        Cell("a", "flat", 1.0, 0): up, Cell("b", "flat", 1.0, 0): down,
        Cell("a", "flat", 1.0, 1): up, Cell("b", "flat", 1.0, 1): half,
        Cell("a", "flat", 1.0, 2): down,  # b failed there
        Cell("a", "flat", 0.5, 0): up,
    }  # fmt: skip
    found = agreement_matrices(scores)
    assert set(found) == {0.5, 1.0}
    assert found[0.5]["flat"].guides == ["a"]
    # tau is -1 and 1/3 on the two seeds.
    assert found[1.0]["flat"].value == pytest.approx(np.array([[1, -1 / 3], [-1 / 3, 1]]))


# -- methods --------------------------------------------------------------------------------------

METHODS = [
    "removal-cost", "concentration", "mean", "snr", "among-best", "random", "l1-norm", "apoz",
    "taylor", "fisher", "shapley:permutations=5:std=0", "shapley", "sbp", "bmrs",
    "removal-cost:draws=64:images=512+rounds=12:steps=80+refine:steps=40", "l1-norm+refine",
    "fisher+rounds=6", "removal-cost+rounds=6", "leave-one-out", "bn-scale", "l2-norm", "a$b$",
]  # fmt: skip


@pytest.mark.parametrize("number", [1, 2, 12, 22])
def test_accuracy_against_what_is_left(number: int) -> None:
    rng = np.random.default_rng(0)
    methods = {
        name: [Point(macs, list(100 * macs**0.3 + rng.normal(size=3))) for macs in (0.8, 0.5, 0.1)]
        for name in METHODS[:number]
    }
    figure = accuracy_macs_figure(methods, 99.0, "one-shot, then least-squares+recalibrate")
    check(figure)
    (ax,) = figure.axes
    line = ax.lines[1]  # the first is the unpruned network
    assert np.allclose(line.get_xdata(), [10, 50, 80])
    assert np.allclose(
        line.get_ydata(), [np.mean(p.percent) for p in reversed(methods[METHODS[0]])]
    )
    looks = [
        (mcolors.to_hex(line.get_color()), line.get_marker(), line.get_linestyle())
        for line in ax.lines[1:]
    ]
    assert len(set(looks)) == number


@pytest.mark.parametrize("number", [1, 2, 12, 22])
def test_accuracy_against_cost(number: int) -> None:
    rng = np.random.default_rng(0)
    costs = [0.0, 0.0, 300.0, *np.geomspace(1e3, 1e7, 19)]
    methods = {
        name: Cost(cost, list(70 + rng.normal(size=3)))
        for name, cost in zip(METHODS, costs[:number], strict=False)
    }
    figure = accuracy_cost_figure(methods, "one-shot, nothing compensated, mean over 9 budgets")
    check(figure)
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels[0] == "none"
    # What costs nothing stands to the left of all that costs something.
    marks = [line for line in figure.axes[0].lines if line.get_marker() in MARKERS]
    places = [line.get_xdata()[0] for line in marks]
    if number > 2:
        assert max(places[:2]) < min(places[2:])
        assert len(set(places)) == number


def test_all_that_costs_something() -> None:
    methods = {"a": Cost(1e4, [50.0]), "b": Cost(1e6, [60.0]), "c": Cost(1e6, [40.0])}
    figure = accuracy_cost_figure(methods, "one-shot")
    check(figure)
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert labels == ["10 k", "100 k", "1 M"]
    (front,) = [line for line in figure.axes[0].lines if line.get_drawstyle() == "steps-post"]
    assert list(front.get_ydata()) == [50, 60]  # c costs as much as b and is worse


LONG = "least-squares-images-5+recalibrate"


def test_two_pictures_for_each_protocol_and_compensation(tmp_path: Path) -> None:
    def record(compensation: str, learning: tuple[int, int] | None) -> TrialRecord:
        chosen = Chosen({"one": [0]}, 40, 20, (0, 0), learning, 0.0)
        arm = Arm("one-shot", "keep=0.5", compensation, {"test": 90.0}, None, {})
        original = {"test": 99.0, "macs": 100, "params": 80}
        return TrialRecord(Trial("a", None, 0), original, {"keep=0.5": chosen}, [arm])

    # A posterior whose passes were not counted has no place in the picture of costs.
    made = [record("none", None), record("least-squares:images=5+recalibrate", (1, 1))]
    made.append(record("recalibrate", (5, 5)))
    write_method_pictures(tmp_path, lines_of(made))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"accuracy-cost_one-shot_{how}.png" for how in (LONG, "recalibrate")),
        *(f"accuracy-macs_one-shot_{how}.png" for how in (LONG, "none", "recalibrate")),
    ]


def test_names_are_no_mathematics() -> None:
    figure = accuracy_macs_figure({"a$b$": [Point(0.5, [1.0])]}, 2.0, "one-shot")
    shown = [text.get_text() for text in figure.findobj(Text)]
    assert r"a\$b\$" in shown
