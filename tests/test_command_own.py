"""A network of the user's own on the command line, and what ``dirprune info`` says of networks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import dirprune
from dirprune.command import main
from dirprune.command.describe import describe
from dirprune.command.parts import new_network
from dirprune.command.settings import Settings
from dirprune.inference.fingerprint import fingerprint

NETS = '''
import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Two convolutions and a shortcut: 1x1 kernels, so that the costs are counted by hand."""

    def __init__(self, num_classes, in_channels=1, act=F.relu):
        super().__init__()
        self.act = act
        self.stem = nn.Conv2d(in_channels, 8, 1, bias=False)
        self.block = nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(8, num_classes, bias=False)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = self.act(x + self.block(x))
        return self.head(x.mean((2, 3)) * x.amax((2, 3)))


def make(num_classes, in_channels, size=8):
    return Net(num_classes, in_channels)


class Two(nn.Module):
    """Two inputs by name, and a dict of outputs."""

    def __init__(self):
        super().__init__()
        self.words = nn.Linear(6, 16)
        self.mid = nn.Linear(16, 16)
        self.end = nn.Linear(16, 3)
        self.example_inputs = {"words": torch.ones(2, 6), "bias": torch.ones(2, 1)}

    def forward(self, words, bias):
        return {"logits": self.end(self.mid(self.words(words).relu() + bias).relu())}


def few(): return Net(3)
def half(): return Net(3).half()
def wrong_example():
    net = Two()
    net.example_inputs = "words"
    return net
def text(): return nn.Embedding(10, 4)
'''
QUICK = ["--svi-epochs", "2", "--finetune-epochs", "1", "--restarts", "1", "--no-null-control"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with a file of networks."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "own_nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        yield folder
    for name in [n for n in sys.modules if "own_nets" in n]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def finished(home: Path, with_few_draws: Callable[[], AbstractContextManager[None]]) -> Path:
    """A finished run on the digits, from weights."""
    torch.manual_seed(0)
    network = dirprune.build_network("own_nets.py:make", num_classes=10, in_channels=1, size=8)
    data = dirprune.load_data("digits")
    dirprune.train(network, dirprune.loader(data.train, 64, shuffle=True), epochs=1)
    save_file(network.state_dict(), home / "own.safetensors")
    torch.save(network.state_dict(), home / "own.pt")
    run = ["run", "--network", "own_nets.py:make", "--weights", "own.safetensors", "--out", "out"]
    with with_few_draws():
        assert main([*run, *QUICK]) == 0
    return home / "out"


# -- info -----------------------------------------------------------------------------------------


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["info", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["own_nets.py:Net", "own_nets:Net"])
def test_info_counts_by_hand(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = info(capsys, name, "--size", "8", "--classes", "10")
    # 64 pixels x (1 x 8 + 8 x 8) and 8 x 10; the stream is one site of eight units.
    assert (found["macs"], found["params"]) == (64 * 72 + 80, 152)
    assert found["inputs"] == "float32[1, 8, 8]"
    (site,) = found["sites"]
    assert (site["name"], site["units"]) == ("stem", 8)
    assert (site["producers"], site["consumers"]) == (["stem", "block"], ["block", "head"])
    # one unit: 64 x (1 + 1) + 10 multiply-adds and 1 + 1 + 10 parameters are left
    for share in (site["macs_share"], found["prunable_macs_share"]):
        assert share == pytest.approx(1 - 138 / 4688)
    for share in (site["params_share"], found["prunable_params_share"]):
        assert share == pytest.approx(1 - 12 / 152)
    assert found["unprunable"] == {"head": "it is the network's output"}


def test_info_as_a_table(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "lenet5"]) == 0
    said = capsys.readouterr().out
    # by default LeNet-5's own 28 x 28 images
    assert said.startswith("lenet5: 2,293,000 MACs, 431,080 parameters; one example is float32[1")
    assert "conv2     50  85.5 %  96.6 %  conv2        fc1" in said
    # conv1 20, conv2 500 and 1, fc1 50 x 16 and 1, fc2 500; the biases go too
    left = 25 * 576 + 25 * 64 + 16 + 10, 25 + 1 + 25 + 1 + 16 + 1 + 10 + 10
    shares = [f"{100 * (1 - a / b):.1f} %" for a, b in zip(left, (2_293_000, 431_080), strict=True)]
    assert f"{shares[0]} of the MACs and {shares[1]} of the parameters are gone" in said
    assert said.rstrip().endswith("fc2: it is the network's output")


def test_info_with_patterns(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = info(capsys, "mlp", "--exclude", "hidden.0")
    assert [s["name"] for s in found["sites"]] == ["hidden.1"]
    assert found["unprunable"]["hidden.0"] == "left alone by include/exclude"
    found = info(capsys, "mlp", "--include", "hidden.*")
    assert [s["name"] for s in found["sites"]] == ["hidden.0", "hidden.1"]
    assert main(["info", "mlp", "--include", "conv*"]) == 2
    assert "unknown layer 'conv*'" in capsys.readouterr().err


def test_info_of_other_inputs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = info(capsys, "own_nets.py:Two")
    assert found["inputs"] == "float32[6], float32[1]"
    assert [s["name"] for s in found["sites"]] == ["words", "mid"]


def test_info_of_a_network_in_half_precision(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = info(capsys, "own_nets.py:half", "--channels", "1", "--size", "8")
    assert found["inputs"] == "float16[1, 8, 8]"
    assert [(s["name"], s["units"]) for s in found["sites"]] == [("stem", 8)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["own_nets.py:text"], "has an attribute example_inputs"),
        (["own_nets.py:Two", "--size", "8"], "fails on float32[3, 8, 8]"),
        (["own_nets.py:wrong_example"], "example_inputs is a str without tensors"),
        (["own_nets.py:mke"], "did you mean 'make'"),
        (["lenet5", "--graph", "graph.jpg"], "expected a name that ends in .png or .svg or .pdf"),
        (["lenet5", "--size", "0"], "size must be a whole number"),
    ],
)
def test_info_of_bad_input(
    arguments: list[str], expected: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", *arguments]) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out


@pytest.mark.parametrize(
    ("name", "begins"), [("g.png", b"\x89PNG"), ("g.svg", b"<?xml"), ("g.PDF", b"%PDF")]
)
def test_info_draws_the_graph(
    name: str, begins: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / name
    assert main(["info", "mlp", "--graph", str(path)]) == 0
    assert capsys.readouterr().out.endswith(f"picture: {path}\n")
    assert path.read_bytes().startswith(begins)
    assert [p.name for p in path.parent.iterdir()] == [name]


def test_info_of_a_torchvision_network_is_at_its_usual_size() -> None:
    said = describe("torchvision:squeezenet1_1")
    # torchvision's own table: 1,235,496 parameters, 0.35 G multiply-adds at 224 x 224
    assert "1,235,496 parameters; one example is float32[3, 224, 224]" in said
    assert 0.345e9 < int(said.split()[1].replace(",", "")) < 0.355e9


# -- run, compare, prior --------------------------------------------------------------------------


def test_a_run_says_how_to_load_its_network(
    finished: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--network", "own_nets.py:make", "--weights", "own.safetensors", "--out", "out"]
    assert main([*run, *QUICK, "--resume"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("in Python: ")]
    expression = line.removeprefix("in Python: ")
    assert expression == (
        "dirprune.load('out/pruned', network=dirprune.build_network('own_nets.py:make', "
        "num_classes=10, in_channels=1, size=8))"
    )
    # in a process that has seen nothing of it
    script = (
        "import dirprune, torch\nfrom safetensors.torch import save_file\n"
        f"network = {expression}\n"
        "save_file({'y': network(torch.ones(2, 1, 8, 8)).detach()}, 'y.safetensors')\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=home, check=True, timeout=120)
    original = dirprune.build_network("own_nets:make", num_classes=10, in_channels=1, size=8)
    again = dirprune.load(finished / "pruned", network=original)
    assert torch.equal(load_file(home / "y.safetensors")["y"], again(torch.ones(2, 1, 8, 8)))
    assert again.stem.out_channels < 8  # type: ignore[union-attr,operator]


def test_a_run_is_resumed_with_the_same_network_only(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "--weights", "own.safetensors", "--out", "out", *QUICK, "--resume"]
    for other in ([], ["--network", "own_nets:make"]):
        assert main([*run, *other]) == 2
        said = capsys.readouterr().err
        assert "--network was 'own_nets.py:make', now " in said
        assert len(said.splitlines()) == 1


def test_code_that_computes_something_else_is_another_posterior(home: Path) -> None:
    net = type(dirprune.build_network("own_nets:Net", num_classes=3, in_channels=1, size=4))
    prints = []
    for act in (torch.relu, torch.relu, torch.nn.functional.gelu):
        torch.manual_seed(0)
        model = dirprune.SwitchedNetwork(net(3, act=act), torch.randn(2, 1, 4, 4), num_data=4)
        prints.append(fingerprint(model))
    assert prints[0] == prints[1]
    assert {k for k in prints[0] if prints[0][k] != prints[2][k]} == {"function"}


def test_the_report_of_a_run_needs_no_code(finished: Path, home: Path) -> None:
    (home / "own_nets.py").rename(home / "away.py")
    try:
        assert main(["report", str(finished)]) == 0
    finally:
        (home / "away.py").rename(home / "own_nets.py")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("own_nets.py:few", "gives [2, 3] for two images: expected logits [2, 10], one for each"),
        ("own_nets.py:Two", "fails on images [2, 1, 8, 8] of digits"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(
    name: str, expected: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--network", name, "--out", "refused"]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert len(said.splitlines()) == 1
    assert not (home / "refused").exists()


def test_weights_of_another_network_are_refused(
    finished: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(nn.Linear(2, 2).state_dict(), home / "other.safetensors")
    for file, expected in (("other.safetensors", "do not fit Net"), ("none.pt", "no such file")):
        run = ["run", "--network", "own_nets.py:make", "--weights", file, "--out", "refused"]
        assert main(run) == 2
        assert expected in capsys.readouterr().err


def test_prior_takes_it(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = ["prior", "--network", "own_nets:make", "--weights", "own.pt", "--draws", "10"]
    assert main([*prior, "--json"]) == 0
    (site,) = json.loads(capsys.readouterr().out)["priors"]["symmetric"]["sites"]
    assert (site["name"], site["units"]) == ("stem", 8)


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_compare_builds_it_in_its_workers(processes: int, finished: Path, home: Path) -> None:
    out = home / f"compare-{processes}"
    command = [
        "compare", "--network", "own_nets.py:make", "--train-epochs", "0", "--guides", "dirichlet",
        "--temperatures", "1", "--seeds", "0,1", "--svi-epochs", "1", "--out", str(out),
        "--processes", str(processes),
    ]  # fmt: skip
    assert main(command) == 0
    rows = json.loads((out / "comparison.json").read_text())["cells"]
    assert len(rows) == 2
    # as they come, not trained: by seed, two networks
    data = dirprune.load_data("digits")
    for seed, other in ((0, 1), (1, 0)):
        saved = load_file(out / "networks" / f"seed-{seed}" / "network.safetensors")
        for made in (seed, other):
            state = new_network(Settings(network="own_nets.py:make", seed=made), data).state_dict()
            assert torch.equal(saved["stem.weight"], state["stem.weight"]) == (made == seed)
