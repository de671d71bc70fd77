"""``--flatten`` on the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import dirprune
from dirprune.command import main
from dirprune.model.cost import count_params
from dirprune.model.selected import SelectedLinear

QUICK = [
    "--train-epochs", "3", "--svi-epochs", "2", "--finetune-epochs", "1", "--restarts", "1",
    "--no-null-control", "--flatten", "features",
]  # fmt: skip


def test_info_lists_the_features(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "lenet5", "--flatten", "features", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (site,) = (site for site in found["sites"] if site["name"] == "fc1.inputs")
    assert (site["units"], site["producers"], site["consumers"]) == (800, [], ["fc1"])
    # With one feature left fc1 has 500 weights of 400,000, and conv2 one of 50 channels.
    assert site["params_share"] == pytest.approx((799 * 500 + 49 * 501) / 431_080)


def test_an_unknown_kind_is_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--flatten", "pixels", "--out", str(tmp_path / "run")]) == 2
    assert "unknown --flatten 'pixels'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_whole_job(tmp_path: Path, few_draws: None, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    assert main(["run", *QUICK, "--budget", "params=0.1", "--out", str(folder)]) == 0
    assert "fc1.inputs 512 -> " in capsys.readouterr().out
    metrics = json.loads((folder / "metrics.json").read_text())
    kept = {site["name"]: site["kept"] for site in metrics["sites"]}
    network: Any = dirprune.load(folder / "pruned")
    assert isinstance(network.fc1, SelectedLinear)
    assert network.fc1.in_features == kept["fc1.inputs"]
    assert network.conv2.out_channels == kept["conv2"]
    assert count_params(network) == metrics["params"]["after"] <= 0.1 * metrics["params"]["before"]
    widths = "conv1=8,conv2=10,fc1.inputs=40,fc1=16"
    assert main(["decide", str(folder), "--widths", widths]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["widths"] == {"conv1": 8, "conv2": 10, "fc1.inputs": 40, "fc1": 16}


COMPARE = [
    "compare", "--flatten", "features", "--train-epochs", "2", "--svi-epochs", "1", "--seeds", "0",
    "--processes", "1",
]  # fmt: skip


def test_posteriors_of_features_are_compared(
    tmp_path: Path, few_draws: None, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *COMPARE, "--guides", "dirichlet", "--temperatures", "1", "--budgets", "params=0.1",
        "--out", str(tmp_path / "grid"),
    ]  # fmt: skip
    assert main(words) == 0
    (path,) = (tmp_path / "grid" / "cells").glob("*/cell.json")
    cell = json.loads(path.read_text())
    assert len(cell["scores"]["fc1.inputs"]) == 512
    kept = cell["kept"]["params=0.1"]
    features, channels = kept["fc1.inputs"], kept["conv2"]
    assert {unit // 16 for unit in features} == set(channels)  # 16 of each
    assert len(features) < 16 * len(channels)
    assert (tmp_path / "grid" / "figures" / "forest_fc1.inputs.png").exists()
    # A posterior over channels would be another one.
    capsys.readouterr()
    words[words.index("features")] = "channels"
    assert main([*words, "--resume"]) == 2
    assert "--flatten was 'features', now 'channels'" in capsys.readouterr().err


def test_methods_that_choose_features_are_compared(tmp_path: Path, few_draws: None) -> None:
    folder = tmp_path / "methods"
    words = [
        *COMPARE, "--evidence", "mean,l1-norm,l1-norm+refine:steps=2:images=32", "--widths",
        "uniform", "--budgets", "keep=0.25", "--compensate", "none,least-squares",
        "--out", str(folder),
    ]  # fmt: skip
    assert main(words) == 0
    with (folder / "comparison.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 3 * 2
    for line in lines:
        widths = dict(part.rsplit(":", 1) for part in line["widths"].split())
        assert widths["conv2"] == "8"
        # A quarter of 512, or as many as the channels that stay have.
        assert 8 <= int(widths["fc1.inputs"]) <= 128
    assert json.loads((folder / "grid.json").read_text())["shared"]["flatten"] == "features"


def test_compare_refuses_an_unknown_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for evidence in ("removal-cost", "mean,l1-norm"):
        words = ["compare", "--flatten", "pixels", "--evidence", evidence]
        assert main([*words, "--out", str(tmp_path / "out")]) == 2
        assert "unknown --flatten 'pixels'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
