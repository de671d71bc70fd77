"""The share of the best rival's loss that a method removes, and paired differences, by hand."""

from __future__ import annotations

import math

import pytest

from dirprune.analysis.compare.loss_share import Difference, loss_share, paired
from dirprune.model.errors import DirpruneError

OWN = {"keep=0.5": {0: 1.0, 1: 3.0}, "keep=0.3": {0: 10.0, 1: 14.0}}
RIVALS = {
    # At a half b loses (2 + 6) / 2 = 4 and a 5; at 0.3 a loses 20 and b 30.
    "a": {"keep=0.5": {0: 4.0, 1: 6.0}, "keep=0.3": {0: 16.0, 1: 24.0}},
    "b": {"keep=0.5": {0: 2.0, 1: 6.0}, "keep=0.3": {0: 25.0, 1: 35.0}},
}


def test_the_share_is_that_of_the_best_rival_at_each_budget() -> None:
    found = loss_share(OWN, RIVALS)
    assert found.best == {"keep=0.5": "b", "keep=0.3": "a"}
    assert found.by_budget == {"keep=0.5": pytest.approx(1 - 2 / 4), "keep=0.3": pytest.approx(0.4)}
    assert found.mean == pytest.approx(0.45)
    assert found.share == pytest.approx(1 - (2 + 12) / (4 + 20))
    # Seed 0: own 11, best rivals 2 + 16; seed 1: own 17, best rivals 6 + 24.
    assert found.by_seed == {0: pytest.approx(1 - 11 / 18), 1: pytest.approx(1 - 17 / 30)}


def test_the_best_rival_removes_nothing_of_its_own_loss_and_others_less() -> None:
    assert loss_share(RIVALS["a"], {"a": RIVALS["a"]}).share == 0
    # b loses 4 + 30 where the best at each budget lose 4 + 20.
    assert loss_share(RIVALS["b"], RIVALS).share == pytest.approx(1 - 34 / 24)


def test_a_loss_of_nothing_has_no_share() -> None:
    found = loss_share(
        {"one": {0: 0.5}, "two": {0: 4.0}},
        {"a": {"one": {0: 0.0}, "two": {0: 8.0}}, "b": {"one": {0: 1.0}, "two": {0: 9.0}}},
    )
    assert found.by_budget == {"one": None, "two": pytest.approx(0.5)}
    assert found.mean is None  # a mean over the others would be of another question
    assert found.share == pytest.approx(1 - 4.5 / 8)


def test_seeds_that_a_rival_lacks() -> None:
    own = {"one": {0: 1.0, 1: 5.0}}
    short, full = {"one": {0: 0.1}}, {"one": {0: 2.0, 1: 10.0, 2: 90.0}}
    found = loss_share(own, {"short": short, "full": full})
    assert found.best == {"one": "full"}  # the other was not tried on the harder network
    assert found.share == pytest.approx(0.5)  # over seeds 0 and 1 alone
    with pytest.raises(DirpruneError, match="no rival with the same seeds"):
        loss_share(own, {"short": short})
    with pytest.raises(DirpruneError, match="no budget"):
        loss_share({}, {"full": full})


def test_paired_differences() -> None:
    found = paired({0: 90.0, 1: 95.0, 2: 97.0}, {0: 89.0, 1: 94.0, 2: 94.0, 3: 0.0})
    # Differences 1, 1, 3: mean 5/3, sd 2 / sqrt(3).
    assert found == Difference(pytest.approx(5 / 3), pytest.approx(2 / 3), 3)
    # 5/3 is 2.5 standard errors, and the 97.5 % quantile of Student's t with 2 is 4.30.
    assert found.differs is False
    assert Difference(4.31, 1.0, 3).differs is True
    assert Difference(4.29, 1.0, 3).differs is False
    assert Difference(12.6, 1.0, 2).differs is False  # 12.71 with one degree of freedom
    assert paired({0: 1.0}, {0: 3.0}) == Difference(-2.0, None, 1)
    assert Difference(-2.0, None, 1).differs is None
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_equal_seeds_do_not_differ() -> None:
    found = paired({0: 5.0, 1: 6.0}, {0: 5.0, 1: 6.0})
    assert found == Difference(0.0, 0.0, 2)
    assert found.differs is False
    constant = paired({0: 6.0, 1: 7.0}, {0: 5.0, 1: 6.0})
    assert constant is not None
    assert constant.differs is True  # without any spread
    assert math.isclose(constant.mean, 1.0)
