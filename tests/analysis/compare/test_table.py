"""The table of a grid from made-up cells, and one cell made for good."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.compare import Cell, CellResult, build_table, run_cell, to_csv, to_markdown
from dirprune.analysis.compare.cell import _at_rest, load_cell, save_cell, save_error, unit_scores
from dirprune.analysis.evidence import COST_DRAWS
from dirprune.inference.fit import Fit
from dirprune.model.cost import CostTable, Term
from dirprune.model.errors import DirpruneError


def result(
    guide: str = "a", temperature: float = 1.0, seed: int = 0, elpd: float = -1.0, **more: Any
) -> CellResult:
    """A cell on 20 images with the mean score ``elpd``."""
    noise = np.random.default_rng(seed).normal(size=20)
    fields: dict[str, Any] = {
        "elpd": elpd + noise - noise.mean(), "elbo": -100.0, "elbo_se": 1.0, "khat": 0.5,
        "sd_log_w": 2.0,
        "accuracy": {"original": 99.0, "keep=0.5": {"pruned": 90.0, "recalibrated": None}},
        "scores": {"one": np.array([4.0, 3.0, 2.0, 1.0])}, "kept": {"keep=0.5": {"one": [0, 1]}},
        "seconds": {"svi": 1.0, "posterior": 2.0, "cuts": 0.5}, "evidence": "removal-cost",
    }  # fmt: skip
    return CellResult(cell=Cell(guide, "symmetric:1", temperature, seed), **{**fields, **more})


def test_rows_are_means_over_seeds_and_differences_are_paired() -> None:
    other: dict[str, Any] = {
        "scores": {"one": np.array([4.0, 3.0, 1.0, 2.0])},
        "kept": {"keep=0.5": {"one": [0, 2]}},
    }
    rows = build_table(
        [
            result("a", seed=0, elpd=-1.0), result("a", seed=1, elpd=-3.0),
            result("b", seed=0, elpd=-1.1, **other),
            result("b", seed=1, elpd=-3.3, khat=None, **other),
        ]
    )  # fmt: skip
    best, second = rows
    assert (best["guide"], second["guide"]) == ("a", "b")
    assert best["elpd"] == {"mean": pytest.approx(-2.0), "sd": pytest.approx(np.sqrt(2))}
    # The images' noise is common: the differences are -0.1 and -0.3 on every image, so their error
    # is that between networks alone, sqrt(0.02 / 2).
    assert second["difference"] == {"mean": pytest.approx(-0.2), "se": pytest.approx(0.1)}
    # Beyond measure for one seed: a mean of the others would hide the worst.
    assert second["khat"] == {"mean": None, "sd": None}
    assert second["tau"]["mean"] == pytest.approx(4 / 6)
    assert second["kept"]["keep=0.5"]["mean"] == pytest.approx(1 / 3)
    assert second["seconds"]["posterior"] == {"mean": 2.0, "sd": 0.0}
    assert json.dumps(rows, allow_nan=False)


def test_the_reference_has_all_seeds_and_others_are_compared_where_both_are() -> None:
    rows = build_table(
        [
            result("a", seed=0, elpd=-2.0), result("a", seed=1, elpd=-2.0),
            result("lucky", seed=1, elpd=-0.5),
            result("apart", seed=7, elpd=-3.0),
        ]
    )  # fmt: skip
    assert [row["guide"] for row in rows] == ["a", "lucky", "apart"]
    assert rows[1]["difference"]["mean"] == pytest.approx(1.5)
    assert rows[1]["seeds"] == [1]
    assert rows[2]["difference"] == {"mean": None, "se": None}
    assert rows[2]["tau"]["mean"] is None
    assert "-" in to_markdown(rows)


def test_a_cell_does_not_take_what_cannot_be_told_for_no() -> None:
    def fitted(losses: Any) -> Fit:
        return Fit([], [losses], 0.0, {})

    rng = np.random.default_rng(0)
    assert _at_rest(fitted(1000 + 300 * rng.normal(size=200))) is None
    assert _at_rest(fitted(1000 + rng.normal(size=200))) is True
    assert _at_rest(fitted(1000.0 - np.arange(200))) is False


def test_seeds_whose_rest_cannot_be_told_are_counted() -> None:
    verdicts = [True, None, False, True]
    rows = build_table([result(seed=s, at_rest=good) for s, good in enumerate(verdicts)])
    assert rows[0]["at_rest"] == verdicts
    assert "2 of 4, 1 ?" in to_markdown(rows)


def test_rows_are_ordered_by_what_is_paired() -> None:
    """The second network is the easier one; a row that has it alone is no better for that."""
    rows = build_table(
        [
            result("a", seed=0, elpd=-3.0), result("a", seed=1, elpd=-1.0),
            result("b", seed=0, elpd=-3.1), result("b", seed=1, elpd=-1.1),
            result("partial", seed=1, elpd=-1.2),
        ]
    )  # fmt: skip
    assert [row["guide"] for row in rows] == ["a", "b", "partial"]
    lines = to_markdown(rows).splitlines()
    assert "seeds" in lines[0]
    assert lines[4].split("|")[-2].strip() == "1 of 2"


def test_a_whole_grid_needs_no_column_for_its_seeds() -> None:
    rows = build_table(
        [result("a", seed=s) for s in (0, 1)] + [result("b", seed=s) for s in (0, 1)]
    )
    assert "seeds" not in to_markdown(rows).splitlines()[0]


def test_networks_of_unequal_multiply_adds_are_told() -> None:
    # A unit of "one" costs 10 of 44, of "two" 1.
    ones = np.repeat([10, 1], 4)
    costs = CostTable({"one": 4, "two": 4}, (0, [Term(1, 0, ones, 1, 0 * ones)]), (0, []))

    def told(*kept: dict[str, list[int]]) -> tuple[list[Any], str]:
        made = [result(f"g{i}", kept={"keep=0.5": k}) for i, k in enumerate(kept)]
        rows = build_table(made, costs=costs)
        return [row["macs"]["keep=0.5"]["mean"] for row in rows], to_markdown(rows)

    half = {"one": [0, 1], "two": [0, 1]}
    shares, text = told(half, {"one": [2, 3], "two": [0, 1]})
    assert shares == [0.5, 0.5]
    assert "Unequal" not in text
    shares, text = told(half, {"one": [0], "two": [0, 1, 2]})
    assert sorted(shares) == [13 / 44, 0.5]
    assert "Unequal multiply-adds: 29.5 to 50 % of the original's at keep=0.5" in text


def test_markdown_and_csv() -> None:
    made = [result("a"), result("b|c", elpd=-1.5, khat=None)]
    lines = to_markdown(build_table(made)).splitlines()
    assert len({line.count(" | ") for line in lines[:4]}) == 1  # every row has every column
    assert "-1.5000" in lines[3]
    found = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert float(found[1]["elpd"]) == pytest.approx(-1.5)
    assert found[1]["khat"] == ""
    assert found[0]["kept keep=0.5"] == "one:2"


def test_no_cell_no_table() -> None:
    with pytest.raises(DirpruneError, match="no cell is finished"):
        build_table([])


@pytest.fixture(scope="module")
def made(randomise_norms: Callable[[nn.Module], nn.Module]) -> tuple[Any, CellResult, Any]:
    """A cell of a small network with a batch norm, on images that one unit tells apart."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3)
    )
    randomise_norms(network).eval()
    images = torch.randn(80, 1, 5, 5)
    with torch.no_grad():
        labels = network(images).argmax(1)
    train = DataLoader(TensorDataset(images[:60], labels[:60]), batch_size=20, shuffle=True)
    held = DataLoader(TensorDataset(images[60:], labels[60:]), batch_size=20)
    before = {n: v.clone() for n, v in network.state_dict().items()}
    tree, found = run_cell(
        Cell("dirichlet", "symmetric:1", 1.0, 0), network, train, held, num_data=60,
        budgets=[{"keep": 0.5}], epochs=2, restarts=2,
    )  # fmt: skip
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())
    return tree, found, network


def test_a_cell_of_a_network_with_batch_norms(made: tuple[Any, CellResult, Any]) -> None:
    tree, found, _ = made
    assert found.accuracy["original"] == 100  # the labels are its own
    assert found.accuracy["keep=0.5"]["recalibrated"] is not None
    (site,) = found.scores
    assert len(found.kept["keep=0.5"][site]) == 3
    assert set(found.kept["keep=0.5"][site]) == set(np.argsort(-found.scores[site])[:3].tolist())
    assert len(found.elpd) == 20
    assert tree["validation"].sizes["image"] == 20
    assert found.elbo_se is not None
    assert found.elbo_se > 0


def test_a_point_has_neither_an_elbo_nor_weights(made: tuple[Any, CellResult, Any]) -> None:
    _, _, network = made
    images = torch.randn(40, 1, 5, 5)
    loader = DataLoader(TensorDataset(images, torch.arange(40) % 3), batch_size=20)
    _, found = run_cell(
        Cell("delta", "symmetric:2", 1.0, 0), network, loader, loader, num_data=40, budgets=[]
    )
    assert (found.elbo, found.elbo_se, found.khat, found.sd_log_w) == (None,) * 4
    assert np.isfinite(found.elpd).all()


def test_widths_may_be_uniform() -> None:
    torch.manual_seed(0)
    layers = nn.Linear(25, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)
    network = nn.Sequential(nn.Flatten(), *layers)
    loader = DataLoader(
        TensorDataset(torch.randn(40, 1, 5, 5), torch.arange(40) % 3), batch_size=20
    )
    _, found = run_cell(
        Cell("delta", "symmetric:2", 1.0, 0), network, loader, loader, num_data=40,
        budgets=[{"keep": 0.5}], widths="uniform", criterion="random",
    )  # fmt: skip
    assert [len(kept) for kept in found.kept["keep=0.5"].values()] == [4, 2]


def test_a_cell_comes_back_from_its_folder(
    made: tuple[Any, CellResult, Any], tmp_path: Path
) -> None:
    tree, found, _ = made
    assert load_cell(tmp_path) is None
    save_error(tmp_path, found.cell, "no good", "")
    assert load_cell(tmp_path) is None
    save_cell(tmp_path, tree, found)
    again = load_cell(tmp_path)
    assert again is not None
    assert again.cell == found.cell
    assert np.allclose(again.elpd, found.elpd, atol=1e-6)
    assert again.accuracy == found.accuracy
    draws = unit_scores(again, tmp_path).draws
    assert draws is not None
    ((site, values),) = draws.items()
    assert len(values) == 2 * COST_DRAWS
    assert np.allclose(values.mean(0), found.scores[site])
    (tmp_path / "cell.json").write_text("{")
    with pytest.raises(DirpruneError, match="damaged"):
        load_cell(tmp_path)
