"""Every code block of the README runs, downloads aside, and its figures are those measured."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dirprune
from dirprune.analysis import sbc
from dirprune.command import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line]


def test_python_blocks_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With fewer epochs of SVI and fewer draws, which no figure below depends on."""

    def quick(module: Any, name: str, **options: Any) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, **k: function(*a, **{**k, **options}))

    quick(dirprune, "fit", epochs=4)
    quick(dirprune, "posterior", draws=50, images=50)
    quick(sbc, "sbc", steps=10)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    namespace: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    original, smaller = map(float, capsys.readouterr().out.splitlines()[0].split())
    # Seeds of this network lie between 97 and 99 %, before and after.
    assert original > 95
    assert smaller > 95
    model, decision = namespace["model"], namespace["decision"]
    assert model.costs.total("macs", decision.kept) <= 0.5 * model.costs.total("macs")
    assert namespace["votes"].shape == (5, 64)
    x = namespace["images"]
    with torch.no_grad():
        assert torch.equal(namespace["again"](x), namespace["smaller"](x))


@pytest.mark.usefixtures("few_draws")
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer epochs, on images and weights made here where the README has the reader's own."""
    monkeypatch.chdir(tmp_path)
    # The command report writes one again: one in four is enough, since each draws many pictures.
    monkeypatch.setattr("dirprune.command.run.write_report", lambda folder: None)
    torch.manual_seed(0)
    for part, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(folder / f"{i}.png")
    network = dirprune.build_network("resnet20", num_classes=2, in_channels=3, size=32)
    dirprune.save("saved", network)
    (tmp_path / "saved" / "network.safetensors").rename("resnet20.safetensors")
    (own,) = (block for block in blocks("python") if block.startswith("# nets.py\n"))
    (tmp_path / "nets.py").write_text(own)
    ran = 0
    for program, *arguments in commands():
        assert program == "dirprune"
        if "mnist" in arguments:
            continue  # a download
        # The last of an option counts.
        few = {
            "run": ["--train-epochs", "3", "--svi-epochs", "2", "--finetune-epochs", "1",
                    "--restarts", "1", "--no-null-control"],
            "compare": ["--seeds", "0", "--temperatures", "1", "--train-epochs", "2",
                        "--svi-epochs", "1", "--processes", "1"],
            "prior": ["--draws", "20"],
            "train": ["--train-epochs", "2", "--epochs", "2"],
        }.get(arguments[0], [])  # fmt: skip
        for searched in ("--refine", "--reselect"):
            if searched in arguments:
                few = [*few, searched, "2"]
        assert main([*arguments, *few]) == 0, arguments
        ran += 1
    assert ran == 23


def test_options_of_commands_that_need_a_download_exist(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    for _, *arguments in commands():
        for word in arguments:
            if word.startswith("--") and arguments[0] == "run":
                assert word in text


def test_tables_are_those_that_the_benchmarks_print() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    for name in (
        "truth",
        "temperature",
        "guide",
        "prior",
        "criteria",
        "uncertainty",
        "zoo",
        "latency",
    ):
        assert "\n".join(getattr(tables, f"{name}_table")()) in README, name


def test_figures_are_those_measured() -> None:
    """The table under "What was measured" says what the files in benchmarks/results say."""

    def result(name: str) -> Any:
        return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())

    steps = {r["network"]: r for r in result("step")["results"]}
    floor, first = "floor to the input", "floor to the first switch"
    errors = result("lenet5")["error_percent"]
    expected = [
        f"{result('demo')['wall_seconds']:.0f} s",
        f"{result('svi_epoch')['seconds']:.0f} s",
        *(f"{steps[n][f]['ratio_median']:.2f}" for n in steps for f in (first, floor)),
        *(f"{errors[s]['mean']:.2f} ± {errors[s]['sd']:.2f} %" for s in errors),
        f"{errors['finetuned']['worst']:.2f} %",
    ]
    measured = README.split("## What was measured")[1].split("\n## ")[0]
    for figure in expected:
        assert figure in measured, figure
    for name in ("demo", "svi_epoch", "step", "lenet5"):
        assert f"benchmarks/bench_{name}.py" in measured
        assert result(name)["command"].startswith(f"python benchmarks/bench_{name}.py")
