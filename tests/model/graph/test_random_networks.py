"""Random networks: the pruned network is the masked one, and no rule leaves a site to trial."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirprune.model.switched import SwitchedNetwork

from .networks import check_exact
from .strategies import Plan, build, plans

SEED = st.integers(0, 2**16)


def check(plan: Plan, seed: int) -> None:
    images = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    check_exact(SwitchedNetwork(build(plan, seed), images, num_data=10), seed)


@settings(max_examples=12)
@given(plan=plans(most=5), seed=SEED)
def test_pruned_masked_and_gains_of_zero_are_one_function(plan: Plan, seed: int) -> None:
    check(plan, seed)


@pytest.mark.slow
@settings(max_examples=400)
@given(plan=plans(most=7), seed=SEED)
def test_the_same_for_many_larger_networks(plan: Plan, seed: int) -> None:
    check(plan, seed)
