"""Simulation-based calibration: what is right passes, what is wrong is called by its name."""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import arviz as az
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from dirprune.analysis.calibration import LIKELIHOOD, Calibration
from dirprune.analysis.plots.sbc import sbc_figure
from dirprune.analysis.sbc import calibrate, sbc
from dirprune.analysis.truth import Problem, dirichlet_multinomial
from dirprune.analysis.uniformity import SIMULATIONS, band, ecdf, uniformity
from dirprune.inference.fit import fit
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

DRAWS = 99
Data = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return dirichlet_multinomial()


def posterior_of(data: Data) -> Tensor:
    """The exact concentrations."""
    return 1 + torch.bincount(data[0][1], minlength=4).double()


def scaled(factor: float) -> Callable[[Data, int], Mapping[str, Tensor]]:
    """The exact posterior with its concentrations times a factor: sds over about its root."""

    def approximate(data: Data, seed: int) -> Mapping[str, Tensor]:
        phi = factor * posterior_of(data)
        return {"0": torch.distributions.Dirichlet(phi).sample((DRAWS,))}

    return approximate


def run(problem: Problem, approximate: Any, simulations: int, seed: int = 0) -> Calibration:
    return calibrate(
        problem.model,
        problem.inputs,
        approximate,
        simulations=simulations,
        draws=DRAWS,
        seed=seed,
        progress=False,
    )


# -- uniformity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [20, 49, 100])  # 49: where k / n times n is below k in floats
def test_false_alarms_are_as_many_as_stated(n: int) -> None:
    rng = np.random.default_rng(1)
    samples = [rng.random(n) for _ in range(2000)]
    _, low, high = band(n)
    p = np.array([uniformity(u).p_value for u in samples])
    for level in (0.05, 0.2):
        # At most the level (the statistic is discrete), and near it: 4.5 standard errors, of these
        # samples and of the null's.
        error = np.sqrt(level * (1 - level) * (1 / 2000 + 1 / SIMULATIONS))
        assert (p <= level).mean() < level + 4.5 * error
        assert (p <= level).mean() > 0.8 * level - 4.5 * error
    curves = np.array([ecdf(u) for u in samples])
    outside = ((curves < low - 1e-12) | (curves > high + 1e-12)).any(1)
    # A curve leaves the 95 % band where p < 5 %, whatever the ties at the edge.
    assert (outside == (p < 0.05)).mean() > 0.99


@pytest.mark.parametrize(
    ("a", "b", "score", "sign"),
    [
        (0.5, 0.5, "spread", 1),
        (2, 2, "spread", -1),
        (2, 1, "location", 1),
        (1, 2, "location", -1),
        (0.05, 2, "location", -1),  # all at one end: not narrow, but far off
    ],
)
def test_the_larger_score_says_how_values_depart(a: float, b: float, score: str, sign: int) -> None:
    found = uniformity(stats.beta(a, b).rvs(200, random_state=0))
    assert found.p_value < 0.001
    larger = "location" if abs(found.location) > abs(found.spread) else "spread"
    assert larger == score
    assert getattr(found, score) * sign > 3


def test_scores_are_standard() -> None:
    rng = np.random.default_rng(2)
    found = [uniformity(rng.random(30)) for _ in range(1500)]
    for scores in ([f.location for f in found], [f.spread for f in found]):
        assert np.mean(scores) == pytest.approx(0, abs=4.5 / np.sqrt(1500))
        assert np.var(scores) == pytest.approx(1, abs=4.5 * np.sqrt(2 / 1500))


def test_a_fault_is_found_among_hundreds_of_units() -> None:
    """The simulated p-value is at least 1e-4; times 600 tests that would never be below 5 %."""
    rng = np.random.default_rng(0)
    assert SIMULATIONS < 600 / 0.05
    ranks = {"a": 99 * rng.integers(0, 2, (100, 600)), LIKELIHOOD: rng.integers(0, 100, (100, 1))}
    assert Calibration(ranks, DRAWS, 0.0).summary()["verdict"] == "over-confident"
    ranks["a"] = rng.integers(0, 100, (100, 600))
    assert Calibration(ranks, DRAWS, 0.0).summary()["verdict"] == "calibrated"


# -- approximations of known quality ---------------------------------------------------------------


def test_the_exact_posterior_passes(problem: Problem) -> None:
    # A right one is failed by chance for 5 % of the seeds at most; this is one of the others.
    result = run(problem, scaled(1), 200)
    summary = result.summary()
    assert summary["verdict"] == "calibrated", summary["text"]
    assert summary["p_value"] >= 0.05
    for name, ranks in result.ranks.items():
        assert ranks.shape == (200, 1 if name == LIKELIHOOD else 4)
        assert ranks.min() >= 0
        assert ranks.max() <= DRAWS
        # A chi-squared test on ten bins, apart from ours; five of them.
        for column in ranks.T:
            counts = np.bincount(column * 10 // (DRAWS + 1), minlength=10)
            assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize(
    ("factor", "verdict"), [(4.0, "over-confident"), (0.25, "under-confident")]
)
def test_half_and_double_the_sd_are_called_by_their_names(
    problem: Problem, factor: float, verdict: str
) -> None:
    summary = run(problem, scaled(factor), 100).summary()
    assert summary["verdict"] == verdict
    words = [unit["verdict"] for unit in summary["units"]["0"]]
    assert words.count(verdict) >= 3
    assert verdict in summary["text"]
    assert summary["p_value"] < 0.05


def test_a_shift_is_called_by_its_direction(problem: Problem) -> None:
    def shifted(data: Data, seed: int) -> Mapping[str, Tensor]:
        phi = posterior_of(data) + torch.tensor([8.0, 0, 0, 0], dtype=torch.float64)
        return {"0": torch.distributions.Dirichlet(phi).sample((DRAWS,))}

    words = [unit["verdict"] for unit in run(problem, shifted, 100).summary()["units"]["0"]]
    assert words == ["biased high", "biased low", "biased low", "biased low"]


def test_the_prior_is_no_posterior(problem: Problem) -> None:
    # Ranks of the switches are uniform for it: that the data were ignored, the likelihood tells.
    def prior(data: Data, seed: int) -> Mapping[str, Tensor]:
        return {"0": torch.distributions.Dirichlet(torch.ones(4).double()).sample((DRAWS,))}

    summary = run(problem, prior, 100).summary()
    assert [unit["verdict"] for unit in summary["units"]["0"]] == ["calibrated"] * 4
    assert summary["verdict"] == "miscalibrated"
    assert "log likelihood" in summary["text"]


def test_equal_draws_share_the_ranks_by_lot(problem: Problem) -> None:
    # A draw that is the truth itself ties with it everywhere: every rank is as likely.
    truth: list[Tensor] = []
    sample_switches = problem.model.sample_switches

    def peeking() -> dict[str, Tensor]:
        found = sample_switches()
        truth[:] = [found["0"]]
        return found

    model = copy.copy(problem.model)
    object.__setattr__(model, "sample_switches", peeking)
    result = calibrate(
        model,
        problem.inputs,
        lambda data, seed: {"0": truth[0].expand(DRAWS, 4)},
        simulations=100,
        draws=DRAWS,
        progress=False,
    )
    assert result.summary()["verdict"] == "calibrated"


# -- guides ----------------------------------------------------------------------------------------


def test_a_fitted_guide_of_the_right_family_passes(problem: Problem) -> None:
    # Warm: from a guide that was fitted once, 60 steps for each data set.
    start: Any = fit(problem.model, "dirichlet", problem.loader, epochs=100, lr=0.1).guides[0]
    before = start.concentration()["0"]
    result = sbc(
        problem.model,
        problem.inputs,
        lambda model: copy.deepcopy(start),
        simulations=20,
        steps=60,
        lr=0.1,
        progress=False,
    )
    assert result.summary()["verdict"] == "calibrated", result.summary()["text"]
    assert result.simulations == 20
    assert torch.equal(start.concentration()["0"], before)


def test_a_point_mass_is_over_confident(problem: Problem) -> None:
    result = sbc(
        problem.model, problem.inputs, "delta", simulations=20, steps=20, draws=19, progress=False
    )
    assert result.summary()["verdict"] == "over-confident"
    assert result.settings["guide"] == "delta"


def test_a_prior_with_a_prior_of_its_own_is_simulated_whole() -> None:
    torch.manual_seed(1)
    inputs = torch.randn(8, 2)
    model = SwitchedNetwork(network(), inputs[:2], num_data=8, prior="hierarchical:2:1")
    result = sbc(model, inputs, "dirichlet", simulations=20, steps=3, draws=19, progress=False)
    assert set(result.ranks) == {"0", LIKELIHOOD}
    assert len(np.unique(result.ranks["0"])) > 10


# -- results ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(problem: Problem) -> Calibration:
    return run(problem, scaled(1), 30, seed=5)


def test_same_seed_same_ranks(problem: Problem, result: Calibration) -> None:
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = run(problem, scaled(1), 30, seed=5)
    assert torch.equal(torch.get_rng_state(), state)  # and the caller's generator is left alone
    other = run(problem, scaled(1), 30, seed=6)
    assert np.array_equal(again.ranks["0"], result.ranks["0"])
    assert not np.array_equal(other.ranks["0"], result.ranks["0"])


def test_the_tree_is_arvizs(result: Calibration) -> None:
    tree = result.tree()
    values = tree["prior_sbc"]["0"]
    assert values.dims == ("chain", "draw", "0_unit")
    assert tree["prior_sbc"][LIKELIHOOD].dims == ("chain", "draw")
    assert np.array_equal(np.floor(values.values[0] * (DRAWS + 1)), tree["ranks"]["0"].values[0])
    plot = az.plot_ecdf_pit(tree, backend="none")
    assert plot is not None


def test_the_summary_is_json(result: Calibration) -> None:
    summary = result.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert set(summary["units"]) == {"0", LIKELIHOOD}
    assert summary["simulations"] == 30


def test_the_picture_has_a_panel_for_each(problem: Problem, result: Calibration) -> None:
    figure = sbc_figure({"exact": result, "narrow": run(problem, scaled(4), 30)})
    assert [ax.get_title(loc="left").split("\n")[0] for ax in figure.axes] == ["exact", "narrow"]
    assert len(figure.axes[0].lines) == 6  # zero, four switches, the log likelihood


# -- refusals --------------------------------------------------------------------------------------


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))


def test_other_temperatures_are_refused() -> None:
    model = SwitchedNetwork(network(), torch.zeros(2, 2), num_data=8, temperature=0.5)
    with pytest.raises(DirpruneError, match=r"expected temperature 1, got 0.5. Ranks are uniform"):
        sbc(model, torch.zeros(8, 2), "dirichlet")


def test_a_learned_likelihood_is_refused() -> None:
    model = SwitchedNetwork(network(), torch.zeros(2, 2), num_data=8, likelihood="gaussian")
    with pytest.raises(DirpruneError, match=r"the likelihood learns likelihood\.log_scale"):
        sbc(model, torch.zeros(8, 2), "dirichlet")


def test_a_part_of_the_inputs_is_refused(problem: Problem) -> None:
    with pytest.raises(DirpruneError, match="expected a tensor of all num_data = 14 inputs, got 3"):
        sbc(problem.model, problem.inputs[:3], "dirichlet")
    with pytest.raises(DirpruneError, match="inputs, got list"):
        sbc(problem.model, [problem.inputs], "dirichlet")


def test_one_guide_for_all_simulations_is_refused(problem: Problem) -> None:
    guide = fit(problem.model, "dirichlet", problem.loader).guides[0]
    with pytest.raises(DirpruneError, match="got one AutoDirichlet, which would go on"):
        sbc(problem.model, problem.inputs, guide)


@pytest.mark.parametrize(("name", "value"), [("simulations", 19), ("draws", 8), ("draws", 2.5)])
def test_numbers_out_of_range_are_refused(problem: Problem, name: str, value: Any) -> None:
    with pytest.raises(DirpruneError, match=f"{name}: expected a whole number of at least"):
        sbc(problem.model, problem.inputs, "dirichlet", **{name: value})


def test_draws_of_another_number_are_refused(problem: Problem) -> None:
    with pytest.raises(DirpruneError, match=r"of shape \[99, 4\] from the approx.*got \[98, 4\]"):
        run(problem, lambda data, seed: {"0": torch.full((98, 4), 0.25)}, 20)


def test_what_is_no_switched_network_is_refused() -> None:
    with pytest.raises(DirpruneError, match="expected a SwitchedNetwork, got Sequential"):
        sbc(network(), torch.zeros(8, 2), "dirichlet")  # type: ignore[arg-type]
