"""Several budgets, widths, ``max_drop`` and the predicted accuracy on the command line."""

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
from dirprune.analysis.report.promises import budget
from dirprune.command import main
from dirprune.command.settings import parse_aim, parse_budget, parse_widths
from dirprune.model.errors import DirpruneError

QUICK = [
    "--train-epochs", "4", "--svi-epochs", "3", "--finetune-epochs", "0", "--restarts", "1",
    "--no-null-control",
]  # fmt: skip


# -- what is parsed --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("macs=0.5", {"macs": 0.5}),
        ("macs=0.5,params=0.2", {"macs": 0.5, "params": 0.2}),
        ("macs=0.5+params=0.2", {"macs": 0.5, "params": 0.2}),  # in a list with commas
        ("keep=1,latency=0.9", {"keep": 1.0, "latency": 0.9}),
        ("max_drop=0", {"max_drop": 0.0}),
        ("max_drop=2.5,macs=0.9", {"max_drop": 2.5, "macs": 0.9}),
    ],
)
def test_budgets(text: str, budgets: dict[str, float]) -> None:
    assert parse_budget(text, measured=True) == budgets


def test_widths() -> None:
    assert parse_widths(None) is None
    assert parse_widths("uniform") == "uniform"
    assert parse_widths("conv1=10, layer1.0.conv1=3") == {"conv1": 10, "layer1.0.conv1": 3}
    for text in ("conv1", "conv1=", "=3", "conv1=3.5", "conv1=-1", "conv1=3,", ""):
        with pytest.raises(DirpruneError, match="expected uniform, or SITE=UNITS"):
            parse_widths(text)


def test_given_widths_take_the_place_of_a_budget() -> None:
    assert parse_aim(None, "conv1=3") == ({}, {"conv1": 3})
    assert parse_aim("macs=0.5", "uniform") == ({"macs": 0.5}, "uniform")
    with pytest.raises(DirpruneError, match=r"expected --budget, as in macs=0.5, or --widths"):
        parse_aim(None, None)
    with pytest.raises(DirpruneError, match="expected --budget"):
        parse_aim(None, "uniform")


# -- runs on real data -----------------------------------------------------------------------------

Few = Callable[[], AbstractContextManager[None]]


def run(folder: Path, few: Few, *options: str) -> dict[str, Any]:
    with few():
        assert main(["run", "--out", str(folder), *QUICK, *options]) == 0
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def dropped(
    tmp_path_factory: pytest.TempPathFactory, with_few_draws: Few
) -> tuple[Path, dict[str, Any]]:
    """A run under a loss of accuracy and a share of the parameters."""
    folder = tmp_path_factory.mktemp("drop") / "out"
    return folder, run(folder, with_few_draws, "--budget", "max_drop=4,params=0.7")


def text_of(folder: Path) -> str:
    page = re.sub(r"<[^>]*>", " ", (folder / "report.html").read_text())
    return html.unescape(re.sub(r"\s+", " ", page))


def test_both_budgets_hold(dropped: tuple[Path, dict[str, Any]]) -> None:
    folder, metrics = dropped
    assert metrics["budget"] == {"max_drop": 4.0, "params": 0.7}
    assert metrics["params"]["after"] <= 0.7 * metrics["params"]["before"]
    accuracy, found = metrics["accuracy_validation"], metrics["max_drop"]
    lost = accuracy["original"] - accuracy["pruned"]
    assert lost <= 4
    # 63 images in each half of 126
    assert (found["images_choosing"], found["images_confirming"]) == (63, 63)
    mean = (found["loss_choosing"] + found["loss_confirming"]) / 2
    assert lost == pytest.approx(mean, abs=1e-3)  # accuracies are written with four digits
    assert found["loss_upper"] > found["loss_confirming"]
    assert metrics["macs"]["after"] <= found["macs"] * metrics["macs"]["before"]
    page = text_of(folder)
    assert "Budget: at most 4.0 points of accuracy lost" in page
    assert "at most 70 % of the parameters" in page
    assert "from its mask on 63 validation images" in page
    assert f"at most {found['loss_upper']:.2f} points are lost on images of the kind" in page


def test_the_prediction_is_from_the_images_that_did_not_choose(
    dropped: tuple[Path, dict[str, Any]],
) -> None:
    folder, metrics = dropped
    predicted = metrics["predicted_accuracy"]
    assert (predicted["images"], predicted["new_images"]) == (63, 539)
    decision = dirprune.Decision.load(folder / "decision.json")
    assert decision.settings["predicted_accuracy"] == predicted
    # Of the 63 that confirmed, by the figures themselves: Jeffreys' mean of the count.
    number = (predicted["network"]["mean"] / 100 * 64) - 0.5
    assert number == pytest.approx(round(number), abs=1e-6)
    for name in ("network", "under_draws", "other_masks"):
        interval = predicted[name]
        assert 0 <= interval["low"] <= interval["high"] <= 100


def test_the_summary_says_what_was_promised_and_what_came(
    dropped: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, metrics = dropped
    arguments = ["run", "--out", str(folder), *QUICK, "--budget", "max_drop=4,params=0.7"]
    assert main([*arguments, "--resume"]) == 0
    said = capsys.readouterr().out
    assert f"it was {metrics['accuracy']['pruned']:.2f} %" in said
    assert "from 63 validation images" in said
    assert "on the two halves of the validation images (4 allowed)" in said


def test_given_widths_are_what_is_cut(
    tmp_path: Path, with_few_draws: Few, capsys: pytest.CaptureFixture[str],
    dropped: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("dirprune.command.run.write_report", lambda folder: None)
    weights = dropped[0] / "original" / "network.safetensors"
    out = tmp_path / "out"
    metrics = run(out, with_few_draws, "--weights", str(weights), "--widths", "conv1=5,fc1=20")
    assert {s["name"]: s["kept"] for s in metrics["sites"]} == {"conv1": 5, "conv2": 32, "fc1": 20}
    assert (metrics["budget"], metrics["widths"]) == ({}, {"conv1": 5, "fc1": 20})
    assert metrics["predicted_accuracy"]["images"] == 126
    assert budget(metrics) == "given widths"
    capsys.readouterr()
    # and again from the file alone, by other rules
    assert main(["decide", str(out), "--budget", "macs=0.5,params=0.2"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["budget"] == {"macs": 0.5, "params": 0.2}
    assert said["macs"] <= 0.5
    assert said["params"] <= 0.2
    assert main(["decide", str(out), "--budget", "keep=0.25", "--widths", "uniform"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["widths"], said["share"]) == ({"conv1": 4, "conv2": 8, "fc1": 16}, 0.25)
    assert main(["decide", str(out), "--widths", "conv2=7"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["widths"] == {"conv1": 16, "conv2": 7, "fc1": 64}
    for options, expected in (
        (["--budget", "max_drop=1"], "accuracy is measured, on the network and validation images"),
        (["--widths", "conv7=7"], "'conv7'"),
        ([], "expected --budget, as in macs=0.5"),
    ):
        assert main(["decide", str(out), *options]) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert len(error.splitlines()) == 1
