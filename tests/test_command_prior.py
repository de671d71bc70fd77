"""``dirprune prior``: what it prints and draws, with and without weights, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import dirprune
from dirprune.command import main
from dirprune.inference.evaluate import evaluate

# Half the draws of the usual number: seconds.
DIGITS = ["prior", "--network", "digits-cnn", "--data", "digits", "--draws", "50"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A digits-cnn after four epochs, and its accuracy on the validation images."""
    data = dirprune.load_data("digits")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = dirprune.build_network("digits-cnn", num_classes=10, in_channels=1, size=8)
        dirprune.train(network, dirprune.loader(data.train, 64, shuffle=True), epochs=4)
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    save_file(network.state_dict(), path)
    accuracy = evaluate(network, dirprune.loader(data.validation, 256)).percent
    assert accuracy > 80
    return path, accuracy


def test_with_weights(
    weights: tuple[Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, accuracy = weights
    priors = ["--prior", "symmetric", "--prior", "half-cauchy:0.1", "--prior", "weight-norm:1"]
    out = tmp_path / "out"
    arguments = [*DIGITS, *priors, "--weights", str(path)]
    assert main([*arguments, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    # A row for each prior and site, and for the uniform switch, which needs .95 K of the K units.
    rows = [line.split() for line in said.out.splitlines()]
    for prior in ("symmetric", "half-cauchy:0.1", "weight-norm:1"):
        for site, units in (("conv1", "16"), ("conv2", "32"), ("fc1", "64")):
            assert [prior, site, units] in [row[:3] for row in rows]
    assert ["uniform", "switch", "conv1", "16", "16"] in rows
    assert ["uniform", "switch", "fc1", "64", "61"] in rows
    assert "126 validation images" in said.out
    assert f"{accuracy:.1f} %" in said.out
    assert [p.name for p in out.iterdir()] == ["prior.png"]
    assert (out / "prior.png").read_bytes().startswith(b"\x89PNG")

    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["priors"]) == ["symmetric", "half-cauchy:0.1", "weight-norm:1"]
    flat, sparse = (found["priors"][name] for name in ("symmetric", "half-cauchy:0.1"))
    assert flat["held_out"]["images"] == 126
    assert flat["held_out"]["network"] == pytest.approx(accuracy)
    assert flat["held_out"]["network"] > flat["held_out"]["accuracy"]["mean"]
    assert flat["held_out"]["accuracy"]["mean"] > sparse["held_out"]["accuracy"]["mean"]
    by_site = [
        (f["units_with_mass"]["mean"], s["units_with_mass"]["mean"])
        for f, s in zip(flat["sites"], sparse["sites"], strict=True)
    ]
    assert all(dense > few for dense, few in by_site)


def test_without_weights_units_are_counted_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DIGITS, "--prior", "hierarchical", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "conv1" in said
    assert "no accuracy: without --weights the network is untrained" in said
    assert "accuracy of" not in said
    assert (tmp_path / "prior.png").exists()
    assert main([*DIGITS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["priors"]) == ["symmetric"]
    assert found["priors"]["symmetric"]["held_out"] is None


def test_a_prior_that_is_raised_to_the_floor_says_so(
    weights: tuple[Path, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = dirprune.build_network("digits-cnn", num_classes=10, in_channels=1, size=8)
    dirprune.load_weights(network, weights[0])
    state = network.state_dict()
    state["conv1.weight"][3] = 0
    save_file(state, tmp_path / "dead.safetensors")
    options = ["--weights", str(tmp_path / "dead.safetensors"), "--prior", "weight-norm"]
    assert main([*DIGITS, *options]) == 0
    said = capsys.readouterr().err
    assert said.startswith(
        "dirprune: warning: prior WeightNorm(alpha=1.0): the norms of the weights"
    )
    assert len(said.splitlines()) == 1


BAD = {
    "unknown": (["--prior", "symetric"], "did you mean 'symmetric'"),
    "second": (["--prior", "symmetric", "--prior", "half-cauchy:0"], "must be positive"),
    "twice": (["--prior", "symmetric", "--prior", "symmetric:1"], "as 'symmetric' and 'symm"),
    "values": (["--prior", "hierarchical:1"], "hierarchical:SHAPE:RATE"),
    "no weights": (["--prior", "weight-norm"], "reads the trained weights: give --weights"),
    "network": (["--network", "digits"], "did you mean 'digits-cnn'"),
    "data": (["--data", "digit"], "did you mean 'digits'"),
    "missing weights": (["--weights", "nowhere.pt"], "nowhere.pt"),
    "draws": (["--draws", "1"], "draws: expected at least 2"),
    "seed": (["--seed", "-1"], "--seed -1"),
    "size": (["--network", "lenet5"], "16x16"),
    "out is a file": (["--out", "out.txt"], "is a file"),
}


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
    assert main([*DIGITS, *options]) == 2
    said = capsys.readouterr()
    assert expected in said.err
    assert len(said.err.splitlines()) == 1
    assert said.err.startswith("dirprune: ")
    assert said.out == ""


def test_bn_scale_where_there_is_no_batch_norm(
    weights: tuple[Path, float], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--weights", str(weights[0]), "--prior", "symmetric", "--prior", "bn-scale"]
    assert main([*DIGITS, *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dirprune: --prior bn-scale: ")
    assert "site 'conv1': 16 of 16 units have no batch norm" in said
