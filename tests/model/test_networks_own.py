"""Networks of the user's own by name: what is called with what, and what is said of bad names."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import dirprune
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network, usual_arguments

NETS = """
import helper
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=7, in_channels=2):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, helper.WIDTH, 3)
        self.fc = nn.Linear(helper.WIDTH, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))

    @classmethod
    def wide(cls, num_classes):
        return cls(num_classes, 5)


def make(size, *, num_classes, scale=2, **rest):
    assert not rest
    return nn.Linear(size * scale, num_classes)


def broken():
    helper.fail()


def needs(width, num_classes):
    return Net()


def nothing():
    return {"a": 1}


trained = Net(3)
number = 5
"""
HELPER = """
WIDTH = 4


def fail():
    raise RuntimeError("out of\\nluck")
"""
OWN = {"nets", "helper", "bad", "evil"}
SIZES = {"num_classes": 10, "in_channels": 3, "size": 8}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a file of networks; what it puts on the path and imports goes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "helper.py").write_text(HELPER)
    yield tmp_path
    for name in [n for n in sys.modules if n in OWN or n.startswith("_dirprune_")]:
        del sys.modules[name]


@pytest.mark.parametrize("where", ["nets.py", "nets", "./nets.py"])
def test_a_factory_gets_the_arguments_that_it_names(where: str, folder: Path) -> None:
    made = build_network(f"{where}:make", **SIZES)
    assert isinstance(made, nn.Linear)
    assert (made.in_features, made.out_features) == (16, 10)  # size x its own scale, num_classes
    net = build_network(f"{where}:Net", **SIZES)
    assert (net.conv.in_channels, net.fc.out_features) == (3, 10)  # type: ignore[union-attr]
    wide = build_network(f"{where}:Net.wide", **SIZES)
    assert wide.conv.in_channels == 5  # type: ignore[union-attr]


def test_a_file_elsewhere_finds_its_neighbours_and_two_of_one_name_are_two(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "nets.py").write_text("from torch import nn\ndef make(): return nn.Linear(1, 1)\n")
    assert build_network(f"{other}/nets.py:make", **SIZES).in_features == 1
    assert build_network("nets.py:make", **SIZES).in_features == 16


def test_a_module_that_is_named_is_copied_each_time(folder: Path) -> None:
    one, two = (build_network("nets:trained", **SIZES) for _ in range(2))
    assert one is not two
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with torch.no_grad():
        one.fc.bias.add_(1)  # type: ignore[union-attr,operator]
    assert not torch.equal(one.fc.bias, two.fc.bias)  # type: ignore[union-attr,arg-type]


def test_usual_arguments_are_the_factorys_own(folder: Path) -> None:
    assert usual_arguments("nets.py:Net") == {"num_classes": 7, "in_channels": 2, "size": 32}
    assert usual_arguments("nets.py:trained") == {"num_classes": 10, "in_channels": 3, "size": 32}
    assert usual_arguments("lenet5") == {"num_classes": 10, "in_channels": 1, "size": 28}
    assert usual_arguments("resnet20") == {"num_classes": 10, "in_channels": 3, "size": 32}
    imagenet = {"num_classes": 1000, "in_channels": 3, "size": 224}
    assert usual_arguments("torchvision:resnet18") == imagenet


BAD = {
    "no such file": ("net.py:make", r"there is no file net\.py; did you mean 'nets\.py'"),
    "a folder": (".:make", "neither a file of Python"),
    "no such module": ("netz:make", "there is no module 'netz' in .*did you mean 'nets'"),
    "no such package": ("nets.deep:make", "there is no module 'nets.deep'"),
    "misspelt torchvision": ("torchvison:resnet18", "did you mean 'torchvision'"),
    "no such factory": ("nets.py:mak", r"nets\.py has no 'mak'; did you mean 'make'"),
    "no such method": ("nets.py:Net.wid", r"has no 'Net\.wid'; did you mean 'wide'"),
    "no attribute of that": ("nets.py:number.make", r"nets\.py has no 'number\.make'"),
    "no factory": ("nets.py:", r"expected FILE\.py:FACTORY"),
    "not callable": ("nets.py:number", "is of type int: expected a function or a class"),
    "no network": ("nets.py:nothing", r"nets\.py:nothing returned dict: expected an nn\.Module"),
    "arguments": ("nets.py:needs", "needs 'width', and it is called with num_classes, in_channels"),
    "fails": ("nets.py:broken", r"fails at helper\.py:6: RuntimeError: out of luck$"),
}


@pytest.mark.parametrize(("name", "expected"), BAD.values(), ids=BAD)
def test_bad_names_say_what_is_wrong(name: str, expected: str, folder: Path) -> None:
    with pytest.raises(DirpruneError, match=expected) as caught:
        build_network(name, **SIZES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def make(:\n", r"bad\.py:make fails at bad\.py:1: SyntaxError"),
        ("import nowhere_to_be_found\n", r"fails at bad\.py:1: ModuleNotFoundError: No module"),
        ("import json\n\njson.loads('{')\n", r"fails at bad\.py:3: JSONDecodeError"),
        ("import sys\nsys.exit(3)\n", r"fails at bad\.py:2: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("where", ["bad.py", "bad"])
def test_code_that_cannot_be_imported_says_where(
    code: str, expected: str, where: str, folder: Path
) -> None:
    (folder / "bad.py").write_text(code)
    with pytest.raises(DirpruneError, match=expected.replace(r"bad\.py:make", "")):
        build_network(f"{where}:make", **SIZES)
    with pytest.raises(DirpruneError, match="fails at"):  # nothing half imported is left
        build_network(f"{where}:make", **SIZES)


def test_numbers_are_checked_before_anything_is_imported(folder: Path) -> None:
    (folder / "bad.py").write_text("raise SystemError\n")
    with pytest.raises(DirpruneError, match="size must be a whole number"):
        build_network("bad.py:make", num_classes=1, in_channels=1, size=0)


def test_nothing_that_stands_in_a_file_is_imported(folder: Path) -> None:
    network = build_network("nets.py:Net", **SIZES)
    dirprune.save(folder / "saved", network)
    path = folder / "saved" / "network.json"
    description = json.loads(path.read_text())
    assert description["architecture"] is None
    with pytest.raises(DirpruneError, match="cannot build by itself"):
        dirprune.load(folder / "saved")
    (folder / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    for name in ("evil.py:make", "evil:make"):
        description["architecture"] = {"name": name, **SIZES}
        path.write_text(json.dumps(description))
        with pytest.raises(DirpruneError, match="unknown network 'evil"):
            dirprune.load(folder / "saved")
    assert not (folder / "ran").exists()
    again = dirprune.load(folder / "saved", network=build_network("nets.py:Net", **SIZES))
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(again(x), network.eval()(x))
