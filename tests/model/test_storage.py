"""Saving and loading: the same bits, nothing executed, nothing half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import dirprune.model
from dirprune.model import storage, writing
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import PadShortcut, build_network
from dirprune.model.storage import DESCRIPTION, WEIGHTS, load, read_description, save
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork
from dirprune.model.writing import atomic_path, atomic_write, write_with

Randomise = Callable[[nn.Module], nn.Module]


def half(network: nn.Module, images: Tensor) -> nn.Module:
    """The network with a random half of its units."""
    model = SwitchedNetwork(network, images, num_data=10)
    kept = {n: torch.randperm(s.size)[: s.size // 2] for n, s in model.sites.items()}
    return prune(model, Decision(kept)).eval()


@pytest.mark.parametrize(
    ("name", "channels", "size", "dtype"),
    [
        ("digits-cnn", 1, 8, torch.float32),
        ("lenet5", 1, 16, torch.float64),
        ("mlp", 1, 8, torch.bfloat16),
        ("resnet20", 3, 8, torch.float32),
        ("torchvision:resnet18", 3, 32, torch.float32),
    ],
)
def test_pruned_networks_come_back_bit_for_bit(
    tmp_path: Path,
    randomise_norms: Randomise,
    name: str,
    channels: int,
    size: int,
    dtype: torch.dtype,
) -> None:
    network = build_network(name, num_classes=7, in_channels=channels, size=size).to(dtype)
    images = torch.randn(4, channels, size, size, dtype=dtype)
    pruned = half(randomise_norms(network), images)
    save(tmp_path / "pruned", pruned, notes={"mean": [0.5]})
    back = load(tmp_path / "pruned")
    assert not back.training
    assert {p.dtype for p in back.parameters()} == {dtype}
    assert list(back.state_dict()) == list(pruned.state_dict())
    assert torch.equal(back(images), pruned(images))
    assert read_description(tmp_path / "pruned")["notes"] == {"mean": [0.5]}
    assert sorted(os.listdir(tmp_path / "pruned")) == sorted([WEIGHTS, DESCRIPTION])


def test_a_fresh_process_gives_the_same_logits(tmp_path: Path) -> None:
    images = torch.randn(4, 1, 8, 8)
    pruned = half(build_network("digits-cnn", num_classes=10, in_channels=1, size=8), images)
    save(tmp_path / "pruned", pruned)
    save_file({"images": images}, tmp_path / "images")
    program = (
        "import sys, torch\n"
        "from safetensors.torch import load_file, save_file\n"
        "from dirprune.model.storage import load\n"
        "torch.set_num_threads(1)\n"
        "network = load(sys.argv[1] + '/pruned')\n"
        "images = load_file(sys.argv[1] + '/images')['images']\n"
        "save_file({'logits': network(images).detach()}, sys.argv[1] + '/logits')\n"
    )
    root = str(Path(dirprune.model.__path__[0]).parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert torch.equal(load_file(tmp_path / "logits")["logits"], pruned(images).detach())


class Own(nn.Module):
    """A network that dirprune cannot build, with a weight that two layers share."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, width), nn.Linear(6, width)
        self.out = nn.Linear(width, 2)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.b(torch.relu(self.a(x)))) + self.c(torch.relu(self.a(x))))


def test_a_network_of_the_users_own_needs_the_original(tmp_path: Path) -> None:
    network, x = Own(), torch.randn(4, 5)
    pruned = half(network, x)
    save(tmp_path / "own", pruned)
    with pytest.raises(DirpruneError, match=r"holds a Own, which dirprune cannot build by itself"):
        load(tmp_path / "own")
    back: Any = load(tmp_path / "own", network=Own())
    assert torch.equal(back(x), pruned(x))
    assert back.b.weight is back.c.weight
    assert back.b.out_features == 3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(5, 2), r"does not fit Linear: .* differ\. Give the network it was pruned from"),
        (Own(width=2), r"does not fit Own: b.weight, b.bias, c.weight differ"),
        (Own().double(), None),
        (nn.Sequential(), "does not fit Sequential"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, other: nn.Module, message: str | None) -> None:
    save(tmp_path / "own", Own())
    if message is None:
        assert next(load(tmp_path / "own", network=other).parameters()).dtype == torch.float32
    else:
        with pytest.raises(DirpruneError, match=message):
            load(tmp_path / "own", network=other)


def test_a_module_that_pads_must_say_how_wide(tmp_path: Path) -> None:
    class Silent(nn.Module):
        def set_padding(self, before: int, after: int) -> None: ...

    with pytest.raises(DirpruneError, match="Silent '0' has set_padding but not the attributes"):
        save(tmp_path / "silent", nn.Sequential(Silent()))
    assert os.listdir(tmp_path) == []


# -- damage ---------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "saved"
    save(folder, build_network("resnet20", num_classes=3, in_channels=3, size=8))
    return folder


def forge(folder: Path, **changes: Any) -> None:
    description = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps({**description, **changes}))


def one_clear_line(folder: Path, message: str) -> None:
    with pytest.raises(DirpruneError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "is damaged"),
        (lambda data: data[:4], "is damaged"),
        (lambda data: b"", "is damaged"),
        (lambda data: b"\xff" * 8 + data[8:], "is damaged"),
        (lambda data: data + b"more", "is damaged"),
        (lambda data: data[:8] + b"}" + data[9:], "is damaged"),
    ],
)
def test_damaged_weights(saved: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = saved / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    one_clear_line(saved, message)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '{"format": 2}', '{"format": 1}', "\x00"]
)
def test_damaged_descriptions(saved: Path, text: str) -> None:
    (saved / DESCRIPTION).write_text(text)
    one_clear_line(saved, "network.json")


GOOD = {"name": "resnet20", "num_classes": 3, "in_channels": 3, "size": 8}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": None}, "cannot build by itself"),
        ({"architecture": "os.system"}, "cannot build by itself"),
        ({"architecture": {}}, "bad architecture"),
        ({"architecture": {**GOOD, "code": "print()"}}, "bad architecture"),
        ({"architecture": {**GOOD, "name": "subprocess:run"}}, "unknown network 'subprocess:run'"),
        ({"architecture": {**GOOD, "name": "torchvision:os"}}, "unknown network"),
        ({"architecture": {**GOOD, "name": 5}}, "bad architecture"),
        ({"architecture": {**GOOD, "name": ["a"]}}, "bad architecture"),
        ({"architecture": {**GOOD, "size": "8"}}, "size must be a whole number"),
        ({"architecture": {**GOOD, "name": "lenet5", "size": 28}}, "does not fit LeNet5"),
        ({"architecture": {**GOOD, "name": "resnet32"}}, "does not fit CifarResNet"),
        (
            {"architecture": {**GOOD, "num_classes": 2}},
            "does not fit CifarResNet: linear.weight, linear.bias differ",
        ),
        ({"paddings": []}, "lacks paddings"),
        ({"paddings": {"conv1": [1, 2]}}, "padding 'conv1'"),
        ({"paddings": {"no.such": [1, 2]}}, "padding 'no.such'"),
        ({"paddings": {"__class__": [1, 2]}}, "padding '__class__'"),
        ({"paddings": {"layer2.0.shortcut": [1]}}, "padding 'layer2.0.shortcut'"),
        ({"paddings": {"layer2.0.shortcut": 3}}, "padding 'layer2.0.shortcut'"),
        ({"paddings": {"layer2.0.shortcut": ["a", "b"]}}, "padding 'layer2.0.shortcut'"),
        ({"paddings": {"layer2.0.shortcut": [-1, 2]}}, "negative"),
        ({"counts": []}, "lacks"),
        ({"counts": {"no.such": {"groups": 1}}}, "counts of 'no.such'"),
        ({"counts": {"conv1": 3}}, "counts of 'conv1'"),
        ({"counts": {"conv1": {"no_such": 1}}}, "no_such=1 does not fit"),
        ({"counts": {"conv1": {"forward": 1}}}, "forward=1 does not fit"),
        ({"counts": {"conv1": {"__class__": 1}}}, "__class__=1 does not fit"),
        ({"counts": {"conv1": {"groups": 1}}}, "groups=1 does not fit"),
        ({"counts": {"bn1": {"num_features": 99}}}, "num_features=99 does not fit, the network"),
        ({"counts": {"bn1": {"num_features": 0}}}, "num_features=0 does not fit"),
        ({"counts": {"bn1": {"num_features": "8"}}}, "num_features='8' does not fit"),
        ({"architecture": {**GOOD, "num_classes": 10**15}}, "bad architecture"),
        ({"paddings": {"layer2.0.shortcut": [float("inf"), 2]}}, "padding 'layer2.0.shortcut'"),
        ({"format": "1"}, "expected format 1"),
    ],
)
def test_forged_descriptions(saved: Path, changes: dict[str, Any], message: str) -> None:
    forge(saved, **changes)
    one_clear_line(saved, message)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("linear.weight", torch.zeros(3, 64, dtype=torch.int64)),
        ("linear.weight", torch.zeros(3, 65)),
        ("linear.weight", torch.zeros(3)),
        ("linear.weight", torch.zeros(3, 0)),
    ],
)
def test_tensors_of_another_kind(saved: Path, name: str, tensor: Tensor) -> None:
    save_file({**load_file(saved / WEIGHTS), name: tensor}, saved / WEIGHTS)
    one_clear_line(saved, f"does not fit CifarResNet: {name} differs")


@pytest.mark.parametrize("missing", [WEIGHTS, DESCRIPTION])
def test_missing_files(saved: Path, missing: str) -> None:
    (saved / missing).unlink()
    one_clear_line(saved, f"{missing}: No such file")


def test_nothing_in_the_file_names_what_is_imported(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (saved.parent / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(saved.parent))
    forge(saved, **{"class": "evil.Network", "notes": {"__reduce__": "evil"}})
    assert torch.equal(
        load(saved).state_dict()["conv1.weight"], load_file(saved / WEIGHTS)["conv1.weight"]
    )
    assert "evil" not in sys.modules


# -- atomic writing -------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_saving_again_replaces_the_folder(saved: Path) -> None:
    save(saved, build_network("mlp", num_classes=3, in_channels=1, size=4))
    assert sorted(contents(saved)) == sorted([WEIGHTS, DESCRIPTION])
    assert type(load(saved)).__name__ == "MLP"
    assert os.listdir(saved.parent) == ["saved"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_folder(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = contents(saved)

    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(storage, "save_file", fails)
    expected = DirpruneError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        save(saved, nn.Linear(2, 2))
    assert contents(saved) == before
    assert os.listdir(saved.parent) == ["saved"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failed_rename_puts_the_old_folder_back(
    saved: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    before, calls, real = contents(saved), [0], os.replace

    def replace(source: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == failing:
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(writing.os, "replace", replace)
    with pytest.raises(DirpruneError, match=r"Input/output error\. What was there before is un"):
        save(saved, nn.Linear(2, 2))
    assert contents(saved) == before
    assert os.listdir(saved.parent) == ["saved"]


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    atomic_write(path, "one ✓")
    assert path.read_text(encoding="utf-8") == "one ✓"
    atomic_write(path, b"\x00two")
    assert path.read_bytes() == b"\x00two"
    write_with(path, lambda temporary: temporary.write_text("three"))

    def stops(temporary: Path) -> None:
        temporary.write_text("four")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_with(path, stops)
    assert path.read_text() == "three"
    assert os.listdir(path.parent) == ["file"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DirpruneError, match="cannot write"), atomic_path(tmp_path / "file"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_place_of_a_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").touch()
    with pytest.raises(DirpruneError, match="cannot write"):
        atomic_write(tmp_path / "there", "text")
    assert os.listdir(tmp_path / "there") == ["precious"]


def test_a_file_where_a_folder_must_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DirpruneError, match="cannot write"):
        save(tmp_path / "file" / "network", nn.Linear(2, 2))


def test_padding_widths_are_stored(saved: Path) -> None:
    widths = json.loads((saved / DESCRIPTION).read_text())["paddings"]
    assert widths == {"layer2.0.shortcut": [8, 8], "layer3.0.shortcut": [16, 16]}
    shortcut = load(saved).get_submodule("layer2.0.shortcut")
    assert isinstance(shortcut, PadShortcut)
    assert (shortcut.before, shortcut.after) == (8, 8)


@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_is_no_saved_network_is_not_replaced(tmp_path: Path, there: str) -> None:
    path = tmp_path / "mine"
    if there == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    with pytest.raises(DirpruneError, match="mine is there and holds no saved network"):
        save(path, nn.Linear(2, 2))
    assert (path if there == "file" else path / "mine.txt").read_text() == "mine"
