"""The command line, end to end on real data, and what it says to bad input."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

import dirprune
from dirprune.analysis.diagnostics import diagnose
from dirprune.analysis.tree import load_tree
from dirprune.command import main

SAID = "dirprune: interrupted; the same command with --resume goes on\n"
# Enough to learn something in a few seconds; every stage runs.
QUICK = ["--train-epochs", "6", "--svi-epochs", "6", "--finetune-epochs", "2"]


def start(*arguments: str) -> subprocess.Popen[str]:
    """``dirprune`` in a process of its own, as a user runs it."""
    return subprocess.Popen(
        [sys.executable, "-m", "dirprune", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the digits."""
    folder = tmp_path_factory.mktemp("run") / "out"
    assert main(["run", "--out", str(folder), *QUICK]) == 0
    return folder


class Second(NamedTuple):
    """A run in a process of its own, and what others were told who asked for its folder."""

    folder: Path
    out: str
    err: str
    refusals: list[str]


@pytest.fixture(scope="session")
def second(tmp_path_factory: pytest.TempPathFactory) -> Second:
    """The run of ``finished`` once more."""
    folder = tmp_path_factory.mktemp("second") / "out"
    process = start("run", "--out", str(folder), *QUICK)
    wait_for(folder / "settings.json", process)
    refusals = []
    for option in ([], ["--resume"], ["--overwrite"]):
        with redirect_stderr(io.StringIO()) as said:
            assert main(["run", "--out", str(folder), *QUICK, "--seed", "1", *option]) == 2
        refusals.append(said.getvalue())
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return Second(folder, out, err, refusals)


@pytest.fixture
def no_report(few_draws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the report of these runs the point, whose pictures take half of the time."""
    monkeypatch.setattr("dirprune.command.run.write_report", lambda folder: None)


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


# -- a run ----------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_nothing_half_done(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "closeups.nc", "decision.json", "figures", "history.json", "metrics.json", "original",
        "posterior.nc", "pruned", "pruned.pt2", "report.html", "settings.json",
    ]  # fmt: skip


def test_metrics_hold_the_contract(finished: Path) -> None:
    metrics = metrics_of(finished)
    assert {"original", "pruned", "finetuned"} <= set(metrics["accuracy"])
    for key in ("macs", "params", "latency_ms"):
        assert metrics[key]["before"] >= metrics[key]["after"] > 0 or key == "latency_ms"
    assert {"seconds", "seed", "versions"} <= set(metrics)
    assert metrics["macs"]["after"] <= 0.5 * metrics["macs"]["before"]
    # 6 epochs of training on 1,132 images: far from chance (10 %), or nothing below means a thing.
    assert metrics["accuracy"]["original"] > 85
    assert metrics["images"] == {"train": 1132, "validation": 126, "test": 539}
    # What the user left open is noted with the value that was used.
    assert metrics["settings"]["temperature"] == pytest.approx(500 / 1132)


def test_the_decision_is_what_was_cut(finished: Path) -> None:
    decision = dirprune.Decision.load(finished / "decision.json")
    pruned = dirprune.load(finished / "pruned")
    assert pruned.conv1.out_channels == len(decision.kept["conv1"])  # type: ignore[union-attr,arg-type]
    assert {name: len(p) for name, p in decision.probability.items()} == {
        "conv1": 16, "conv2": 32, "fc1": 64,
    }  # fmt: skip


def test_pruned_network_has_bit_equal_logits_in_a_new_process(
    finished: Path, tmp_path: Path
) -> None:
    x = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    save_file({"x": x}, tmp_path / "x.safetensors")
    script = (
        "import dirprune, torch\n"
        "from safetensors.torch import load_file, save_file\n"
        "x = load_file('x.safetensors')['x']\n"
        f"y = dirprune.load({str(finished / 'pruned')!r})(x)\n"
        "save_file({'y': y.detach()}, 'y.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=120)
    assert torch.equal(
        load_file(tmp_path / "y.safetensors")["y"], dirprune.load(finished / "pruned")(x)
    )


def test_exported_program_runs_without_dirprune(finished: Path) -> None:
    script = (
        "import sys, torch\n"
        f"program = torch.export.load({str(finished / 'pruned.pt2')!r}).module()\n"
        "assert program(torch.zeros(5, 1, 8, 8)).shape == (5, 10)\n"
        "assert not any(name.startswith('dirprune') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    program = torch.export.load(finished / "pruned.pt2").module()
    x = torch.randn(5, 1, 8, 8)
    # float32 and another order of the same sums.
    torch.testing.assert_close(
        program(x), dirprune.load(finished / "pruned")(x), rtol=1e-4, atol=1e-5
    )


def test_same_seed_same_result_in_another_process(finished: Path, second: Second) -> None:
    first, again = metrics_of(finished), metrics_of(second.folder)
    for key in ("accuracy", "accuracy_validation", "macs", "params", "sites", "diagnostics"):
        assert first[key] == again[key]


def test_quiet_when_not_a_terminal(second: Second) -> None:
    assert second.err == ""
    assert len(second.out.splitlines()) == 5


def test_two_runs_do_not_share_a_folder(second: Second) -> None:
    assert len(second.refusals) == 3
    for said in second.refusals:
        assert "another dirprune is writing to" in said


def test_resume_of_a_finished_run_changes_nothing(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "metrics.json").read_bytes()
    assert main(["run", "--out", str(finished), "--resume", *QUICK]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert (finished / "metrics.json").read_bytes() == before


def test_a_run_that_is_older_than_an_option_goes_on(finished: Path, tmp_path: Path) -> None:
    """What its settings do not name was as by default."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    settings = json.loads((out / "settings.json").read_text())
    del settings["reselect"]
    (out / "settings.json").write_text(json.dumps(settings))
    assert main(["run", "--out", str(out), "--resume", *QUICK]) == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("settings.json", content) for content in ("{bad", "[1]", "3")),
        *(("metrics.json", content) for content in ("{bad", "{}", "[]")),
    ],
)
def test_damaged_files_are_told(
    finished: Path, tmp_path: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / name).write_text(content)
    assert main(["run", "--out", str(out), "--resume", *QUICK]) == 2
    assert f"{name} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stops",
    [
        # training is over, SVI begins; then the null control begins
        [(signal.SIGKILL, "original"), (signal.SIGINT, "decision.json")],
        pytest.param([(signal.SIGINT, "original")], marks=pytest.mark.slow),
    ],
    ids=["killed, then ctrl-c in the null control", "ctrl-c in SVI"],
)
def test_an_interrupted_run_resumes_to_the_same_result(
    stops: list[tuple[signal.Signals, str]],
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Its pictures take a third of the time, and none of what is compared.
    monkeypatch.setattr("dirprune.command.run.write_report", lambda folder: None)
    out = tmp_path / "out"
    arguments = ["run", "--out", str(out), *QUICK]
    resume: list[str] = []
    for number, sign in stops:
        process = start(*arguments, *resume)
        wait_for(out / sign, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == (130 if number == signal.SIGINT else -number), errors
        assert errors == (SAID if number == signal.SIGINT else "")
        assert not (out / "metrics.json").exists()
        assert main(arguments) == 2  # neither --resume nor --overwrite
        resume = ["--resume"]
    assert main([*arguments, "--resume"]) == 0, capsys.readouterr().err
    for key in ("accuracy", "sites", "diagnostics"):
        assert metrics_of(out)[key] == metrics_of(finished)[key]
    ours, theirs = (
        load_file(folder / "pruned" / "network.safetensors") for folder in (out, finished)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_refused_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["run", "--out", str(out), "--weights", "nowhere.pt"]) == 2
    assert not out.exists()
    # for a batch queue: the same command begins a run and goes on with it
    assert main(["run", "--out", str(out), "--resume", "--weights", "nowhere.pt"]) == 2
    assert "holds no run yet: beginning one" in capsys.readouterr().err
    assert main(["run", "--out", str(out), "--resume", "--overwrite"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_resume_with_other_settings_is_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--out", str(finished), "--resume", *QUICK, "--seed", "1"]) == 2
    assert "--seed was 0, now 1" in capsys.readouterr().err


def test_every_diagnostic_is_in_the_metrics(finished: Path) -> None:
    found = metrics_of(finished)["diagnostics"]
    assert set(found) == {
        "elpd", "reliability", "svi_convergence", "restart_agreement", "importance",
        "power_scaling", "overlap", "loo", "null_control",
    }  # fmt: skip
    assert all(f["threshold"] and f["source"] and f["text"] for f in found.values())
    assert found["null_control"]["good"] is True
    assert set(found["null_control"]["value"]["tau"]) == {"conv1", "conv2", "fc1"}
    assert found["elpd"]["value"]["elpd"] > found["elpd"]["value"]["chance"]
    assert found["elpd"]["value"]["images"] == found["reliability"]["value"]["images"] == 126
    # from the files alone, again
    tree = load_tree(finished / "posterior.nc")
    history = json.loads((finished / "history.json").read_text())
    again = {**diagnose(tree, history), "null_control": found["null_control"]}
    assert json.loads(json.dumps(again)) == found


@pytest.mark.usefixtures("no_report")
def test_weights_of_one_run_serve_another(finished: Path, tmp_path: Path) -> None:
    weights = finished / "original" / "network.safetensors"
    out = tmp_path / "out"
    options = ["--weights", str(weights), "--budget", "keep=0.25", "--evidence", "concentration",
               "--no-null-control", "--compensate", "least-squares:images=200"]  # fmt: skip
    assert main(["run", "--out", str(out), *options, *QUICK[2:]]) == 0
    metrics = metrics_of(out)
    # conv2, fc1 and fc2 read what was pruned; in-sample no layer is further from the original.
    layers = metrics["compensation"]["least-squares:images=200"]["layers"]
    assert set(layers) == {"conv2", "fc1", "fc2"}
    assert all(layer["after"] < layer["before"] for layer in layers.values())
    assert metrics["accuracy"]["compensated"] > metrics["accuracy"]["pruned"]
    assert metrics["accuracy"]["original"] == metrics_of(finished)["accuracy"]["original"]
    assert "null_control" not in metrics["diagnostics"]
    assert sum(site["kept"] for site in metrics["sites"]) == 28  # a quarter of 112


# -- the other commands ---------------------------------------------------------------------------


def test_decide_again_from_the_posterior_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "posterior.nc").write_bytes((finished / "posterior.nc").read_bytes())
    out = tmp_path / "decision.json"
    assert main(["decide", str(moved), "--budget", "macs=0.25", "--out", str(out)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert 0 < said["macs"] <= 0.25
    kept = dirprune.Decision.load(out).kept
    assert {name: len(units) for name, units in kept.items()} == said["widths"]
    # What decided in the run decides again, unless another criterion is named.
    assert main(["decide", str(finished), "--budget", "macs=0.25"]) == 0
    own = json.loads((finished / "metrics.json").read_text())["evidence"]
    assert json.loads(capsys.readouterr().out)["evidence"] == own
    assert main(["decide", str(finished), "--budget", "macs=0.25", "--evidence", "mean"]) == 0
    assert json.loads(capsys.readouterr().out)["evidence"] == "mean"
    (moved / "metrics.json").write_text("[]")
    assert main(["decide", str(moved), "--budget", "macs=0.25"]) == 2
    assert "metrics.json is damaged" in capsys.readouterr().err
    (moved / "metrics.json").unlink()
    # Another one into the same file is refused, unless it is asked for.
    written = out.read_bytes()
    again = ["decide", str(moved), "--budget", "macs=0.5", "--out", str(out)]
    assert main(again) == 2
    assert f"{out} is there already: --overwrite replaces it" in capsys.readouterr().err
    assert out.read_bytes() == written
    assert main([*again, "--overwrite"]) == 0
    assert dirprune.Decision.load(out).settings["budget"] == {"macs": 0.5}


def test_info_lists_the_sites(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "lenet5", "--size", "28", "--channels", "1"]) == 0
    text = capsys.readouterr().out
    assert "2,293,000 MACs, 431,080 parameters" in text
    assert "fc2: it is the network's output" in text
    assert main(["info", "lenet5", "--size", "28", "--channels", "1", "--json"]) == 0
    sites = json.loads(capsys.readouterr().out)["sites"]
    assert [(s["name"], s["units"]) for s in sites] == [("conv1", 20), ("conv2", 50), ("fc1", 500)]
    # conv2 down to one unit: 1,600,000 MACs of its own and the 400,000 of fc1 that read it, less
    # the fiftieth that stays, of 2,293,000.
    assert sites[1]["macs_share"] == pytest.approx(0.98 * 2_000_000 / 2_293_000)


def test_info_lists_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for name in ("lenet5", "torchvision:NAME", "digits", "dirichlet", "alpha/K", "removal-cost"):
        assert name in text


def test_info_lists_every_criterion(capsys: pytest.CaptureFixture[str]) -> None:
    from dirprune.analysis.evidence import CRITERIA

    assert main(["info", "evidence"]) == 0
    text = capsys.readouterr().out
    for name, criterion in CRITERIA.items():
        assert f"{name}: {criterion.summary}\n" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "reads the network, posterior and images; options: draws=32, images=256\n" in text
    assert main(["info", "shapley"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        "    reads the network and images; options: permutations=5, images=256, std=2.0, seed=0"
    )
    assert main(["info", "l1-norm"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "    reads the network; options: none"
    assert main(["info", "evidence", "--json"]) == 0
    found = {c["name"]: c for c in json.loads(capsys.readouterr().out)}
    assert list(found) == list(CRITERIA)
    assert found["taylor"]["reads"] == ["images"]
    assert found["taylor"]["options"] == {"images": 4096, "batch": 32}
    assert main(["info", "shaply"]) == 2
    assert "unknown name 'shaply'; did you mean 'shapley'?" in capsys.readouterr().err


def test_report_is_made_again(finished: Path) -> None:
    page = finished / "report.html"
    before = page.stat().st_mtime_ns
    assert main(["report", str(finished)]) == 0
    assert page.stat().st_mtime_ns > before


def test_without_a_command_there_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr()
    assert main(["--help"]) == 0
    assert said.out == capsys.readouterr().out
    assert len(said.out.splitlines()) > 10
    assert said.err == ""


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom dirprune.command import main\n"
        "for words in (['--help'], ['run', '--help'], ['--version']):\n    main(words)\n"
        "heavy = {'torch', 'pyro', 'arviz', 'matplotlib', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Network" in done.stdout


# -- bad input ------------------------------------------------------------------------------------

BAD = {
    "compensation": (["--compensate", "least_squares"], "did you mean 'least-squares'"),
    "network": (["--network", "lenet6"], "did you mean 'lenet5'"),
    "torchvision": (["--network", "torchvision:resnet19"], "did you mean"),
    "data": (["--data", "digit"], "did you mean 'digits'"),
    "guide": (["--guide", "dirichlt"], "did you mean 'dirichlet'"),
    "evidence": (["--evidence", "removal_cost"], "did you mean 'removal-cost'"),
    "prior": (["--prior", "symetric"], "did you mean 'symmetric'"),
    "prior value": (["--prior", "-1"], "must be positive"),
    "budget name": (["--budget", "mac=0.5"], "did you mean 'macs'"),
    "budget form": (["--budget", "0.5"], "expected NAME=SHARE"),
    "budget range": (["--budget", "macs=1.5"], "(0, 1]"),
    "budget nan": (["--budget", "macs=nan"], "(0, 1]"),
    "temperature": (["--temperature", "0"], "positive"),
    "epochs": (["--svi-epochs", "0"], "at least 1"),
    "word for a number": (["--seed", "one"], "integer"),
    "option": (["--budgett", "macs=0.5"], "No such option"),
    "device": (["--device", "cuda:99"], "--device cuda:99"),
    "no such device": (["--device", "gpu"], "expected cpu, cuda"),
    "no numbers there": (["--device", "meta"], "expected cpu, cuda"),
    "huge seed": (["--seed", "9" * 23], "2^63"),
    "huge images": (["--size", "100000"], "at most 4096"),
    "both": (["--include", "conv1", "--exclude", "conv1"], "both --include and --exclude"),
    "root": (["--out", "/"], "expected a folder for the results"),
    "out is a file": (["--out", "out.txt"], "is a file"),
    "budget twice": (["--budget", "macs=0.5,macs=0.4"], "macs is given twice"),
    "two searches": (["--budget", "max_drop=1,latency=0.5"], "give one of them"),
    "points": (["--budget", "max_drop=100"], "points of accuracy, 0 to below 100"),
    "points nan": (["--budget", "max_drop=nan"], "points of accuracy, 0 to below 100"),
    "number": (["--budget", "macs=half"], "expected one number after '='"),
    "widths form": (["--widths", "conv1:3"], "expected uniform, or SITE=UNITS"),
    "widths twice": (["--widths", "conv1=3,conv1=4"], "conv1 is given twice"),
    "widths and budget": (["--widths", "conv1=3", "--budget", "macs=0.5"], "need no --budget"),
    "widths of nothing": (["--widths", "conv9=3", "--train-epochs", "1"], "the site 'conv9'"),
    "too wide": (["--widths", "conv1=999", "--train-epochs", "1"], "from 1 to 16"),
    "uniform and tiny": (["--widths", "uniform", "--budget", "macs=0.0001"], "smallest possible"),
    "missing weights": (["--weights", "nowhere.pt"], "nowhere.pt"),
    "folder": (["--data", "folder:nowhere"], "nowhere"),
    "mean": (["--mean", "a,b"], "expected numbers"),
    "size": (["--network", "lenet5"], "16x16"),
    "channels": (["--network", "torchvision:resnet18"], "3 channels"),
    "layer": (["--exclude", "conv9", "--train-epochs", "1"], "conv9"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line_and_status_2(
    options: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out.txt").write_text("")
    assert main(["run", "--out", "out", *options]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
    assert said.startswith("dirprune: ")


def test_budget_below_one_unit_a_layer(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decide", str(finished), "--budget", "keep=0.001"]) == 2
    assert "the smallest possible is keep=0.0268" in capsys.readouterr().err  # 3 of 112 units
    # Refused in a run before anything is trained or learned, though the decision comes last.
    out = tmp_path / "out"
    assert main(["run", "--out", str(out), *QUICK, "--budget", "macs=0.00001"]) == 2
    assert "the smallest possible is macs=" in capsys.readouterr().err
    assert not (out / "original").exists()
    # and the folder is free for the right budget
    assert main(["run", "--out", str(out), *QUICK, "--network", "lenet5"]) == 2
    assert "16x16" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--prior", "bn-scale"], "no batch norm"),
        (["--exclude", "conv9"], "conv9"),
        (["--budget", "macs=0.00001"], "the smallest possible"),
        (["--guide", "low-rank-normal", "--guide-options", "rank=0"], "at least 1"),
    ],
)
def test_what_given_weights_do_not_fit_leaves_the_folder_free(
    options: list[str],
    expected: str,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = str(finished / "original" / "network.safetensors")
    out = tmp_path / "out"
    assert main(["run", "--out", str(out), "--weights", weights, *QUICK[2:], *options]) == 2
    assert expected in capsys.readouterr().err
    assert not out.exists()


def test_files_of_others_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "report.html").write_text("mine")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch1.pt").write_text("mine")
    for option in ([], ["--overwrite"]):
        assert main(["run", "--out", str(tmp_path), *QUICK, *option]) == 2
        assert "report.html, checkpoints, figures, but not of a run" in capsys.readouterr().err
    assert (tmp_path / "report.html").read_text() == "mine"
    assert (tmp_path / "checkpoints" / "epoch1.pt").read_text() == "mine"
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "settings.json").write_text("mine")
    assert main(["run", "--out", str(alone), *QUICK]) == 2
    assert "settings.json, but not of a run" in capsys.readouterr().err
    assert (alone / "settings.json").read_text() == "mine"


def test_damaged_and_foreign_weights(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (finished / "original" / "network.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good[:1000])
    foreign = finished / "pruned" / "network.safetensors"
    for path in (cut, foreign):
        assert main(["run", "--out", str(tmp_path / "out"), "--weights", str(path)]) == 2
        said = capsys.readouterr().err
        assert str(path) in said
        assert len(said.splitlines()) == 1


@pytest.mark.usefixtures("no_report")
def test_a_network_at_chance_is_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    network = dirprune.build_network("digits-cnn", num_classes=10, in_channels=1, size=8)
    dirprune.save(tmp_path / "random", network)
    weights = str(tmp_path / "random" / "network.safetensors")
    out = tmp_path / "out"
    few = [*QUICK[2:], "--no-null-control"]
    assert main(["run", "--out", str(out), "--weights", weights, *few]) == 0
    assert "cannot be told from chance" in capsys.readouterr().err
    assert len(metrics_of(out)["warnings"]) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_folder_that_is_not_writable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    assert main(["run", "--out", str(tmp_path / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_out_below_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["run", "--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot write" in capsys.readouterr().err


def test_posterior_that_is_missing_or_damaged(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decide", str(tmp_path), "--budget", "macs=0.5"]) == 2
    assert "no such file" in capsys.readouterr().err
    content = (finished / "posterior.nc").read_bytes()
    (tmp_path / "posterior.nc").write_bytes(content[: len(content) // 2])
    assert main(["decide", str(tmp_path), "--budget", "macs=0.5"]) == 2
    assert "damaged" in capsys.readouterr().err
