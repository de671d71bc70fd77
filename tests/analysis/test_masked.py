"""Which examples masked networks get right: their order, and generators afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from dirprune.analysis.masked import classified, correct
from dirprune.model.errors import DirpruneError

Case = Any  # of conftest.py


def test_the_order_is_the_same_where_a_sampler_shuffles(case: Case) -> None:
    data = TensorDataset(case.inputs, case.targets)
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(data, 7, sampler=RandomSampler(data, generator=own))
    state, ones = own.get_state(), case.model.unit_gains()
    right, labels = classified(case.model, ones, loader)
    assert torch.equal(own.get_state(), state)
    own.manual_seed(4)
    again, labels_again = classified(case.model, ones, loader)
    assert torch.equal(right, again)
    assert torch.equal(labels, labels_again)
    assert sorted(labels.tolist()) == sorted(case.targets.tolist())
    assert torch.equal(correct(case.model, ones, loader), right)
    # What is right is told by the labels of the same order: counted here by hand.
    with torch.no_grad():
        by_hand = case.model.network(case.inputs).argmax(1) == case.targets
    assert int(right.sum()) == int(by_hand.sum())
    few, few_labels = classified(case.model, ones, loader, most=10)
    assert torch.equal(few, right[:, :10])
    assert torch.equal(few_labels, labels[:10])


def test_generators_are_put_back_after_an_error(case: Case) -> None:
    own = torch.Generator().manual_seed(3)
    data = TensorDataset(case.inputs, case.targets + 5)  # beyond the three classes
    loader = DataLoader(data, 7, shuffle=True, generator=own)
    state, general = own.get_state(), torch.get_rng_state()
    with pytest.raises(DirpruneError, match="labels: expected 0 to 2"):
        correct(case.model, case.model.unit_gains(), loader)
    assert torch.equal(own.get_state(), state)
    assert torch.equal(torch.get_rng_state(), general)
