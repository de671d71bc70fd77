"""Decisions by a threshold: by hand."""

from typing import Any

import pytest
import torch

from dirprune.analysis.decision.threshold import keep_above
from dirprune.analysis.evidence import Scores
from dirprune.model.errors import DirpruneError

Case = Any  # of conftest.py


def scores(*values: float) -> Scores:
    return Scores(torch.tensor(values))


def test_what_is_above_stays(case: Case) -> None:
    evidence = {"0": scores(0.5, 1.5, 1.0, 3.0, -2.0, 1.1), "2": scores(5, 0, 1, 2, 3)}
    found = keep_above(case.model, evidence, 1.0)
    assert found.kept["0"].tolist() == [1, 3, 5]  # 1.0 itself goes
    assert found.kept["2"].tolist() == [0, 3, 4]
    assert found.settings["threshold"] == 1.0
    assert keep_above(case.tree, evidence, 1.0).kept["0"].tolist() == [1, 3, 5]


def test_no_site_loses_its_best_unit(case: Case) -> None:
    found = keep_above(case.model, {"0": scores(1, 2, 3, 9, 5, 6), "2": scores(*[7] * 5)}, 10)
    assert found.kept["0"].tolist() == [3]
    assert found.kept["2"].tolist() == [4]  # ties go by index


def test_plain_scores_will_do(case: Case) -> None:
    plain = {"0": torch.arange(6.0), "2": torch.arange(5.0)}
    assert keep_above(case.model, plain, 2.5).kept["2"].tolist() == [3, 4]


def test_a_site_without_evidence_keeps_all(case: Case) -> None:
    found = keep_above(case.model, {"2": scores(5, 0, 1, 2, 3)}, 2.5)
    assert found.kept["0"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found.kept["2"].tolist() == [0, 4]


def test_the_probability_is_the_share_of_draws_above(case: Case) -> None:
    draws = torch.tensor([[5.0, 0, 1, 2, 3], [1.0, 0, 3, 2, 3]])
    found = keep_above(case.model, {"2": Scores(draws.mean(0), draws)}, 2.0)
    assert found.kept["2"].tolist() == [0, 4]
    assert found.probability["2"].tolist() == [0.5, 0, 0.5, 0, 1]


def test_scores_that_do_not_compare_are_refused(case: Case) -> None:
    local = Scores(torch.ones(5), across_sites=False)
    with pytest.raises(DirpruneError, match="those of 2 do not"):
        keep_above(case.model, {"2": local}, 1.0)
    with pytest.raises(DirpruneError, match="another network"):
        keep_above(case.model, {"conv": scores(1, 2)}, 1.0)
