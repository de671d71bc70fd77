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


@pytest.mark.parametrize(
    ("axis", "values", "expected"),
    [
        ("guides", ["dirichlt"], "did you mean 'dirichlet'"),
        ("guides", ["normal", "normal"], "the guide 'normal' twice"),
        ("guides", [], "has no guide"),
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
