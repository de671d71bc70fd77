"""Decisions: what they take, what they refuse, and their file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.sites import Site

SITES = {"a": Site("a", 4, ("a",), ("b",)), "b": Site("b", 2, ("b",), ("c",))}


@pytest.mark.parametrize(
    "units", [[3, 0], torch.tensor([3, 0]), torch.tensor([0, 3], dtype=torch.int32)]
)
def test_units_are_sorted_long_tensors(units: Any) -> None:
    kept = Decision({"a": units}).kept["a"]
    assert kept.dtype == torch.int64
    assert kept.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([], "at least one kept unit, got shape"),
        (torch.tensor(3), r"at least one kept unit, got shape \[\]"),
        (torch.ones(2, 2).long(), r"got shape \[2, 2\]"),
        (torch.tensor([True, False]), r"indices of kept units \(integers\), got torch.bool"),
        ([0.0, 1.0], r"indices of kept units \(integers\), got torch.float32"),
        ([1, 1], "a unit is named twice"),
    ],
)
def test_what_is_no_decision(units: Any, message: str) -> None:
    with pytest.raises(DirpruneError, match=f"site 'a'.*{message}"):
        Decision({"a": units})


@pytest.mark.parametrize("kept", [{}, {"a": [0]}, {"a": [0, 3], "b": [0, 1]}])
def test_decisions_of_the_network_pass(kept: dict[str, Any]) -> None:
    Decision(kept).check(SITES)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"c": [0]}, r"site 'c', which this network does not have \(it has a, b\)"),
        ({"a": [0, 4]}, "keeps unit 4 of site 'a', which has units 0 to 3"),
        ({"b": [-1, 0]}, "keeps unit -1 of site 'b', which has units 0 to 1"),
    ],
)
def test_decisions_of_another_network_are_refused(kept: dict[str, Any], message: str) -> None:
    with pytest.raises(DirpruneError, match=message):
        Decision(kept).check(SITES)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kept=st.dictionaries(st.text(min_size=1), st.sets(st.integers(0, 600), min_size=1), max_size=4),
    data=st.data(),
)
def test_files_round_trip(tmp_path: Path, kept: dict[str, set[int]], data: st.DataObject) -> None:
    number = st.floats(0, 1)
    decision = Decision(
        {name: torch.tensor(sorted(units)) for name, units in kept.items()},
        {
            name: torch.tensor(data.draw(st.lists(number, max_size=5)), dtype=torch.float64)
            for name in kept
        },
        {"budget": {"macs": 0.1}, "evidence": "removal-cost"},
    )
    decision.save(tmp_path / "decision.json")
    back = Decision.load(tmp_path / "decision.json")
    assert list(back.kept) == list(decision.kept)
    assert back.settings == decision.settings
    for name in kept:
        assert torch.equal(back.kept[name], decision.kept[name])
        # JSON writes the shortest decimals that read back as the same float64.
        assert torch.equal(back.probability[name], decision.probability[name])


WHOLE = {"kept": {"a": [0]}, "probability": {}, "settings": {}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        json.dumps({"kept": {}}),
        json.dumps({**WHOLE, "kept": [1]}),
        json.dumps({**WHOLE, "kept": {"a": "units"}}),
        json.dumps({**WHOLE, "kept": {"a": [[1], [2, 3]]}}),
        json.dumps({**WHOLE, "kept": {"a": [2**80]}}),
        json.dumps({**WHOLE, "kept": {"a": [None]}}),
        json.dumps({**WHOLE, "kept": {"a": []}}),
        json.dumps({**WHOLE, "probability": {"a": "likely"}}),
        json.dumps({**WHOLE, "settings": 3}),
    ],
)
def test_damaged_files_are_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "decision.json"
    path.write_text(text)
    with pytest.raises(DirpruneError, match="decision") as caught:
        Decision.load(path)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "decision.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DirpruneError, match="not a decision written by dirprune"):
        Decision.load(tmp_path / "decision.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DirpruneError, match=r"none\.json: No such file"):
        Decision.load(tmp_path / "none.json")
