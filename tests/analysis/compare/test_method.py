"""Methods by one line."""

from __future__ import annotations

import pytest

from dirprune.analysis.compare.method import parse_method
from dirprune.analysis.compare.protocol import parse_chain
from dirprune.model.errors import DirpruneError


def test_a_line_is_a_criterion_and_stages() -> None:
    method = parse_method("shapley:std=0:images=64+rounds=3:steps=20+refine:steps=5")
    assert method.criterion == "shapley:std=0:images=64"
    assert method.stages == (("rounds", {"rounds": 3, "steps": 20}), ("refine", {"steps": 5}))


@pytest.mark.parametrize(
    ("spec", "reads", "fits", "rival"),
    [
        ("l1-norm", False, False, True),
        ("random", False, False, True),
        ("removal-cost", True, True, False),
        ("removal-cost+refine", True, True, False),
        # Rounds learn posteriors of their own, and rivals may have rounds too.
        ("removal-cost+rounds=6", True, False, False),
        ("fisher+rounds=6", False, False, True),
        ("l1-norm+refine", False, False, False),  # the search is ours
        ("reconstruction", False, False, False),  # and so is this criterion
        ("l1-norm+reselect", False, False, False),
    ],
)
def test_what_a_method_needs(spec: str, reads: bool, fits: bool, rival: bool) -> None:
    method = parse_method(spec)
    assert (method.reads_posterior, method.needs_fit, method.is_rival) == (reads, fits, rival)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("l1norm", "did you mean 'l1-norm'"),
        ("l1-norm:std=2", "no option 'std'"),
        ("l1-norm+refin", "did you mean 'refine'"),
        ("l1-norm+refine=3", "refine takes no value; options: steps="),
        ("l1-norm+rounds=many", "ROUNDS"),
        ("l1-norm+rounds=0", "at least 1"),
        ("l1-norm+rounds=6:rounds=3", "given twice"),
        ("l1-norm+rounds:epochs=3", "no option 'epochs'"),
        ("l1-norm+refine+rounds=6", "right behind the criterion"),
        ("l1-norm+", "stage"),
    ],
)
def test_what_is_no_method(spec: str, expected: str) -> None:
    with pytest.raises(DirpruneError, match=expected):
        parse_method(spec)


def test_compensations_in_their_order() -> None:
    assert parse_chain("least-squares:images=500+recalibrate") == [
        "least-squares:images=500", "recalibrate",
    ]  # fmt: skip
    assert parse_chain("none") == []
    for bad in ("least_squares", "none+recalibrate", ""):
        with pytest.raises(DirpruneError, match="compensation"):
            parse_chain(bad)
