"""``dirprune run --refine`` and ``--reselect``: decisions that are searched for, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import dirprune
from dirprune.analysis.evidence import Evidence
from dirprune.analysis.subnetworks import posterior as sampler
from dirprune.analysis.subnetworks.posterior import inclusion
from dirprune.analysis.tree import load_tree
from dirprune.command import main

QUICK = [
    "--train-epochs", "4", "--svi-epochs", "2", "--finetune-epochs", "0", "--restarts", "1",
    "--no-null-control", "--evidence", "l1-norm",
]  # fmt: skip
LEAST = ["--compensate", "least-squares"]
Few = Callable[[], AbstractContextManager[None]]


def test_a_run_refines_its_decision(
    tmp_path: Path, with_few_draws: Few, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--budget", "keep=0.3", "--widths", "uniform", "--refine", "6"]
    with with_few_draws():
        assert main(["run", "--out", str(out), *QUICK, *words]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    refined = metrics["refined"]
    assert refined["steps"] == 6
    assert refined["log_prob"]["after"] > refined["log_prob"]["before"]
    decision = dirprune.Decision.load(out / "decision.json")
    plain = dirprune.decide(
        load_tree(out / "posterior.nc"), _norms(out), keep=0.3, widths="uniform"
    )
    assert {n: len(u) for n, u in decision.kept.items()} == {
        n: len(u) for n, u in plain.kept.items()
    }
    assert refined["chains"]["rhat"] > 0.9  # of chains that began at two searches
    page = (out / "report.html").read_text()
    assert "What the search changed" in page
    assert "share of draws of sub-networks that hold the unit" in page
    found = inclusion(load_tree(out / "subnetworks.nc"))
    for name, probability in decision.probability.items():
        assert probability.tolist() == found[name].tolist()
        # Every draw keeps as many units as the decision.
        assert float(probability.sum()) == pytest.approx(len(decision.kept[name]))
    assert metrics["predicted_accuracy"]["other_masks"] is None
    assert (out / "report.html").exists()


def test_a_run_chooses_its_units_anew(tmp_path: Path, with_few_draws: Few) -> None:
    out = tmp_path / "out"
    words = ["--budget", "keep=0.2", "--widths", "uniform", "--reselect", "2", *LEAST]
    with with_few_draws():
        assert main(["run", "--out", str(out), *QUICK, *words]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    told = metrics["reselected"]
    assert (told["sweeps"], len(told["log_prob"])) == (2, 3)
    # At a fifth of the units, norms are far from the best choice.
    assert told["chosen"] > 0
    assert told["log_prob"][told["chosen"]] == max(told["log_prob"]) > told["log_prob"][0]
    decision = dirprune.Decision.load(out / "decision.json")
    plain = dirprune.decide(
        load_tree(out / "posterior.nc"), _norms(out), keep=0.2, widths="uniform"
    )
    for name, units in decision.kept.items():
        assert len(units) == len(plain.kept[name])
    assert any(decision.kept[name].tolist() != plain.kept[name].tolist() for name in plain.kept)
    assert metrics["predicted_accuracy"]["other_masks"] is None
    page = (out / "report.html").read_text()
    assert "Chosen anew for reconstructed outputs" in page
    assert f" nats to {told['log_prob'][told['chosen']]:.4f}." in page
    changed = {
        n: len(set(decision.kept[n].tolist()) - set(plain.kept[n].tolist())) for n in plain.kept
    }
    assert told["swapped"] == changed


def _norms(out: Path) -> Evidence:
    return dirprune.evidence("l1-norm", None, load_tree(out / "posterior.nc"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--refine", "-1"], "--refine -1: expected a whole number of at least 0"),
        (["--refine", "5", "--rounds", "2"], "--refine 5 with --rounds 2"),
        (["--refine", "5", "--budget", "max_drop=1"], "--refine 5 with --budget max_drop=1"),
        (["--reselect", "-1"], "--reselect -1: expected a whole number of at least 0"),
        (["--reselect", "3"], "add --compensate least-squares"),
        (["--reselect", "3", *LEAST, "--rounds", "2"], "--reselect 3 with --rounds 2"),
        (["--reselect", "3", *LEAST, "--refine", "5"], "--reselect 3 with --refine 5"),
        (["--reselect", "3", *LEAST, "--budget", "max_drop=1"], "--reselect 3 with --budget"),
    ],
)
def test_what_does_not_go_together_is_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_decision_that_keeps_everything_is_left_as_it_is(
    tmp_path: Path, with_few_draws: Few, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("there is nothing to sample")

    monkeypatch.setattr(sampler, "step", never)
    monkeypatch.setattr("dirprune.command.run.write_report", lambda folder: None)
    out = tmp_path / "out"
    with with_few_draws():
        assert main(["run", "--out", str(out), *QUICK, "--budget", "keep=1", "--refine", "3"]) == 0
    assert "refined" not in json.loads((out / "metrics.json").read_text())
    assert not (out / "subnetworks.nc").exists()
