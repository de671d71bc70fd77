"""Other evidence than the removal cost, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dirprune.analysis.evidence import Passes, evidence
from dirprune.analysis.tree import load_tree
from dirprune.command import main


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_a_run_stores_its_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = ["--evidence", "taylor:batch=16", "--budget", "macs=0.5", "--train-epochs", "2"]
    assert main(["run", *options, "--svi-epochs", "1", "--finetune-epochs", "0",
                 "--out", str(out)]) == 0  # fmt: skip
    stored = evidence("taylor", None, load_tree(out / "posterior.nc"))
    assert stored.criterion == "taylor:batch=16"
    images = stored.passes.forward  # all training images, which are fewer than 4096
    assert 1000 < images < 1797
    assert stored.passes == Passes(images, images)
    capsys.readouterr()
    assert main(["decide", str(out), "--evidence", "taylor", "--budget", "macs=0.3"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert 0 < again["macs"] <= 0.3
    # from the posterior alone, whatever the run decided by; but not what it did not store
    assert main(["decide", str(out), "--evidence", "mean", "--budget", "macs=0.3"]) == 0
    assert main(["decide", str(out), "--evidence", "fisher", "--budget", "macs=0.3"]) == 2
    assert "evidence 'fisher' needs a model" in capsys.readouterr().err
