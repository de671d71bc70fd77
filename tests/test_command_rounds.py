"""``dirprune run --rounds``: what it leaves, how it is resumed, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

import dirprune
from dirprune.analysis.decision import rounds as rounds_file
from dirprune.analysis.tree import load_tree
from dirprune.command import main

QUICK = [
    "--train-epochs", "4", "--svi-epochs", "3", "--finetune-epochs", "0", "--restarts", "1",
    "--no-null-control", "--budget", "keep=0.4", "--rounds", "3",
    "--evidence", "removal-cost:draws=5:images=40", "--compensate", "least-squares:images=200",
]  # fmt: skip
Few = Callable[[], AbstractContextManager[None]]


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, with_few_draws: Few) -> Path:
    """A run in three rounds on the digits, interrupted after the second one, and resumed."""
    folder = tmp_path_factory.mktemp("rounds") / "out"
    score, scored = rounds_file.score, []

    def interrupted(name: str, model: dirprune.SwitchedNetwork, *rest: Any) -> Any:
        scored.append(sum(site.size for site in model.sites.values()))
        if len(scored) == 3:
            raise KeyboardInterrupt
        return score(name, model, *rest)

    with with_few_draws(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds_file, "score", interrupted)
        assert main(["run", "--out", str(folder), *QUICK]) == 130
        assert not (folder / "decision.json").exists()
        assert main(["run", "--out", str(folder), *QUICK, "--resume"]) == 0
    # 112 units, 112 x 0.4^(1/3), 112 x 0.4^(2/3): the third round alone was made again
    assert scored == [112, 83, 61, 61]
    return folder


def test_what_stays_is_what_the_rounds_decided(finished: Path) -> None:
    metrics = metrics_of(finished)
    left = [sum(one["units"].values()) for one in metrics["rounds"]]
    assert left == [83, 61, 45]  # 112 x 0.4 = 44.8
    assert metrics["settings"]["rounds"] == 3
    assert {s["name"]: s["kept"] for s in metrics["sites"]} == metrics["rounds"][-1]["units"]
    assert [one["budget"]["keep"] for one in metrics["rounds"]] == pytest.approx(
        [0.4 ** (1 / 3), 0.4 ** (2 / 3), 0.4]
    )
    # The run's own posterior made the first cut: 3 epochs of 1,132 images; then 80 steps of 128,
    # 9 batches an epoch of which the last has 108.
    learned = [one["learning"]["forward"] for one in metrics["rounds"]]
    assert learned == [3 * 1132, 8 * 1132 + 8 * 128, 8 * 1132 + 8 * 128]
    assert "rounds" in metrics["seconds"]
    decision = dirprune.Decision.load(finished / "decision.json")
    assert (decision.settings["rounds"], decision.settings["guide"]) == (3, "dirichlet")
    assert decision.settings["evidence"] == "removal-cost:draws=5:images=40"
    assert {name: len(p) for name, p in decision.probability.items()} == {
        "conv1": 16, "conv2": 32, "fc1": 64,
    }  # fmt: skip


def test_what_is_saved_has_been_compensated_in_the_rounds(finished: Path) -> None:
    metrics = metrics_of(finished)
    pruned, decision = (
        dirprune.load(finished / "pruned"), dirprune.Decision.load(finished / "decision.json")
    )  # fmt: skip
    original = dirprune.load(finished / "original")
    model = dirprune.SwitchedNetwork(original, torch.zeros(2, 1, 8, 8), num_data=1132)
    cut = dirprune.prune(model, decision)
    shapes = {name: p.shape for name, p in pruned.named_parameters()}
    assert shapes == {name: p.shape for name, p in cut.named_parameters()}
    assert torch.equal(pruned.conv1.weight, cut.conv1.weight)  # type: ignore[union-attr,arg-type]
    assert not torch.equal(pruned.conv2.weight, cut.conv2.weight)  # type: ignore[union-attr,arg-type]
    # least squares over 200 images makes up for most of what 60 % of the units did
    accuracy = metrics["accuracy_validation"]
    assert accuracy["compensated"] > accuracy["pruned"]
    assert set(metrics["compensation"]) == {"least-squares:images=200"}
    # predicted of the network as it is cut, without an interval of other draws' decisions
    assert metrics["predicted_accuracy"]["other_masks"] is None
    assert metrics["predicted_accuracy"]["network"]["low"] <= accuracy["pruned"]


def test_the_posterior_is_of_all_units(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = load_tree(finished / "posterior.nc")
    assert {name: v.shape[-1] for name, v in tree["posterior"].to_dataset().items()} == {
        "conv1": 16, "conv2": 32, "fc1": 64,
    }  # fmt: skip
    # another decision from the file is one in one shot
    assert main(["decide", str(finished), "--budget", "keep=0.4"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "rounds" not in said
    assert sum(said["widths"].values()) == 45


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds 0: expected a whole number of at least 1"),
        (["--budget", "max_drop=1"], "--rounds 3 with --budget max_drop=1.0: that budget is met"),
        (["--budget", "macs=0.5,latency=0.7"], "--rounds 3 with --budget latency=0.7"),
        (
            ["--evidence", "l1-norm", "--compensate", "fold-gains"],
            "--compensate fold-gains needs a posterior in each round, and --evidence l1-norm",
        ),
    ],
)
def test_refused_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["run", "--out", str(tmp_path / "out"), *QUICK, *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
