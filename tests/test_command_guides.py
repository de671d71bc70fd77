"""Guides and priors on the command line: the lists, a run with each kind, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dirprune.analysis.tree import load_tree
from dirprune.command import main
from dirprune.guides import GUIDES
from dirprune.model.priors import PRIORS

QUICK = ["--train-epochs", "2", "--svi-epochs", "1", "--finetune-epochs", "0", "--restarts", "1"]


def test_info_guides_says_what_each_is_and_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "guides"]) == 0
    text = capsys.readouterr().out
    for name, family in GUIDES.items():
        assert f"{name}: {family.summary}\n    {family.right_elbo}; --guide-options: " in text
    assert "rank=10, init_scale=0.3" in text
    assert main(["info", "guides", "--json"]) == 0
    assert [g["name"] for g in json.loads(capsys.readouterr().out)] == list(GUIDES)


def test_info_priors_says_how_each_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "priors"]) == 0
    text = capsys.readouterr().out
    assert "hierarchical:SHAPE:RATE" in text
    assert "default: half-cauchy:0.1" in text
    assert main(["info", "priors", "--json"]) == 0
    assert [p["name"] for p in json.loads(capsys.readouterr().out)] == list(PRIORS)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("normal", "normal: Pyro's AutoNormal"),
        ("low-rank-normal:rank=5", "low-rank-normal: Pyro's"),
        ("half-cauchy", "half-cauchy:SCALE: "),
        ("half-cauchy:0.3", "half-cauchy:SCALE: "),
    ],
)
def test_info_shows_one_guide_or_prior(
    name: str, entry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith(entry)
    assert len(text.splitlines()) == 2
    assert main(["info", name, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["name"] == name.partition(":")[0]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("guide", "did you mean 'guides'"), ("prior", "did you mean 'priors'"),
        ("prios", "did you mean 'priors'"), ("half-cauchi", "did you mean 'half-cauchy'"),
        ("lenet6", "unknown network 'lenet6'; did you mean 'lenet5'"),
        ("resnet18", "did you mean 'torchvision:resnet18'"),
    ],
)  # fmt: skip
def test_info_knows_what_was_meant(
    name: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", name]) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(
    ("options", "guide", "elbo"),
    [
        (
            ["--guide", "low-rank-logistic-normal", "--guide-options", "rank=3,init-scale=0.2",
             "--prior", "hierarchical:2:1"],
            {"rank": 3, "init_scale": 0.2},
            "TraceMeanField_ELBO",
        ),
        (["--guide", "normal", "--prior", "half-cauchy"], {}, "Trace_ELBO"),
    ],
    ids=["ours", "Pyro's"],
)  # fmt: skip
def test_a_run_with_another_guide_and_a_prior_that_is_inferred(
    options: list[str], guide: dict[str, float], elbo: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert main(["run", "--out", str(out), *QUICK, "--no-null-control", *options]) == 0
    tree = load_tree(out / "posterior.nc")
    settings = json.loads(tree.attrs["settings"])
    assert settings["guide"] == options[1]
    assert settings["guide_options"] == guide
    assert settings["elbo"] == elbo
    assert "concentration" not in tree.children
    assert "fc1_concentration" in tree["posterior"]
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--guide", "normall"], "unknown guide 'normall'; did you mean 'normal'"),
        (["--guide-options", "rank=3"], "'dirichlet' has no option 'rank'; it is an option of"),
        (["--guide-options", "rank"], "expected NAME=NUMBER,..., as in rank=10,init_scale=0.1"),
        (["--guide-options", "rank=many"], "expected NAME=NUMBER"),
        (["--guide-options", "a=1,a=2"], "a is given twice"),
        (["--guide-options", "init_concentration=-1"], "init_concentration > 0, but got -1"),
        (["--guide-options", "init_concentration=nan"], "init_concentration > 0, but got nan"),
        (
            ["--guide", "low-rank-normal", "--guide-options", "rank=2.5"],
            "rank to be a whole number of at least 1, but got 2.5",
        ),
        (
            ["--guide", "normal", "--evidence", "concentration"],
            "--evidence concentration needs --guide dirichlet: 'normal' has no concentrations",
        ),
        (["--prior", "hierarchical:1"], "expected 2 values after the name"),
        (["--prior", "half-cauchy:-1"], "the scale of a half-Cauchy must be positive"),
        (["--prior", "symmetric:inf"], "positive"),
        (["--prior", "bn-scale"], "no batch norm"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    options: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(["run", "--network", "lenet5", "--data", "digits", "--size", "28", "--out",
                 str(out), *options]) == 2  # fmt: skip
    said = capsys.readouterr().err
    assert expected in said
    assert said.startswith("dirprune: ")
    assert said.count("\n") == 1
    assert not out.exists()
