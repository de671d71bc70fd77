"""The cells of a grid and their names."""

from __future__ import annotations

from typing import Any

import pytest

from dirprune.analysis.compare import Cell, make_grid
from dirprune.model.errors import DirpruneError

GOOD: dict[str, Any] = {
    "guides": ["dirichlet", "normal"],
    "priors": ["symmetric:1", "alpha/K:1"],
    "temperatures": [1.0, 0.1],
    "seeds": [0, 1],
}


def test_every_combination_once_under_a_name_of_its_own() -> None:
    cells = make_grid(**GOOD)
    assert len(cells) == len({cell.name for cell in cells}) == 16
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8  # seed by seed
    for cell in cells:
        assert not set(cell.name) & set('/\\:*?"<>| ')


def test_numbers_that_differ_have_names_that_differ() -> None:
    names = {Cell("dirichlet", "symmetric:1", t, 0).name for t in (1e-3, 1e-4, 0.0012, 1.0)}
    assert len(names) == 4


def test_options_of_a_guide_are_part_of_its_cell() -> None:
    guides = ["low-rank-normal:rank=5", "low-rank-normal:rank=10:init-scale=0.1", "dirichlet"]
    cells = make_grid(**{**GOOD, "guides": guides})
    assert [cell.guide for cell in cells[:3]] == guides
    assert cells[0].name == "low-rank-normal-rank-5_symmetric-1_tau-1_seed-0"
    assert len({cell.name for cell in cells}) == len(cells)
    assert len({cell.combination for cell in cells}) == 12
    for cell in cells:
        assert not set(cell.name) & set('/\\:*?"<>|= ')


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        ("guides", ["dirichlt"], "did you mean 'dirichlet'"),
        ("guides", ["normal", "normal"], "the guide 'normal' twice"),
        ("guides", [], "has no guide"),
        ("guides", ["low-rank-normal:rank"], "low-rank-normal:OPTION=NUMBER"),
        ("guides", ["dirichlet:rank=5"], "'dirichlet' has no option 'rank'"),
        ("guides", ["normal", "normal:init_scale=0.1"], "as 'normal' and 'normal:init_scale=0.1'"),
        ("priors", ["symetric:1"], "did you mean 'symmetric'"),
        ("priors", ["symmetric:1", "symmetric"], "as 'symmetric:1' and 'symmetric'"),
        ("priors", ["symmetric:0"], "positive"),
        ("temperatures", [0.0], "positive"),
        ("temperatures", [float("nan")], "positive"),
        ("temperatures", [1.0, 1.0], "twice"),
        ("seeds", [-1], "whole number from 0"),
        ("seeds", [1, 2, 1], "twice"),
    ],
)
def test_bad_axes_are_refused(axis: str, values: list[Any], expected: str) -> None:
    with pytest.raises(DirpruneError, match=expected):
        make_grid(**{**GOOD, axis: values})
