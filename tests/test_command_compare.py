"""``dirprune compare``: small grids end to end on the digits, and what it says to bad input."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from dirprune.analysis.compare import load_cell, pointwise_elpd
from dirprune.analysis.compare.cell import is_damaged
from dirprune.analysis.tree import load_tree
from dirprune.command import compare as command
from dirprune.command import compare_networks as networks
from dirprune.command import grid, main
from dirprune.command.settings import Settings
from dirprune.command.workers import WorkerDiedError
from dirprune.guides import GUIDES, AutoDirichlet, Family
from dirprune.inference.data import ImageData

# A second or so for a network and for a cell; every stage runs.
QUICK = ["--train-epochs", "2", "--svi-epochs", "1"]
ONE = ["--guides", "dirichlet", "--temperatures", "1", "--seeds", "0", "--processes", "1", *QUICK]
GRID = [
    "--guides", "dirichlet,normal", "--priors", "symmetric:1", "--temperatures", "1",
    "--seeds", "0,1", "--budgets", "macs=0.5,keep=0.25", *QUICK,
]  # fmt: skip
NAMES = [f"{guide}_symmetric-1_tau-1_seed-{s}" for guide in ("dirichlet", "normal") for s in (0, 1)]


@pytest.fixture(scope="module", autouse=True)
def _few_draws(with_few_draws: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """For all cells that are made in this process."""
    with with_few_draws():
        yield


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Every cell.json."""
    paths = sorted((folder / "cells").glob("*/cell.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


@pytest.fixture(scope="module")
def finished(_few_draws: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished grid: two guides, two networks. The test images are not there to be read."""
    folder = tmp_path_factory.mktemp("compare") / "out"
    read = command.read_data

    def without_test(s: Settings) -> ImageData:
        return replace(read(s), test=None)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        for module in (networks, command, grid):
            patch.setattr(module, "read_data", without_test)
        assert main(["compare", *GRID, "--processes", "1", "--out", str(folder)]) == 0
    return folder


# -- a grid ---------------------------------------------------------------------------------------


def test_a_grid_leaves_its_files_and_nothing_half_done(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "cells", "comparison.csv", "comparison.json", "figures", "grid.json", "networks",
    ]  # fmt: skip
    assert sorted(path.name for path in (finished / "networks").iterdir()) == ["seed-0", "seed-1"]
    assert sorted(records(finished)) == NAMES
    assert sorted(path.name for path in (finished / "figures").iterdir()) == [
        "accuracy_keep-0.25.png", "accuracy_macs-0.5.png", "agreement_tau-1.png", "elpd.png",
        "forest_conv1.png", "forest_conv2.png", "forest_fc1.png",
    ]  # fmt: skip


def test_a_cell_holds_what_its_figures_come_from(finished: Path) -> None:
    result = load_cell(finished / "cells" / NAMES[0])
    assert result is not None
    assert np.allclose(
        result.elpd, pointwise_elpd(load_tree(finished / "cells" / NAMES[0] / "posterior.nc")),
        atol=1e-6,  # as rounded in the file
    )  # fmt: skip
    assert len(result.elpd) == 126  # all validation images
    assert {site: len(v) for site, v in result.scores.items()} == {
        "conv1": 16, "conv2": 32, "fc1": 64,
    }  # fmt: skip
    assert sum(map(len, result.kept["keep=0.25"].values())) == 28  # a quarter of 112
    assert set(result.accuracy) == {"original", "macs=0.5", "keep=0.25"}
    assert result.accuracy["macs=0.5"]["recalibrated"] is None  # it has no batch norm
    assert result.khat is not None
    assert result.elbo is not None
    assert result.elbo < 0


def test_the_table_agrees_with_the_cells(finished: Path) -> None:
    table = json.loads((finished / "comparison.json").read_text())
    cells = records(finished)
    assert [row["seeds"] for row in table["rows"]] == [[0, 1], [0, 1]]
    first, second = table["rows"]
    for row in (first, second):
        means = [
            np.mean(cells[f"{row['guide']}_symmetric-1_tau-1_seed-{s}"]["elpd"]) for s in (0, 1)
        ]
        assert row["elpd"]["mean"] == pytest.approx(np.mean(means))
        assert row["elpd"]["sd"] == pytest.approx(np.std(means, ddof=1))
    assert first["elpd"]["mean"] >= second["elpd"]["mean"]
    assert first["difference"] == {"mean": 0.0, "se": None}
    assert second["difference"]["mean"] == pytest.approx(
        second["elpd"]["mean"] - first["elpd"]["mean"]
    )
    assert second["difference"]["se"] > 0
    assert first["tau"]["mean"] == 1
    assert 0 < second["tau"]["mean"] < 1
    (matrix,) = table["agreement"]
    assert matrix["guides"] == ["dirichlet", "normal"]
    # Between guides the matrix holds the same mean of tau as the table.
    assert matrix["value"][0][1] == pytest.approx(second["tau"]["mean"], abs=1e-4)
    assert matrix["low"][0][1] < matrix["value"][0][1] < matrix["high"][0][1]
    with (finished / "comparison.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 4
    assert {line["guide"] for line in lines} == {"dirichlet", "normal"}


def test_the_network_of_a_seed_is_that_of_a_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dirprune.command.run.write_report", lambda folder: None)
    run = ["run", "--out", str(tmp_path), "--seed", "1", *QUICK, "--finetune-epochs", "0"]
    assert main([*run, "--restarts", "1", "--no-null-control"]) == 0
    ours, theirs = (
        load_file(folder / "network.safetensors")
        for folder in (finished / "networks" / "seed-1", tmp_path / "original")
    )
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def test_resume_of_a_finished_grid_changes_nothing(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[Path, float]:
        return {p: p.stat().st_mtime_ns for p in finished.glob("[cn]*/*/*")}

    before = files()
    assert main(["compare", *GRID, "--processes", "1", "--out", str(finished), "--resume"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "| dirichlet | symmetric:1 |" in said.out
    assert files() == before


def test_a_folder_is_not_taken_twice(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--processes", "1", "--out", str(finished)]
    assert main(["compare", *GRID, *out]) == 2
    assert "holds a grid already: --resume" in capsys.readouterr().err
    assert main(["compare", *GRID[:-1], "2", *out, "--resume"]) == 2
    assert "--svi-epochs was 1, now 2" in capsys.readouterr().err
    assert main(["compare", *GRID, *out, "--resume", "--overwrite"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert sorted(records(finished)) == NAMES
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "blood.csv").write_text("mine")
    for option in ([], ["--resume"], ["--overwrite"]):
        assert main(["compare", *ONE, "--out", str(tmp_path), *option]) == 2
        assert "holds cells, but not of dirprune compare" in capsys.readouterr().err
    assert (tmp_path / "cells" / "blood.csv").read_text() == "mine"


def test_a_grid_can_grow(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["compare", *ONE, "--out", str(out)]) == 0
    (name,) = records(out)
    # It may be older than an option, which was then as it is by default.
    older = json.loads((out / "grid.json").read_text())
    del older["shared"]["flatten"]
    (out / "grid.json").write_text(json.dumps(older))
    before = (out / "cells" / name / "cell.json").stat().st_mtime_ns
    wider = [*ONE, "--temperatures", "0.1", "--priors", "alpha/K:1"]
    assert main(["compare", *wider, "--out", str(out), "--resume"]) == 0
    assert (out / "cells" / name / "cell.json").stat().st_mtime_ns == before
    assert sorted(records(out)) == ["dirichlet_alpha-K-1_tau-0.1_seed-0", name]
    assert len(json.loads((out / "comparison.json").read_text())["rows"]) == 2
    axes = json.loads((out / "grid.json").read_text())["axes"]
    assert axes["temperatures"] == [1.0, 0.1]
    assert main(["compare", *ONE, "--out", str(out), "--overwrite"]) == 0
    assert sorted(records(out)) == [name]


def test_given_weights_serve_all_seeds(finished: Path, tmp_path: Path) -> None:
    weights = finished / "networks" / "seed-0" / "network.safetensors"
    options = [*ONE, "--seeds", "0,1", "--weights", str(weights), "--out", str(tmp_path / "out")]
    assert main(["compare", *options]) == 0
    found = records(tmp_path / "out")
    accuracies = {cell["accuracy"]["original"] for cell in found.values()}
    assert accuracies == {records(finished)[NAMES[0]]["accuracy"]["original"]}
    one, two = (np.array(cell["elpd"]) for cell in found.values())
    # The same images under other draws: close, and not equal.
    assert 0.9 < np.corrcoef(one, two)[0, 1] < 1


def test_one_guide_under_two_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guides = ["low-rank-normal:rank=1", "low-rank-normal:rank=3"]
    assert main(["compare", *ONE, "--guides", ",".join(guides), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("| low-rank-normal:rank=") == 2
    assert sorted(records(tmp_path)) == [
        f"low-rank-normal-rank-{rank}_symmetric-1_tau-1_seed-0" for rank in (1, 3)
    ]
    for name, cell in records(tmp_path).items():
        settings = json.loads(
            load_tree(tmp_path / "cells" / name / "posterior.nc").attrs["settings"]
        )
        assert settings["guide_options"] == {"rank": int(cell["cell"]["guide"][-1])}
    (matrix,) = json.loads((tmp_path / "comparison.json").read_text())["agreement"]
    assert sorted(matrix["guides"]) == guides


def test_damaged_cells_are_made_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    record, posterior = (out / "cells" / NAMES[0] / "cell.json", out / "cells" / NAMES[1])
    good = record.read_text()
    record.write_text(good[: len(good) // 2])
    content = (posterior / "posterior.nc").read_bytes()
    (posterior / "posterior.nc").write_bytes(content[: len(content) // 2])
    kept = (out / "cells" / NAMES[2] / "cell.json").stat().st_mtime_ns
    assert main(["compare", *GRID, "--processes", "1", "--out", str(out), "--resume"]) == 0
    line, told = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"dirprune: cells: 2 finished in \d+ s", told)
    assert line == (
        f"dirprune: warning: these cells are damaged and are made again: {NAMES[0]}, {NAMES[1]}"
    )
    assert (out / "cells" / NAMES[2] / "cell.json").stat().st_mtime_ns == kept
    assert json.loads(record.read_text())["elpd"] == json.loads(good)["elpd"]
    load_tree(posterior / "posterior.nc")


def test_a_damaged_network_is_made_again(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    network = out / "networks" / "seed-1" / "network.safetensors"
    good = network.read_bytes()
    network.write_bytes(good[: len(good) // 2])
    # One of its cells has to be made again, too, which reads it.
    shutil.rmtree(out / "cells" / NAMES[1])
    kept = (out / "cells" / NAMES[3] / "cell.json").stat().st_mtime_ns
    assert main(["compare", *GRID, "--processes", "1", "--out", str(out), "--resume"]) == 0
    line, *told = capsys.readouterr().err.splitlines()
    assert [t[: t.index(" in ")] for t in told] == [
        "dirprune: networks: 1 finished", "dirprune: cells: 1 finished",
    ]  # fmt: skip
    assert line == "dirprune: warning: these networks are damaged and are made again: seed-1"
    assert network.read_bytes() == good
    assert records(out)[NAMES[1]]["elpd"] == records(finished)[NAMES[1]]["elpd"]
    assert (out / "cells" / NAMES[3] / "cell.json").stat().st_mtime_ns == kept


@pytest.mark.parametrize("content", ["", "[]", "null", '{"cell": 1}', '{"cell": {}, "scores": 1}'])
def test_what_is_no_cell_is_damaged(content: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "cells" / NAMES[0], tmp_path / "cell")
    assert not is_damaged(tmp_path / "cell")
    (tmp_path / "cell" / "cell.json").write_text(content)
    assert is_damaged(tmp_path / "cell")


def test_a_damaged_cell_of_an_earlier_grid_is_left_out(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "cells" / NAMES[3] / "posterior.nc").write_bytes(b"")
    smaller = [*GRID, "--guides", "dirichlet", "--processes", "1", "--out", str(out)]
    assert main(["compare", *smaller, "--resume"]) == 0
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert "of an earlier grid are damaged and left out" in line
    assert line.endswith(f": {NAMES[3]}")
    assert "| normal" in said.out  # seed 0


def test_a_damaged_grid_says_so(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "grid.json").write_text("{")
    for option in ([], ["--resume"]):
        assert main(["compare", *ONE, "--out", str(out), *option]) == 2
        said = capsys.readouterr().err
        assert "grid.json is damaged" in said
        assert "--overwrite begins again" in said
    assert sorted(records(out)) == NAMES
    assert main(["compare", *ONE, "--out", str(out), "--overwrite"]) == 0
    assert len(records(out)) == 1


def test_a_run_does_not_take_the_folder_of_a_grid(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    young = tmp_path / "young"  # interrupted before there was a picture
    (young / "cells").mkdir(parents=True)
    shutil.copy(finished / "grid.json", young)
    for folder in (finished, young):
        for option in ([], ["--resume"], ["--overwrite"]):
            assert main(["run", "--out", str(folder), *QUICK, *option]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "holds grid.json" in line
            assert "but not of a run of dirprune" in line
    assert sorted(records(finished)) == NAMES


# -- failures -------------------------------------------------------------------------------------


@pytest.fixture
def moody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guide that breaks at one temperature."""

    def make(model: Any) -> AutoDirichlet:
        if model.temperature == 0.5:
            raise RuntimeError("not at this temperature")
        return AutoDirichlet(model)

    monkeypatch.setitem(GUIDES, "moody", Family(make, "breaks", "TraceMeanField_ELBO"))


def test_a_guide_has_to_fit_one_prior(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def make(model: Any) -> AutoDirichlet:
        if "0.3" in repr(model.prior):
            raise AttributeError("not with that prior")
        return AutoDirichlet(model)

    monkeypatch.setitem(GUIDES, "picky", Family(make, "breaks", "TraceMeanField_ELBO"))
    words = ["compare", *ONE, "--guides", "dirichlet,picky", "--out", str(tmp_path / "out")]
    assert main([*words, "--priors", "symmetric:0.3"]) == 2
    said = capsys.readouterr().err
    assert "--guides picky fits none of the priors: under symmetric:0.3" in said
    assert "not with that prior" in said
    assert main([*words, "--priors", "symmetric:0.3,symmetric:1"]) == 1
    assert "1 of 4 cells failed: picky_symmetric-0.3" in capsys.readouterr().err


@pytest.mark.usefixtures("moody")
def test_a_cell_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", *ONE, "--guides", "moody", "--temperatures", "1,0.5,0.1"]
    assert main([*words, "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    *told, line = said.err.splitlines()
    assert [t[: t.index(" in ")] for t in told] == [
        "dirprune: networks: 1 finished", "dirprune: cells: 2 finished and 1 failed",
    ]  # fmt: skip
    assert line.startswith("dirprune: 1 of 3 cells failed: moody_symmetric-1_tau-0.5_seed-0 (Runti")
    assert "not at this temperature" in line
    assert said.out.count("| moody") == 2
    failed = records(tmp_path)["moody_symmetric-1_tau-0.5_seed-0"]
    assert "not at this temperature" in failed["error"]
    assert "Traceback" in failed["details"]
    # Mended, --resume makes that cell alone.
    monkeypatch.setitem(GUIDES, "moody", GUIDES["dirichlet"])
    assert main([*words, "--out", str(tmp_path), "--resume"]) == 0
    assert capsys.readouterr().out.count("| moody") == 3


def test_a_network_that_fails_costs_its_own_cells_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = networks.make_network

    def only_seed_0(task: Any) -> None:
        if task.seed:
            raise WorkerDiedError("killed")
        make(task)

    with monkeypatch.context() as patch:
        patch.setattr(networks, "make_network", only_seed_0)
        assert main(["compare", *ONE, "--seeds", "0,1", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "1 of 2 cells failed: dirichlet_symmetric-1_tau-1_seed-1 (network seed-1" in said
    assert main(["compare", *ONE, "--seeds", "0,1", "--out", str(tmp_path), "--resume"]) == 0


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    """The grid in a process of its own, two cells at a time."""
    command_line = ["compare", *GRID, "--processes", "2", "--out", str(out), *options]
    return subprocess.Popen(
        [sys.executable, "-m", "dirprune", *command_line],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], pattern: str, out: Path) -> None:
    while not list(out.glob(pattern)):
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.slow
def test_ctrl_c_and_a_killed_worker_keep_what_is_finished(tmp_path: Path) -> None:
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    process = start(undisturbed, "--processes", "1")
    process.communicate(timeout=300)
    assert process.returncode == 0
    process = start(out)
    wait_for(process, "cells/*/cell.json", out)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.endswith("dirprune: interrupted; the same command with --resume goes on\n")
    kept = records(out)
    assert 0 < len(kept) < 4
    process = start(out, "--resume")
    # A worker is a child of the command that runs multiprocessing's spawn_main.
    workers: list[int] = []
    while not workers:
        assert process.poll() is None
        time.sleep(0.01)
        workers = [pid for pid in children(process.pid) if "spawn_main" in command_of(pid)]
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "1 of 4 cells failed" in errors
    assert "its process was killed, or ran out of memory" in errors
    # Whatever was made here is what one process makes, to the last digit.
    found = [(name, r) for name, r in records(out).items() if "error" not in r]
    assert len(found) == 3
    for name, record in found:
        assert record["elpd"] == records(undisturbed)[name]["elpd"]
        assert record["kept"] == records(undisturbed)[name]["kept"]


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        pytest.skip("no /proc with children here")
    return [int(child) for child in text.split()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# -- bad input ------------------------------------------------------------------------------------

BAD = {
    "guide": (["--guides", "dirichlet,dirichlt"], "did you mean 'dirichlet'"),
    "guide option": (["--guides", "dirichlet:rank=5"], "'dirichlet' has no option 'rank'"),
    "guide option form": (["--guides", "low-rank-normal:rank"], "low-rank-normal:OPTION=NUMBER"),
    "guide option value": (["--guides", "low-rank-normal:rank=0"], "at least 1, but got 0"),
    "guide twice": (["--guides", "dirichlet,dirichlet"], "the guide 'dirichlet' twice"),
    "no guide": (["--guides", ""], "expected names"),
    "prior": (["--priors", "symetric:1"], "did you mean 'symmetric'"),
    "prior twice": (["--priors", "symmetric:1,symmetric"], "as 'symmetric:1' and 'symmetric'"),
    "prior value": (["--priors", "symmetric:-1"], "positive"),
    "temperature": (["--temperatures", "1,0"], "positive"),
    "temperature word": (["--temperatures", "warm"], "separated by commas, as in 1,0.1"),
    "temperature twice": (["--temperatures", "1,1.0"], "twice"),
    "seed": (["--seeds", "0,one"], "expected whole numbers"),
    "seed twice": (["--seeds", "0,0"], "twice"),
    "negative seed": (["--seeds=-1"], "whole number from 0"),
    "budget": (["--budgets", "mac=0.5"], "did you mean 'macs'"),
    "budget twice": (["--budgets", "macs=0.5,macs=0.50"], "macs=0.5 twice"),
    "widths": (["--widths", "conv1=3"], "expected uniform"),
    "small budget": (["--budgets", "macs=0.00001"], "the smallest possible"),
    "evidence": (["--evidence", "removal_cost"], "did you mean 'removal-cost'"),
    "no concentrations": (
        ["--guides", "dirichlet,normal", "--evidence", "concentration"], "'normal' has no conc",
    ),
    "network": (["--network", "lenet6"], "did you mean 'lenet5'"),
    "misfit": (["--network", "lenet5"], "16x16"),
    "data": (["--data", "digit"], "did you mean 'digits'"),
    "weights": (["--weights", "nowhere.pt"], "nowhere.pt"),
    "layer": (["--exclude", "conv9"], "conv9"),
    "prior of another network": (["--priors", "bn-scale:1"], "batch"),
    "processes": (["--processes", "0"], "at least 1"),
    "epochs": (["--svi-epochs", "0"], "at least 1"),
    "device": (["--device", "gpu"], "expected cpu, cuda"),
    "out is a file": (["--out", "out.txt"], "is a file"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_and_leaves_nothing(
    options: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.txt").write_text("")
    assert main(["compare", *ONE, "--out", "out", *options]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
    assert said.startswith("dirprune: ")
    assert not (tmp_path / "out").exists()
