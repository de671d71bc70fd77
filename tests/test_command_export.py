"""``dirprune export``: what a user types, sees and gets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dirprune
from dirprune.command import main
from dirprune.command.run import _Job
from dirprune.command.settings import Settings
from dirprune.model.export import FORMATS, Format, onnx_file

NAMES = {"onnx": "network.onnx", "torch-export": "network.pt2", "state-dict": "network"}
NOTES = {"data": "digits", "mean": [0.3], "std": [0.4], "size": 8, "classes": list("0123456789")}
OWN = '''
import torch
from torch import nn


class Pair(nn.Module):
    """Two inputs by name, and its own examples of them."""

    def __init__(self, width=6):
        super().__init__()
        self.a, self.b = nn.Linear(4, width), nn.Embedding(10, width)
        self.out = nn.Linear(width, 3)
        self.example_inputs = {"x": torch.randn(2, 4), "token": torch.tensor([1, 7])}

    def forward(self, x, token):
        return {"logits": self.out(torch.relu(self.a(x) + self.b(token)))}


class Images(nn.Module):
    def __init__(self, num_classes, in_channels, size):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 6, 3)
        self.out = nn.Linear(6 * (size - 2) ** 2, num_classes)

    def forward(self, x):
        return self.out(torch.relu(self.conv(x)).flatten(1))
'''


WITHOUT_DIRPRUNE = """
import sys

import numpy, onnxruntime

session = onnxruntime.InferenceSession("new/network.onnx")
images = numpy.load("images.npy")
numpy.save("logits.npy", session.run(None, {"x": images})[0])
with open("notes.json", "w") as file:
    file.write(session.get_modelmeta().custom_metadata_map["dirprune"])
assert not {"torch", "dirprune"} & set(sys.modules)
"""


def half(network: nn.Module, inputs: Any, **kwargs: Any) -> nn.Module:
    """The network with the first half of its units."""
    model = dirprune.SwitchedNetwork(network, inputs, num_data=10, **kwargs)
    kept = {name: torch.arange(-(-site.size // 2)) for name, site in model.sites.items()}
    return dirprune.prune(model, dirprune.Decision(kept)).eval()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``dirprune run`` leaves, as far as an export reads it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    network = dirprune.build_network("digits-cnn", num_classes=10, in_channels=1, size=8)
    dirprune.save(folder / "original", network, notes=NOTES)
    dirprune.save(folder / "pruned", half(network, torch.randn(2, 1, 8, 8)), notes=NOTES)
    (folder / "settings.json").write_text("{}")
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with a file of networks in it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(OWN)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a refused command says."""
    assert main(["export", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("dirprune: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("format", FORMATS)
def test_the_pruned_network_of_a_run(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], format: str
) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime", reason="comes with the extra onnx")
    out = tmp_path / "new" / NAMES[format]
    assert main(["export", str(finished), "--format", format, "--out", str(out)]) == 0
    said, errors = capfd.readouterr()
    assert said.startswith(f"{out}: ")
    assert "kB. Read back, its outputs differ from the network's by" in said
    assert said.count("\n") == 1
    assert errors == ""
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        want = dirprune.load(finished / "pruned")(images)
        if format == "onnx":
            np.save(tmp_path / "images.npy", images)
            subprocess.run(
                [sys.executable, "-c", WITHOUT_DIRPRUNE], cwd=tmp_path, check=True, timeout=120
            )
            got = torch.from_numpy(np.load(tmp_path / "logits.npy"))
            notes = json.loads((tmp_path / "notes.json").read_text())
        elif format == "torch-export":
            extra = {"dirprune.json": ""}
            got = torch.export.load(out, extra_files=extra).module()(images)
            notes = json.loads(extra["dirprune.json"])
        else:
            got = dirprune.load(out)(images)
            notes = json.loads((out / "network.json").read_text())["notes"]
    # Float32, sums in another order.
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert notes == NOTES


def test_a_folder_of_save_and_what_is_there_already(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "network.pt2"
    arguments = ["--format", "torch-export", "--out", str(out)]
    assert main(["export", str(finished / "original"), *arguments]) == 0
    large = out.stat().st_size
    capsys.readouterr()
    assert "is there already: --overwrite replaces it" in refused(capsys, str(finished), *arguments)
    assert out.stat().st_size == large
    assert main(["export", str(finished), *arguments, "--overwrite"]) == 0
    assert out.stat().st_size < large
    assert [p.name for p in tmp_path.iterdir()] == ["network.pt2"]


def test_a_network_of_ones_own_with_inputs_of_its_own(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = dirprune.build_network("nets.py:Pair", num_classes=3, in_channels=1, size=8)
    inputs: Any = pair.example_inputs
    kwargs = {"example_kwargs": inputs, "output": lambda out: out["logits"]}
    pruned = half(pair, (), **kwargs)
    dirprune.save("saved", pruned)
    arguments = ["saved", "--format", "torch-export", "--out", "pair.pt2"]
    assert "holds a Pair, which is code of your own" in refused(capsys, *arguments)
    assert main(["export", *arguments, "--network", "nets.py:Pair"]) == 0
    new = {"x": torch.randn(5, 4), "token": torch.arange(5)}
    with torch.no_grad():
        got = torch.export.load("pair.pt2").module()(**new)["logits"]
        torch.testing.assert_close(got, pruned(**new)["logits"], rtol=1e-5, atol=1e-6)


def test_a_network_of_ones_own_for_the_images_of_its_run(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its classes, channels and size are those that the run noted."""
    network = dirprune.build_network("nets.py:Images", num_classes=10, in_channels=1, size=8)
    pruned = half(network, torch.randn(2, 1, 8, 8))
    dirprune.save("run/pruned", pruned, notes=NOTES)
    arguments = ["run", "--format", "state-dict", "--out", "images", "--network", "nets.py:Images"]
    assert main(["export", *arguments]) == 0
    back = dirprune.load("images", network=network)
    weights: Tensor = back.get_parameter("conv.weight")
    assert torch.equal(weights, pruned.get_parameter("conv.weight"))


def test_a_file_that_is_not_the_network_is_not_left(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    true = FORMATS["torch-export"]

    def write(network: nn.Module, reference: Any, path: Path, notes: Any) -> None:
        with torch.no_grad():
            network.get_parameter("fc2.bias")[0] += 0.5
            true.write(network, reference, path, notes)
            network.get_parameter("fc2.bias")[0] -= 0.5

    broken = Format(write, true.read, true.suffix)
    monkeypatch.setitem(FORMATS, "torch-export", broken)  # type: ignore[arg-type]
    out = tmp_path / "network.pt2"
    said = refused(capsys, str(finished), "--format", "torch-export", "--out", str(out))
    assert "is not written" in said
    assert "differs by up to 0.5, and no more than" in said
    assert os.listdir(tmp_path) == []


def test_outputs_that_never_change_give_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = dirprune.build_network("mlp", num_classes=3, in_channels=1, size=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    dirprune.save(tmp_path / "zeros", network)
    out = str(tmp_path / "zeros.pt2")
    assert main(["export", str(tmp_path / "zeros"), "--format", "torch-export", "--out", out]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith(
        "dirprune: warning: MLP gives the same outputs for all inputs, up to rounding"
    )
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "format", "out", "message"),
    [
        ("run", "onxx", "a.onnx", "unknown format 'onxx'; did you mean 'onnx'?"),
        ("run", "onnx", "a.pt2", "a.pt2: a file of onnx is named *.onnx"),
        ("run", "state-dict", "a.onnx", "a.onnx: state-dict writes a folder"),
        ("run", "state-dict", "work", "work is there and holds no saved network"),
        ("run", "torch-export", "file/a.pt2", "cannot write file/a.pt2"),
        ("nowhere", "torch-export", "a.pt2", "there is no folder nowhere"),
        ("file", "torch-export", "a.pt2", "there is no folder file"),
        (
            "work",
            "torch-export",
            "a.pt2",
            "work holds no network: expected a folder of dirprune ru",
        ),
        (
            "begun",
            "torch-export",
            "a.pt2",
            "begun holds no pruned network yet: 'dirprune run --res",
        ),
        ("damaged", "torch-export", "a.pt2", "network.safetensors is damaged"),
    ],
)
def test_bad_input_is_said_in_one_line(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    source: str,
    format: str,
    out: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").symlink_to(finished)
    Path("file").touch()
    for name in ("work", "begun", "damaged"):
        Path(name).mkdir()
    Path("work/thesis.tex").touch()
    Path("begun/settings.json").write_text("{}")
    for path in (finished / "pruned").iterdir():
        content = path.read_bytes()
        short = path.suffix == ".safetensors"
        (Path("damaged") / path.name).write_bytes(content[:-100] if short else content)
    before = sorted(os.walk(tmp_path))
    arguments = [source, "--format", format, "--out", out, "--overwrite"]
    assert message in refused(capsys, *arguments)
    assert sorted(os.walk(tmp_path)) == before


def test_without_the_extra(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in onnx_file.NEEDED:
        monkeypatch.setitem(sys.modules, name, None)
    said = refused(
        capsys, str(finished), "--format", "onnx", "--out", str(tmp_path / "network.onnx")
    )
    assert "pip install 'dirprune[onnx]'" in said


def test_a_run_ends_well_where_its_network_cannot_be_traced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After hours of fine-tuning: pruned/ is written, and only the program is missing."""

    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1) if x.sum() > 0 else -x.flatten(1)

    job = _Job(Settings(), tmp_path, torch.device("cpu"), metrics={"warnings": []})
    job.data = dirprune.load_data("digits")
    job._export(Branch())
    (warning,) = job.metrics["warnings"]
    assert warning.startswith("pruned.pt2 is missing: Branch cannot be traced by torch.export")
    assert f"dirprune: warning: {warning}" in capsys.readouterr().err
    job._export(nn.Flatten())
    assert os.listdir(tmp_path) == ["pruned.pt2"]
