"""``dirprune train`` on real data: what it writes, says, refuses, and how it goes on."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import dirprune
from dirprune.command import main
from dirprune.inference import loop
from dirprune.inference.train_time.gibbs import GibbsMasked
from dirprune.inference.train_time.spp import SppMasked

SPP = ["train", "--method", "spp", "--train-epochs", "5", "--epochs", "4"]
KERNEL = ["train", "--method", "gibbs", "--structure", "kernel", "--epochs", "4"]
FILTER = ["train", "--method", "gibbs", "--ratio", "0.5", "--epochs", "3", "--include", "*"]


@pytest.fixture(autouse=True, scope="module")
def _few_rounds() -> Iterator[None]:
    """Seconds are not the point here."""
    from dirprune.command import train

    measure = train.measure_latency
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "measure_latency", lambda n, x: measure(n, x, rounds=5))
        yield


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of spp on the digits."""
    folder = tmp_path_factory.mktemp("spp") / "out"
    assert main([*SPP, "--out", str(folder)]) == 0
    return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def test_spp_leaves_a_smaller_network(pruned: Path) -> None:
    assert sorted(path.name for path in pruned.iterdir()) == [
        "decision.json", "history.json", "metrics.json", "original", "pruned", "settings.json",
    ]  # fmt: skip
    metrics = metrics_of(pruned)
    assert {
        "method", "seed", "seconds", "versions", "settings", "latency_ms", "accuracy_validation",
    } <= set(metrics)  # fmt: skip
    # Five epochs of training, then four of spp on 1,132 images; chance is 10 %.
    assert metrics["accuracy"]["original"] > 85
    assert metrics["accuracy"]["pruned"] > 85
    assert {s["name"]: s["kept"] for s in metrics["sites"]} == {"conv1": 8, "conv2": 16, "fc1": 32}
    # 8 x 9 + 8, 16 x 72 + 16, 32 x 256 + 32, 10 x 32 + 10
    assert metrics["params"] == {"before": 38_282, "after": 80 + 1168 + 8224 + 330}
    assert metrics["params_nonzero"]["after"] == metrics["params"]["after"]
    assert metrics["sparsity"]["network"] == pytest.approx(1 - 9802 / 38_282, abs=1e-6)
    # 64 pixels x 8 x 9, 64 x 16 x 72, and the linear layers once
    assert metrics["macs"]["after"] == 64 * 72 + 64 * 1152 + 8192 + 320
    assert metrics["settings"]["ratio"] == 0.5
    history = json.loads((pruned / "history.json").read_text())
    assert [len(history[stage]) for stage in ("training", "pruning")] == [5 * 9, 4 * 9]


def test_what_is_saved_is_what_was_measured(pruned: Path) -> None:
    network = dirprune.load(pruned / "pruned")
    test = dirprune.loader(dirprune.load_data("digits").test, 256)
    found = dirprune.evaluate(network, test).percent
    assert found == pytest.approx(metrics_of(pruned)["accuracy"]["pruned"], abs=1e-3)
    kept = dirprune.Decision.load(pruned / "decision.json").kept
    assert [len(units) for units in kept.values()] == [8, 16, 32]


def test_weights_of_one_are_what_another_begins_with(pruned: Path, tmp_path: Path) -> None:
    weights = pruned / "original" / "network.safetensors"
    out = tmp_path / "out"
    assert main([*FILTER, "--weights", str(weights), "--out", str(out)]) == 0
    metrics = metrics_of(out)
    assert metrics["accuracy"]["original"] == metrics_of(pruned)["accuracy"]["original"]
    assert json.loads((out / "history.json").read_text())["training"] == []
    # --include names layers, so that the first is pruned too.
    assert {s["name"]: s["kept"] for s in metrics["sites"]} == {"conv1": 8, "conv2": 16, "fc1": 32}


def test_zeros_are_told_from_a_smaller_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*KERNEL, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "untrained" in said
    assert "(after 4 epochs of gibbs)" in said
    assert "the file is no smaller and the network no faster" in said
    metrics = metrics_of(out)
    for size in ("macs", "params"):
        assert metrics[size]["after"] == metrics[size]["before"]
    zeros = sum(
        int((tensor == 0).sum())
        for tensor in load_file(out / "pruned" / "network.safetensors").values()
    )
    assert zeros == metrics["params"]["after"] - metrics["params_nonzero"]["after"]
    # 460 of 512 kernels of nine weights, and 29,491 of 32,768 single ones
    assert metrics["sparsity"]["layers"] == pytest.approx(
        {"conv1": 0, "conv2": 460 / 512, "fc1": 29_491 / 32_768, "fc2": 0}, abs=1e-6
    )
    assert not (out / "decision.json").exists()


NETS = """
from torch import nn


def make(num_classes, in_channels):
    first, second = nn.Conv2d(in_channels, 4, 3, bias=False), nn.Conv2d(4, 6, 3, bias=False)
    return nn.Sequential(
        first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, num_classes),
    )
"""


def test_a_network_of_ones_own_has_its_batch_norms_recalibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nets, out = tmp_path / "nets.py", tmp_path / "out"
    nets.write_text(NETS)
    arguments = ["train", "--method", "spp", "--network", f"{nets}:make", "--train-epochs", "1"]
    assert main([*arguments, "--epochs", "1", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    metrics = metrics_of(out)
    assert list(metrics["accuracy"]) == ["original", "pruned", "recalibrated"]
    assert f"recalibrated {metrics['accuracy']['recalibrated']:.2f} %" in said
    assert "not settled when the training ended, the likeliest units went: 0, 3" in said
    line = said.splitlines()[-1].removeprefix("in Python: ")
    assert line.startswith("dirprune.load(")
    network = eval(line, {"dirprune": dirprune})
    test = dirprune.loader(dirprune.load_data("digits").test, 128)
    assert dirprune.evaluate(network, test).percent == pytest.approx(
        metrics["accuracy"]["recalibrated"], abs=1e-3
    )


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [(KERNEL, GibbsMasked), pytest.param(SPP, SppMasked, marks=pytest.mark.slow)],
)
def test_an_interrupted_one_resumes_to_the_same_result(
    arguments: list[str],
    kind: type[Any],
    pruned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    whole, out = tmp_path / "whole", tmp_path / "out"
    if arguments is SPP:
        whole = pruned
    else:
        assert main([*arguments, "--out", str(whole)]) == 0
    draw, count = kind.draw, itertools.count()

    def interrupted(self: Any) -> dict[str, Tensor]:
        if next(count) == 20:
            raise KeyboardInterrupt
        return draw(self)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "draw", interrupted)
        assert main([*arguments, "--out", str(out)]) == 130
    assert not (out / "metrics.json").exists()
    assert main([*arguments, "--out", str(out)]) == 2
    assert "--resume goes on with it" in capsys.readouterr().err
    assert main([*arguments, "--out", str(out), "--resume", "--seed", "1"]) == 2
    assert "--seed was 0, now 1" in capsys.readouterr().err
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    for key in ("accuracy", "accuracy_validation", "sites", "sparsity", "notes"):
        assert metrics_of(out)[key] == metrics_of(whole)[key]
    ours, theirs = (load_file(f / "pruned" / "network.safetensors") for f in (out, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    # A finished one says the same again.
    said = capsys.readouterr().out
    assert main([*arguments, "--out", str(out), "--resume"]) == 0
    assert capsys.readouterr().out == said


def test_a_run_of_dirprune_run_is_not_taken_up(
    pruned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--out", str(pruned), "--resume"]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "gibs"], "unknown method 'gibs'; did you mean 'gibbs'? Known: gibbs, spp"),
        (["--method", "spp", "--structure", "filter"], "--structure filter is for --method gibbs"),
        (["--method", "gibbs", "--structure", "filters"], "unknown structure 'filters'"),
        (["--method", "gibbs", "--ratio", "1"], "--ratio 1.0: expected the share that goes"),
        (["--method", "gibbs", "--ratio", "nan"], "--ratio nan: expected the share"),
        (["--method", "spp", "--epochs", "0"], "--epochs 0: expected a whole number of at least 1"),
        (["--method", "spp", "--train-epochs", "-1"], "--train-epochs -1: expected"),
        (["--method", "spp", "--weights", "w", "--train-epochs", "2"], "which weights stand for"),
        (["--method", "gibbs", "--weights", "nowhere.pt"], "nowhere.pt"),
        (["--method", "gibbs", "--network", "lenet"], "unknown network 'lenet'"),
        (["--method", "gibbs", "--include", "conv1", "--exclude", "conv1"], "named by both"),
        (["--method", "gibbs", "--exclude", "conv2", "--exclude", "fc1"], "no other to prune"),
        (["--method", "gibbs", "--device", "tpu"], "--device 'tpu'"),
        (["--method", "gibbs", "--seed", "-1"], "--seed -1"),
        ([], "--method"),
    ],
)
def test_what_is_wrong_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["train", "--out", str(out), *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists() or not any(out.iterdir())


@pytest.mark.parametrize("content", ["{bad", "{}", "[]"])
def test_damaged_figures_are_told(
    pruned: Path, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "out"
    shutil.copytree(pruned, copy)
    (copy / "metrics.json").write_text(content)
    assert main([*SPP, "--out", str(copy), "--resume"]) == 2
    assert "metrics.json is damaged" in capsys.readouterr().err
