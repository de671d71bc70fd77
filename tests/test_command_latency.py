"""``--round-to`` and a budget in latency on the command line, on real data."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import dirprune
from dirprune.analysis.decision import latency_budget
from dirprune.analysis.tree import load_tree
from dirprune.command import main
from dirprune.command import run as run_module

ARGUMENTS = [
    "--budget", "latency=0.9", "--round-to", "4", "--no-null-control", "--restarts", "1",
    "--train-epochs", "3", "--svi-epochs", "2", "--finetune-epochs", "1",
]  # fmt: skip


def interrupt(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError("a resumed run chose its units again")


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    with_few_draws: Callable[[], AbstractContextManager[None]],
) -> tuple[Path, dict[str, Any]]:
    """A run under a budget in latency, interrupted in its fine-tuning and resumed."""
    folder = tmp_path_factory.mktemp("latency") / "out"
    with with_few_draws(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "finetune", interrupt)
        assert main(["run", "--out", str(folder), *ARGUMENTS]) == 130
    decision = json.loads((folder / "decision.json").read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency_budget, "measure_latency", refuse)
        assert main(["run", "--out", str(folder), *ARGUMENTS, "--resume"]) == 0
    return folder, decision


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def test_what_was_measured_is_stored_and_within_the_budget(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = finished
    metrics = metrics_of(folder)
    assert metrics["budget"] == {"latency": 0.9}
    assert metrics["settings"]["round_to"] == 4
    found = metrics["latency_budget"]
    assert found["share_quartiles"][1] <= 0.9
    assert found["after_ms"] <= 0.9 * found["before_ms"]
    assert (found["rounds"], found["batch"], found["threads"]) == (20, 128, 1)
    assert metrics["macs"]["after"] <= found["macs"] * metrics["macs"]["before"]
    # measured again after fine-tuning, for both networks in turns
    assert metrics["latency_rounds"] == 20
    assert (metrics["latency_batch"], metrics["latency_threads"]) == (128, 1)
    for key in ("latency_ms", "latency_iqr_ms"):
        assert set(metrics[key]) == {"before", "after"}
    share = metrics["latency_share"]
    assert 0 < share["low"] <= share["median"] <= share["high"]
    assert bool(metrics["warnings"]) == (share["median"] > 0.9)


def test_a_resumed_run_keeps_its_decision(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, before = finished
    assert json.loads((folder / "decision.json").read_text()) == before
    assert before["settings"]["latency"] == metrics_of(folder)["latency_budget"]
    assert before["settings"]["budget"] == {"latency": 0.9}
    assert before["settings"]["round_to"] == 4


def test_every_layer_has_a_multiple(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    pruned: Any = dirprune.load(folder / "pruned")
    widths = [pruned.conv1.out_channels, pruned.conv2.out_channels, pruned.fc1.out_features]
    assert [w % 4 for w in widths] == [0, 0, 0]
    assert widths == [site["kept"] for site in metrics_of(folder)["sites"]]


def test_the_page_says_what_was_asked_and_measured(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = finished
    page = re.sub(r"<[^>]*>", " ", (folder / "report.html").read_text())
    text = html.unescape(re.sub(r"\s+", " ", page))
    found = metrics_of(folder)["latency_budget"]
    assert "Budget: at most 90 % of the latency, in multiples of 4 channels; " in text
    assert f"{100 * found['macs']:.1f} % of the multiply-adds met it" in text
    assert f"(measured: {100 * found['share']:.1f} %, quartiles " in text
    assert "median, batch of 128 on 1 thread, in turns; interquartile range " in text


def test_the_file_decides_again_in_multiples(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finished
    out = tmp_path / "decision.json"
    command = ["decide", str(folder), "--budget", "macs=0.5", "--round-to", "8"]
    assert main([*command, "--out", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["budget"], said["round_to"]) == ({"macs": 0.5}, 8)
    assert 0 < said["macs"] <= 0.5
    assert {width % 8 for width in said["widths"].values()} == {0}
    assert dirprune.Decision.load(out).settings == {"budget": {"macs": 0.5}, "round_to": 8}
    # the multiply-adds that the search found give its decision again
    macs = metrics_of(folder)["latency_budget"]["macs"]
    command = ["decide", str(folder), "--budget", f"macs={macs}", "--round-to", "4"]
    assert main([*command, "--out", str(out), "--overwrite"]) == 0
    kept = dirprune.Decision.load(folder / "decision.json").kept
    again = dirprune.Decision.load(out).kept
    assert {n: u.tolist() for n, u in again.items()} == {n: u.tolist() for n, u in kept.items()}
    assert load_tree(folder / "posterior.nc") is not None


def test_an_impossible_latency_is_refused_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "train_network", refuse)
    out = tmp_path / "out"
    # A thousandth: there is no machine on which the call alone takes less.
    assert main(["run", "--out", str(out), "--budget", "latency=0.001"]) == 2
    error = capsys.readouterr().err
    assert "budget latency=0.001: not even the smallest network is within it: macs=" in error
    assert re.search(r"takes 0\.\d{3} of the original's latency \(quartiles 0\.\d{3} to ", error)
    assert "for a batch of 128 on 1 thread)" in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


BAD = {
    "zero": (["--budget", "latency=0"], "(0, 1]"),
    "two": (["--budget", "latency=2"], "(0, 1]"),
    "nan": (["--budget", "latency=nan"], "(0, 1]"),
    "with too few": (["--budget", "latency=0.5,keep=0.001"], "the smallest possible is keep="),
    "misspelt": (["--budget", "latncy=0.5"], "did you mean 'latency'"),
    "round to zero": (["--round-to", "0"], "--round-to 0: expected a whole number of at least 1"),
    "round to less": (["--round-to", "-1"], "--round-to -1: expected a whole number"),
    "round to a half": (["--round-to", "1.5"], "integer"),
    "round to all": (["--round-to", "512"], "the smallest possible is macs=1.0"),
}


@pytest.mark.parametrize(("options", "expected"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(
    options: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command", [["decide", "RUN", "--budget"], ["compare", "--budgets"]], ids=["decide", "compare"]
)
def test_where_nothing_can_be_measured_the_other_budgets_are_named(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "latency=0.5"]) == 2
    error = capsys.readouterr().err
    assert "latency is measured, on the network and alone on the machine" in error
    assert "macs, params, keep" in error
