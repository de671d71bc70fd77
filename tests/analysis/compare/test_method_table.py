"""The tables of methods from made-up trials."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from dirprune.analysis.compare.method_table import build_rows, lines_of, to_csv, to_markdown
from dirprune.analysis.compare.outcome import Arm, Chosen, Learned, Trial, TrialRecord
from dirprune.model.errors import DirpruneError

POSTERIOR = Learned("dirichlet", "symmetric:1")
BUDGETS = ("keep=0.5", "keep=0.3")


def record(
    method: str,
    seed: int,
    percents: tuple[float, ...],
    *,
    posterior: Learned | None = None,
    macs: int = 40,
    scoring: tuple[int, int] = (0, 0),
    learning: tuple[int, int] | None = (0, 0),
    **arm: Any,
) -> TrialRecord:
    """A trial at the two budgets, on a network of 100 %."""
    chosen = {
        budget: Chosen({"one": [0, 2], "two": [1]}, macs, 20, scoring, learning, 1.5)
        for budget in BUDGETS
    }
    fields: dict[str, Any] = {
        "protocol": "one-shot", "compensation": "none", "untrained": None,
        "seconds": {"compensation": 0.0, "training": 0.0}, **arm,
    }  # fmt: skip
    arms = [
        Arm(budget=budget, accuracy={"test": p, "validation": p + 1}, **fields)
        for budget, p in zip(BUDGETS, percents, strict=True)
    ]
    original = {"test": 100.0, "validation": 99.0, "macs": 100, "params": 80}
    trial = Trial(method, posterior, seed)
    return TrialRecord(trial, original, chosen, arms, {"learning": 2.0}, posterior is None)


def three() -> list[TrialRecord]:
    """Ours with a posterior, and two rivals, on three networks."""
    ours: dict[str, Any] = {
        "posterior": POSTERIOR,
        "scoring": (100, 100),
        "learning": (1000, 1000),
    }
    made = []
    for seed, shift in enumerate((0.0, 2.0, -2.0)):  # the networks differ more than the methods
        made += [
            record("ours", seed, (90 + shift, 80 + shift), **ours),
            record("good", seed, (88 + shift + seed, 60 + shift)),
            record("bad", seed, (70 + shift, 70 + shift + 0.1 * seed)),
        ]
    return made


def test_rows_are_means_over_seeds_and_the_best_is_told_from_the_others_in_pairs() -> None:
    rows = build_rows(lines_of(three()))
    assert [row["method"] for row in rows] == ["ours", "good", "bad"]
    ours, good, bad = rows
    assert ours["budgets"]["keep=0.5"]["test"] == {"mean": 90, "sd": 2}
    assert ours["budgets"]["keep=0.5"]["validation"]["mean"] == 91
    assert ours["mean"] == {"mean": 85, "sd": 2}
    assert ours["budgets"]["keep=0.5"]["best"]
    assert ours["budgets"]["keep=0.5"]["difference"] is None
    # good - ours is -2, -1, 0 at a half: mean -1, se 1 / sqrt(3), below t = 4.30.
    assert good["budgets"]["keep=0.5"]["difference"] == {
        "mean": pytest.approx(-1), "se": pytest.approx(3**-0.5), "pairs": 3, "differs": False,
    }  # fmt: skip
    assert bad["budgets"]["keep=0.5"]["difference"]["differs"] is True  # -20 each time
    assert ours["budgets"]["keep=0.5"]["macs"]["mean"] == pytest.approx(0.4)
    assert ours["budgets"]["keep=0.5"]["params"]["mean"] == pytest.approx(0.25)
    assert json.dumps(rows, allow_nan=False)


def test_losses_are_against_the_best_rival_at_each_budget() -> None:
    ours, good, bad = build_rows(lines_of(three()))
    # Rivals: good loses 11 at a half (its mean is 89), bad 29.9 at 0.3; ours 10 and 20.
    assert ours["loss_removed"]["best_rival"] == {"keep=0.5": "good", "keep=0.3": "bad"}
    assert ours["loss_removed"]["share"] == pytest.approx(1 - 30 / 40.9)
    assert good["loss_removed"]["share"] == pytest.approx(1 - 51 / 40.9)
    assert bad["loss_removed"]["share"] == pytest.approx(1 - 59.9 / 40.9)


def test_a_backward_pass_counts_as_two() -> None:
    ours, good, _ = build_rows(lines_of(three()))
    assert ours["forwards"] == {"scoring": 300, "learning": 3000, "total": 3300}
    assert good["forwards"]["total"] == 0
    (row,) = build_rows(lines_of([record("nuts", 0, (1.0, 1.0), learning=None)]))
    assert row["forwards"] == {"scoring": 0, "learning": None, "total": None}
    assert ours["seconds"]["scoring"]["mean"] == 1.5
    assert ours["seconds"]["learning"]["mean"] == 2.0


def test_protocols_and_compensations_are_blocks_of_their_own() -> None:
    made = [
        record("a", 0, (50.0, 40.0)),
        record("a", 0, (70.0, 60.0), compensation="least-squares"),
        record("a", 0, (90.0, 80.0), protocol="scratch", untrained={"test": 10, "validation": 9}),
        record("b", 0, (60.0, 30.0)),
    ]
    rows = build_rows(lines_of(made))
    blocks = [(row["protocol"], row["compensation"], row["method"]) for row in rows]
    assert sorted(blocks) == [
        ("one-shot", "least-squares", "a"), ("one-shot", "none", "a"), ("one-shot", "none", "b"),
        ("scratch", "none", "a"),
    ]  # fmt: skip
    text = to_markdown(rows)
    assert "**one-shot, nothing compensated**" in text
    assert "**one-shot, then least-squares**" in text
    assert "**scratch**" in text
    assert text.count("| a ") == 3
    found = list(csv.DictReader(io.StringIO(to_csv(lines_of(made)))))
    assert len(found) == 8
    assert found[0]["widths"] == "one:2 two:1"
    assert found[0]["accuracy_test_untrained"] == ""
    assert float(found[4]["accuracy_test_untrained"]) == 10


def test_one_seed_has_neither_spread_nor_a_verdict() -> None:
    rows = build_rows(lines_of([record("a", 0, (50.0, 40.0)), record("b", 0, (49.0, 30.0))]))
    assert rows[1]["budgets"]["keep=0.5"]["difference"]["differs"] is None
    text = to_markdown(rows)
    assert "~ " not in text.split("Accuracy in %")[0]
    assert "**50.0**" in text
    assert "seeds |" not in text


def test_networks_of_unequal_multiply_adds_are_told() -> None:
    def told(*macs: int) -> str:
        made = [record(f"m{i}", 0, (90, 80), macs=m) for i, m in enumerate(macs)]
        return to_markdown(build_rows(lines_of(made)))

    assert "Unequal" not in told(40, 41)
    line = "Unequal multiply-adds: 20 to 40 % of the original's at keep=0.5, 20 to 40 % at keep=0.3"
    assert line in told(40, 30, 20)


def test_the_best_has_all_seeds() -> None:
    made = [record("a", seed, (50.0, 40.0)) for seed in (0, 1)]
    made.append(record("lucky", 1, (90.0, 90.0)))
    rows = build_rows(lines_of(made))
    by_name = {row["method"]: row for row in rows}
    assert by_name["a"]["budgets"]["keep=0.5"]["best"]
    assert by_name["lucky"]["budgets"]["keep=0.5"]["difference"]["pairs"] == 1
    assert "1 of 2" in to_markdown(rows)


def test_several_posteriors_are_named_and_one_is_told_below() -> None:
    other = Learned("normal", "symmetric:1", 0.1)
    one = record("cost", 0, (50.0, 40.0), posterior=POSTERIOR)
    assert "The posterior: dirichlet, symmetric:1, τ usual." in to_markdown(
        build_rows(lines_of([one]))
    )
    two = record("cost", 0, (50.0, 40.0), posterior=other)
    text = to_markdown(build_rows(lines_of([one, two])))
    assert "cost (normal, symmetric:1, τ 0.1)" in text
    # Without a rival there is no loss to compare with.
    assert build_rows(lines_of([one]))[0]["loss_removed"] is None


def test_nothing_to_compare() -> None:
    with pytest.raises(DirpruneError, match="no trial is finished"):
        build_rows([])


# -- files ----------------------------------------------------------------------------------------


def test_a_trial_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    assert TrialRecord.load(path) is None
    for made in (*three(), record("nuts", 3, (1.0, 2.0), learning=None)):
        made.save(path)
        assert TrialRecord.load(path) == made


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"trial": {}}', '{"trial": 3}'])
def test_a_damaged_file_says_so(content: str, tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    path.write_text(content)
    with pytest.raises(DirpruneError, match="damaged"):
        TrialRecord.load(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"test": 90.0', '"test": null'), ('"test": 90.0', '"test": NaN'),
        ('"test": 90.0', '"test": 1234.5'), ('"macs": 40', '"macs": "many"'),
    ],
)  # fmt: skip
def test_figures_that_nobody_measured_are_damage(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "trial.json"
    record("l1-norm", 0, (90.0, 80.0)).save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DirpruneError, match="damaged"):
        TrialRecord.load(path)


def test_trials_have_names_of_their_own_that_any_file_system_takes() -> None:
    trials = [
        Trial(method, posterior, seed, few)
        for method in ("l1-norm", "shapley:std=0", "l1-norm+rounds=6", "l1-norm+refine:steps=4")
        for posterior in (None, POSTERIOR, Learned("dirichlet", "alpha/K:1", 0.1))
        for seed in (0, 1)
        for few in (0, 500)
    ]
    names = {trial.name for trial in trials}
    assert len(names) == len(trials)
    assert not any(set(name) & set('/\\:*?"<>| ') for name in names)
