"""Predicted accuracy: the predictive distribution, its coverage, and what it is measured on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import beta, betabinom, binom
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.decision.decide import decide, draws_masks
from dirprune.analysis.decision.predicted_accuracy import (
    Interval,
    check_predictions,
    predict_accuracy,
    predictive,
)
from dirprune.analysis.evidence import Scores, evidence
from dirprune.analysis.masked import correct, masked_gains
from dirprune.analysis.plots import predicted_accuracy_figure, save_figure
from dirprune.inference.evaluate import evaluate
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.surgery import mask, prune

Case = Any  # of conftest.py


# -- the distribution ------------------------------------------------------------------------------


def test_of_one_count_it_is_the_beta_binomial() -> None:
    found = predictive([90], 100, 500)
    rule = betabinom(500, 90.5, 10.5)
    assert (found.low, found.high) == (rule.ppf(0.05) / 5, rule.ppf(0.95) / 5)
    assert found.mean == pytest.approx(rule.mean() / 5)
    # and of ever so many new images the beta, to the grid's hundredth of a percent
    found = predictive([90], 100)
    assert found.low == pytest.approx(100 * beta(90.5, 10.5).ppf(0.05), abs=0.011)
    assert found.high == pytest.approx(100 * beta(90.5, 10.5).ppf(0.95), abs=0.011)


def test_a_mixture_is_wider_than_its_parts() -> None:
    parts = [predictive([k], 100, 500) for k in (60, 90)]
    both = predictive([60, 90], 100, 500)
    assert both.mean == pytest.approx((parts[0].mean + parts[1].mean) / 2)
    # Its 5 % quantile is the 10 % one of the lower part, where the upper has nothing.
    assert both.low == betabinom(500, 60.5, 40.5).ppf(0.1) / 5
    assert both.high == pytest.approx(betabinom(500, 90.5, 10.5).ppf(0.9) / 5)
    assert predictive([60, 60], 100, 500) == parts[0]


@pytest.mark.parametrize("counts", [[0], [100], [0, 100]])
def test_at_the_ends_it_stays_between_0_and_100(counts: list[int]) -> None:
    for new in (None, 7):
        found = predictive(counts, 100, new)
        assert 0 <= found.low <= found.high <= 100
        assert 0 < found.mean < 100


@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.95, 0.99])
@pytest.mark.parametrize(("images", "new"), [(126, 539), (500, 500), (60, None)])
def test_coverage_is_exact(accuracy: float, images: int, new: int | None) -> None:
    """By enumeration over all pairs of counts, at a known accuracy."""
    covered = 0.0
    for k in range(images + 1):
        weight = binom.pmf(k, images, accuracy)
        if weight < 1e-9:
            continue
        found = predictive([k], images, new)
        if new is None:
            covered += weight * (found.low <= 100 * accuracy <= found.high)
        else:
            low, high = round(found.low * new / 100), round(found.high * new / 100)
            covered += weight * (binom.cdf(high, new, accuracy) - binom.cdf(low - 1, new, accuracy))
    # Jeffreys' interval of a fixed proportion wavers around its level, for 60 images and an
    # accuracy of 0.99 most (Brown, Cai, DasGupta 2001); the predictive one much less.
    assert covered >= (0.86 if new is None else 0.89)
    assert covered <= (0.99 if accuracy > 0.98 or new is None else 0.94)


# -- of a network ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scores() -> dict[str, Scores]:
    generator = torch.Generator().manual_seed(2)
    draws = {s: torch.rand(40, k, generator=generator) for s, k in {"0": 6, "2": 5}.items()}
    return {s: Scores(d.mean(0), d) for s, d in draws.items()}


def test_it_is_measured_on_the_mask(case: Case, scores: dict[str, Scores]) -> None:
    decision = decide(case.model, scores, macs=0.5)
    found = predict_accuracy(
        case.model, decision, case.tree, case.loader, evidence=scores, new_images=200
    )
    accuracy = evaluate(mask(case.model, decision), case.loader)
    assert accuracy.correct == evaluate(prune(case.model, decision), case.loader).correct
    assert found.network == predictive([accuracy.correct], 60, 200)
    assert (found.images, found.new_images, found.level) == (60, 200, 0.9)
    # The masks of 16 of the 40 draws, each decided by the same rule.
    counts = []
    for i in np.linspace(0, 39, 16).round().astype(int):
        own = decide(case.model, {s: e.draws[i] for s, e in scores.items()}, macs=0.5)  # type: ignore[index]
        counts.append(evaluate(mask(case.model, own), case.loader).correct)
    assert found.other_masks == predictive(counts, 60, 200)
    assert len(set(counts)) > 1


def test_under_draws_the_same_units_have_the_posteriors_gains(
    case: Case, scores: dict[str, Scores]
) -> None:
    decision = decide(case.model, scores, keep=0.6)
    drawn = {s: torch.from_numpy(case.tree["posterior"][s].values[:, :16]) for s in ("0", "2")}
    number = drawn["0"].flatten(0, 1).shape[0]
    counts = []
    for i in np.linspace(0, number - 1, 16).round().astype(int):
        gains = case.model.gains({s: d.flatten(0, 1)[i] for s, d in drawn.items()})
        for site, units in decision.kept.items():
            gone = [u for u in range(gains[site].shape[1]) if u not in units]
            gains[site][:, gone] = 0
        right = case.model.outputs_at_gains(case.inputs, gains).argmax(1) == case.targets
        counts.append(int(right.sum()))
    for source in (case.tree, case.fit):
        found = predict_accuracy(case.model, decision, source, case.loader)
        assert found.other_masks is None
        assert found.under_draws is not None
    assert predict_accuracy(case.model, decision, case.tree, case.loader).under_draws == predictive(
        counts, 60
    )
    alone = predict_accuracy(case.model, decision, None, case.loader)
    assert (alone.under_draws, alone.other_masks) == (None, None)
    # Scores without draws have no other masks.
    plain = {s: Scores(e.scores) for s, e in scores.items()}
    none = predict_accuracy(case.model, decision, None, case.loader, evidence=plain)
    assert none.other_masks is None


@pytest.mark.parametrize(
    "options",
    [{"keep": 0.5}, {"macs": 0.5, "widths": "uniform"}, {"params": 0.6, "round_to": 2},
     {"widths": {"0": 2}}, {"max_drop": 20.0}],
)  # fmt: skip
def test_other_masks_follow_the_decisions_own_rule(
    case: Case, scores: dict[str, Scores], options: dict[str, Any]
) -> None:
    decision = decide(case.model, scores, **options, validation=case.loader)
    masks = draws_masks(case.model, scores, decision, 40)
    assert len(masks) == 40
    for site, chance in decision.probability.items():
        share = torch.zeros_like(chance)
        for kept in masks:
            share[kept[site]] += 1 / 40
        torch.testing.assert_close(share, chance)


@pytest.mark.parametrize("settings", [{}, {"threshold": 1.0}, {"budget": {}, "widths": "random"}])
def test_a_decision_of_another_kind_has_no_other_masks(
    case: Case, scores: dict[str, Scores], settings: dict[str, Any]
) -> None:
    decision = Decision({"0": torch.tensor([1, 2])}, {}, settings)
    found = predict_accuracy(case.model, decision, None, case.loader, evidence=scores)
    assert found.other_masks is None


def test_the_number_of_right_answers_is_that_of_each_row(case: Case) -> None:
    generator = torch.Generator().manual_seed(1)
    gains = {
        s: torch.rand(3, k, generator=generator, dtype=torch.float64)
        for s, k in (("0", 6), ("2", 5))
    }
    right = correct(case.model, gains, case.loader)
    assert right.shape == (3, 60)
    for s in range(3):
        out = case.model.outputs_at_gains(case.inputs, {n: g[s : s + 1] for n, g in gains.items()})
        assert right[s].tolist() == (out.argmax(1) == case.targets).tolist()
    assert torch.equal(correct(case.model, gains, case.loader, most=25), right[:, :25])


def test_figures_survive_being_written(
    case: Case, scores: dict[str, Scores], tmp_path: Any
) -> None:
    decision = decide(case.model, scores, keep=0.5)
    found = predict_accuracy(case.model, decision, case.tree, case.loader, evidence=scores)
    told = {**decision.settings, "predicted_accuracy": found.to_dict()}
    Decision(decision.kept, decision.probability, told).save(tmp_path / "decision.json")
    read = Decision.load(tmp_path / "decision.json").settings["predicted_accuracy"]
    assert Interval(**read["network"]) == found.network
    assert read["new_images"] is None
    assert str(Interval(95.04, 90.0, 98.0)) == "95.0 % (90.0 to 98.0)"
    assert 90.0 in Interval(95, 90, 98)
    assert 89.9 not in Interval(95, 90, 98)


# -- the check -------------------------------------------------------------------------------------


def simulated(seed: int, case: Case, number: int) -> DataLoader[Any]:
    """Images of the same kind: labels as the network itself gives them."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 4, dtype=torch.float64, generator=generator)
    chances = case.model.network(inputs).softmax(1)
    labels = chances.multinomial(1, generator=generator)[:, 0]
    return DataLoader(TensorDataset(inputs, labels), batch_size=200)


def test_nine_of_ten_accuracies_are_inside(case: Case) -> None:
    """Over many sets of images; all that the posterior and the decision saw is another set."""
    found = evidence("removal-cost", case.model, case.tree)
    costs = {site: Scores(e.scores) for site, e in found.items()}
    budgets = [{"macs": 0.7}, {"macs": 0.4}]
    inside = []
    for seed in range(150):
        checked = check_predictions(
            case.model, costs, None, simulated(seed, case, 80),
            simulated(10_000 + seed, case, 200), budgets,
        )  # fmt: skip
        inside += [c.happened in c.predicted.network for c in checked]
        assert [c.budget for c in checked] == budgets
    # 300 of them, in pairs on the same images: as if of at least 150, at 0.9 to 0.92.
    assert binom.ppf(0.005, 150, 0.9) / 150 <= np.mean(inside) <= binom.ppf(0.995, 150, 0.92) / 150


def test_the_picture(case: Case, tmp_path: Any) -> None:
    costs = evidence("removal-cost", case.model, case.tree)
    checked = check_predictions(
        case.model, costs, case.tree, case.loader, case.loader, [{"macs": 0.5}, {"keep": 0.3}]
    )
    checked += check_predictions(
        case.model, costs, case.tree, case.loader, case.loader,
        [{"keep": 0.5, "widths": "uniform"}, {"widths": {"0": 2}}],
    )  # fmt: skip
    figure = predicted_accuracy_figure({"one": checked, "another": checked[:1]})
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "one: 4 of 4 inside", "another: 1 of 1 inside",
    ]  # fmt: skip
    save_figure(figure, tmp_path / "predicted.png")
    assert (tmp_path / "predicted.png").stat().st_size > 10_000


# -- bad input -------------------------------------------------------------------------------------


def test_what_does_not_fit(case: Case) -> None:
    decision = Decision({"0": torch.tensor([1, 2])})
    with pytest.raises(DirpruneError, match="of another network"):
        predict_accuracy(case.model, Decision({"x": torch.tensor([1])}), None, case.loader)
    with pytest.raises(DirpruneError, match="new_images=0: expected at least 1"):
        predict_accuracy(case.model, decision, None, case.loader, new_images=0)
    with pytest.raises(DirpruneError, match="the loader is empty"):
        predict_accuracy(case.model, decision, None, [])
    targets: Tensor = torch.randn(60, 3)
    regression = DataLoader(TensorDataset(case.inputs, targets), batch_size=20)
    with pytest.raises(DirpruneError, match="labels: expected integers"):
        predict_accuracy(case.model, decision, None, regression)
    assert masked_gains(case.model, decision.kept)["0"].tolist() == [[0, 1, 1, 0, 0, 0]]
