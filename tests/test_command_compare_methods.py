"""``dirprune compare`` of methods: small comparisons end to end on the digits, and bad input."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dirprune.analysis.compare.outcome import TrialRecord
from dirprune.command import compare_methods as command
from dirprune.command import main, trial_parts
from dirprune.inference.fit import fit
from dirprune.model.errors import DirpruneError

QUICK = ["--train-epochs", "2", "--svi-epochs", "1", "--processes", "1", "--widths", "uniform"]
METHODS = "removal-cost:draws=2:images=32,mean,l1-norm"
WORDS = [
    "compare", "--evidence", METHODS, "--budgets", "keep=0.5,keep=0.25", "--seeds", "0,1", *QUICK,
]  # fmt: skip
POSTERIOR = "dirichlet_symmetric-1_tau-usual"


def arms(folder: Path) -> list[dict[str, Any]]:
    """The lines of comparison.json."""
    found: list[dict[str, Any]] = json.loads((folder / "comparison.json").read_text())["arms"]
    return found


def times(folder: Path) -> dict[str, int]:
    """When each trial was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("trials/*/trial.json")}


@pytest.fixture(scope="module")
def learned() -> Iterator[list[int]]:
    """The calls of ``fit`` that had something to learn."""
    calls: list[int] = []

    def counted(*args: Any, **options: Any) -> Any:
        path = options["checkpoint"]
        there = path.with_name(f"{path.name}.0").exists()
        found = fit(*args, **options)
        if not there:
            calls.append(found.examples or 0)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_parts, "fit", counted)
        yield calls


@pytest.fixture(scope="module")
def finished(learned: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods, two of which share a posterior, on two networks."""
    folder = tmp_path_factory.mktemp("methods") / "out"
    assert main([*WORDS, "--out", str(folder)]) == 0
    assert len(learned) == 2  # one for each network, not for each method
    return folder


def test_a_comparison_leaves_its_files_and_nothing_half_done(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "comparison.csv", "comparison.json", "figures", "grid.json", "networks", "posteriors",
        "trials",
    ]  # fmt: skip
    assert sorted(times(finished)) == sorted(
        f"{name}_seed-{seed}"
        for name in (f"removal-cost-draws-2-images-32_{POSTERIOR}", f"mean_{POSTERIOR}", "l1-norm")
        for seed in (0, 1)
    )
    assert sorted(path.name for path in (finished / "figures").iterdir()) == [
        "accuracy-cost_one-shot_none.png", "accuracy-macs_one-shot_none.png",
    ]  # fmt: skip
    assert {path.name for path in finished.glob("trials/*/*")} == {"trial.json"}


def test_figures_of_every_method_budget_and_seed(finished: Path) -> None:
    with (finished / "comparison.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 3 * 2 * 2
    for line in lines:
        widths = dict(part.split(":") for part in line["widths"].split())
        share = float(line["budget"].removeprefix("keep="))
        assert {site: int(k) for site, k in widths.items()} == {
            "conv1": 16 * share, "conv2": 32 * share, "fc1": 64 * share,
        }  # fmt: skip
        assert 0 < int(line["macs"]) < float(line["macs_before"])
        assert 0 <= float(line["accuracy_test"]) <= 100
        assert line["accuracy_test_untrained"] == ""
        assert line["rival"] == str(line["method"] == "l1-norm")
        # 32 images under 2 draws, forward and backward; the posterior saw 1,132 images once.
        costs = [line[f"forwards_{what}"] for what in ("scoring", "learning", "total")]
        learning = 3 * 1132
        assert costs == {
            "removal-cost:draws=2:images=32": ["192", str(learning), str(192 + learning)],
            "mean": ["0", str(learning), str(learning)],
            "l1-norm": ["0", "0", "0"],
        }[line["method"]]  # fmt: skip


def test_the_table_tells_methods_and_networks(
    finished: Path, learned: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    before, fits = times(finished), len(learned)
    assert main([*WORDS, "--out", str(finished), "--resume"]) == 0
    said = capsys.readouterr()
    assert re.fullmatch(r"dirprune: trials: 6 finished in \d+ s\n", said.err)
    assert "**one-shot, nothing compensated**" in said.out
    assert said.out.count("\n| l1-norm ") == 1
    assert "The posterior: dirichlet, symmetric:1, τ usual." in said.out
    assert "% of the test images" in said.out
    assert times(finished) == before  # and nothing was made again
    assert len(learned) == fits
    rows = json.loads((finished / "comparison.json").read_text())["rows"]
    assert {row["method"] for row in rows} == set(METHODS.split(","))
    for row in rows:
        tests = [a["accuracy_test"] for a in arms(finished) if a["method"] == row["method"]]
        assert row["mean"]["mean"] == pytest.approx(sum(tests) / len(tests))


def test_a_comparison_can_grow(finished: Path, learned: list[int], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before, fits = times(out), len(learned)
    old = {(a["method"], a["seed"], a["budget"]): a["accuracy_test"] for a in arms(out)}
    more = [*WORDS, "--evidence", "random,l1-norm", "--compensate", "none,least-squares"]
    assert main([*more, "--out", str(out), "--resume"]) == 0
    after = times(out)
    assert {name for name in before if after[name] != before[name]} == {
        "l1-norm_seed-0", "l1-norm_seed-1",
    }  # fmt: skip
    assert set(after) - set(before) == {"random_seed-0", "random_seed-1"}
    assert len(learned) == fits
    found = arms(out)
    assert len(found) == 12 + 4 + 8
    for a in found:
        key = (a["method"], a["seed"], a["budget"])
        if a["compensation"] == "none" and key in old:
            assert a["accuracy_test"] == old[key]
    axes = json.loads((out / "grid.json").read_text())["axes"]
    assert axes["evidence"] == [*METHODS.split(","), "random"]
    assert axes["compensate"] == ["usual", "none", "least-squares"]


def test_an_interrupted_trial_goes_on_where_it_was(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    path = out / "trials" / "l1-norm_seed-0" / "trial.json"
    whole = TrialRecord.load(path)
    assert whole is not None
    half = TrialRecord.load(path)
    assert half is not None
    del half.arms[1:], half.chosen["keep=0.25"]
    half.save(path)
    assert main([*WORDS, "--out", str(out), "--resume"]) == 0
    again = TrialRecord.load(path)
    assert again is not None
    assert [a.accuracy for a in again.arms] == [a.accuracy for a in whole.arms]
    assert again.chosen["keep=0.25"].kept == whole.chosen["keep=0.25"].kept


def test_damaged_trials_are_made_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    # One holds what is another's, the other is cut short.
    shutil.copy(
        out / "trials" / "l1-norm_seed-0" / "trial.json",
        out / "trials" / f"mean_{POSTERIOR}_seed-1" / "trial.json",
    )
    (out / "trials" / "l1-norm_seed-0" / "trial.json").write_text("{")
    words = [*WORDS, "--evidence", "l1-norm,mean", "--seeds", "0"]
    assert main([*words, "--out", str(out), "--resume"]) == 0
    made, _, left_out = capsys.readouterr().err.splitlines()
    assert made.endswith("these trials are damaged and are made again: l1-norm_seed-0")
    assert "of an earlier call are damaged and left out" in left_out
    assert left_out.endswith(f": mean_{POSTERIOR}_seed-1")
    assert [a["accuracy_test"] for a in arms(out) if a["method"] == "l1-norm"] == [
        a["accuracy_test"] for a in arms(finished) if a["method"] == "l1-norm"
    ]


def test_the_protocols_that_train(
    finished: Path, learned: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, fits = tmp_path / "out", len(learned)
    words = [*WORDS, "--evidence", "fisher:images=8,mean,l1-norm+rounds=2", "--budgets", "keep=0.5"]
    words += ["--protocol", "low-data,finetune,scratch", "--finetune-epochs", "1", "--seeds", "0"]
    assert main([*words, "--low-data", "100", "--out", str(out)]) == 0
    found = arms(out)
    assert len(found) == 9
    # With few images the posterior is another: of those, and of them alone.
    assert learned[fits:] == [100, 1132]
    names = [path.name for path in out.glob("posteriors/*.json")]
    assert sorted(names) == [
        f"svi_{POSTERIOR}_few-100_seed-0.json", f"svi_{POSTERIOR}_seed-0.json",
    ]  # fmt: skip
    for a in found:
        assert a["accuracy_test_untrained"] is not None
        assert a["seconds_training"] > 0
        if a["protocol"] == "scratch":
            assert a["accuracy_test_untrained"] < 40  # fresh weights, ten classes
        if a["method"] == "mean":
            assert a["forwards_learning"] == 3 * (100 if a["protocol"] == "low-data" else 1132)
        # A percentage of 100 validation images is whole.
        whole = a["accuracy_validation"] == round(a["accuracy_validation"])
        assert whole or a["protocol"] != "low-data"
    better = [a["accuracy_test"] - a["accuracy_test_untrained"] for a in found]
    assert max(better) > 5  # one epoch at a learning rate that teaches
    # Fine-tuned and from scratch, the units are the same.
    widths = {a["protocol"]: a["macs"] for a in found if a["method"] == "l1-norm+rounds=2"}
    assert widths["finetune"] == widths["scratch"]
    assert not list(out.glob("trials/*/*.checkpoint"))
    said = capsys.readouterr().out
    for title in ("low-data, nothing compensated", "finetune, nothing compensated", "scratch"):
        assert f"**{title}**" in said


def test_given_weights_are_scored_on_other_images_under_each_seed(
    finished: Path, tmp_path: Path
) -> None:
    weights = str(finished / "networks" / "seed-0" / "network.safetensors")
    words = [*WORDS, "--evidence", "fisher:images=8,l1-norm", "--weights", weights]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    kept = {}
    for path in (tmp_path / "out").glob("trials/*/trial.json"):
        record = TrialRecord.load(path)
        assert record is not None
        kept[path.parent.name] = record.chosen["keep=0.5"].kept
    assert kept["l1-norm_seed-0"] == kept["l1-norm_seed-1"]
    assert kept["fisher-images-8_seed-0"] != kept["fisher-images-8_seed-1"]


def test_trained_networks_may_be_put_there(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished / "networks", out / "networks")
    before = {p: p.stat().st_mtime_ns for p in out.glob("networks/*/*")}
    assert main([*WORDS, "--evidence", "l1-norm,random", "--out", str(out)]) == 0
    assert {p: p.stat().st_mtime_ns for p in out.glob("networks/*/*")} == before
    assert [a["accuracy_test"] for a in arms(out) if a["method"] == "l1-norm"] == [
        a["accuracy_test"] for a in arms(finished) if a["method"] == "l1-norm"
    ]
    capsys.readouterr()
    (tmp_path / "mine" / "networks" / "router").mkdir(parents=True)
    assert main([*WORDS, "--out", str(tmp_path / "mine")]) == 2
    assert "holds networks, but not of dirprune compare" in capsys.readouterr().err


def test_a_method_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn, words = command.learn_posterior, [*WORDS, "--seeds", "0", "--out", str(tmp_path)]

    def fails(task: Any) -> None:
        raise RuntimeError("no posterior today")

    monkeypatch.setattr(command, "learn_posterior", fails)
    assert main(words) == 1
    said = capsys.readouterr()
    *told, line = said.err.splitlines()
    assert [t[: t.index(" in ")] for t in told] == [
        "dirprune: networks: 1 finished", "dirprune: posteriors: 1 failed",
        "dirprune: trials: 1 finished",
    ]  # fmt: skip
    assert line.startswith("dirprune: 2 of 3 trials failed: ")
    assert "no posterior today" in line
    assert said.out.count("\n| l1-norm ") == 1
    error = json.loads((tmp_path / "trials" / f"mean_{POSTERIOR}_seed-0/error.json").read_text())
    assert "Traceback" in error["details"]
    # Mended, --resume makes those alone.
    monkeypatch.setattr(command, "learn_posterior", learn)
    before = times(tmp_path)
    assert main([*words, "--resume"]) == 0
    assert before.items() <= times(tmp_path).items()
    assert len(times(tmp_path)) == 3
    assert not list(tmp_path.glob("trials/*/error.json"))


def test_a_budget_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choose = command.Chooser.choose

    def fails(self: Any, budget: Any) -> Any:
        if budget == {"keep": 0.5}:
            raise DirpruneError("not this one")
        return choose(self, budget)

    monkeypatch.setattr(command.Chooser, "choose", fails)
    words = [*WORDS, "--evidence", "l1-norm,random", "--seeds", "0", "--out", str(tmp_path)]
    assert main(words) == 1
    assert "keep=0.5: not this one" in capsys.readouterr().err
    assert {arm["budget"] for arm in arms(tmp_path)} == {"keep=0.25"}
    monkeypatch.setattr(command.Chooser, "choose", choose)
    assert main([*words, "--resume"]) == 0
    assert {arm["budget"] for arm in arms(tmp_path)} == {"keep=0.25", "keep=0.5"}


def test_posteriors_and_methods_do_not_share_a_folder(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posteriors = ["compare", "--seeds", "0", *QUICK, "--out", str(finished)]
    for option in ([], ["--resume"]):
        assert main([*posteriors, *option]) == 2
        assert "holds a comparison of methods, and this is one of post" in capsys.readouterr().err
    assert main([*WORDS, "--out", str(finished)]) == 2
    assert "holds a grid already: --resume" in capsys.readouterr().err
    assert main([*WORDS, "--svi-epochs", "2", "--out", str(finished), "--resume"]) == 2
    assert "--svi-epochs was 1, now 2" in capsys.readouterr().err
    # Of a grid that was made before there were methods to compare.
    shared = {"network": "digits-cnn"}
    axes: dict[str, list[Any]] = {"guides": [], "priors": [], "temperatures": [], "seeds": []}
    (tmp_path / "grid.json").write_text(json.dumps({"shared": shared, "axes": axes}))
    assert main([*WORDS, "--out", str(tmp_path), "--resume"]) == 2
    assert "holds a comparison of posteriors" in capsys.readouterr().err


BAD = {
    "criterion": (["--evidence", "l1-norm,l2norm"], "did you mean 'l2-norm'"),
    "twice": (["--evidence", "shapley,shapley:std=2"], "twice, as 'shapley' and 'shapley:std=2'"),
    "stage": (["--evidence", "l1-norm+round=6"], "did you mean 'rounds'"),
    "stage order": (["--evidence", "l1-norm+refine+rounds"], "right behind the criterion"),
    "protocol": (["--protocol", "one-shoot"], "did you mean 'one-shot'"),
    "protocol twice": (["--protocol", "scratch,scratch"], "--protocol names 'scratch' twice"),
    "compensation": (["--compensate", "none,least_squares"], "did you mean 'least-squares'"),
    "compensation twice": (["--compensate", "none,none"], "--compensate names 'none' twice"),
    "budget twice": (["--budgets", "keep=0.5,keep=0.50"], "'keep=0.5' twice"),
    "budget": (["--budgets", "macs=0.00001"], "the smallest possible"),
    "seeds": (["--seeds", "0,0"], "twice"),
    "too few": (["--low-data", "0"], "--low-data 0: expected a whole number of at least 1"),
    "few for nothing": (["--low-data", "100"], "--low-data 100 is for --protocol low-data"),
    "too many": (
        ["--protocol", "low-data", "--low-data", "5000"], "has 1132 training images, expected fewer"
    ),
    "no norms": (["--evidence", "bn-scale,l1-norm"], "batch"),
    "no concentrations": (
        ["--guides", "normal", "--evidence", "concentration,mean"], "'normal' has no conc",
    ),
    "epochs": (["--finetune-epochs=-1"], "at least 0"),
    "processes": (["--processes", "0"], "at least 1"),
    "gains": (
        ["--evidence", "l1-norm,l2-norm", "--compensate", "none,fold-gains"],
        "folds the gains of a posterior, and --evidence l1-norm learns none",
    ),
    "options of a stage": (
        ["--evidence", "l1-norm+refine,l1-norm+refine:steps=80"], "twice, as",
    ),
    "compensate alone": (
        ["--evidence", "l1-norm", "--compensate", "none"], "--compensate is for methods",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*WORDS, "--out", str(out), *options]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
    assert said.startswith("dirprune: ")
    assert not out.exists()
