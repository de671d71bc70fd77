"""The scales of batch norms, one and several to a unit."""

from typing import Any

import pytest
import torch
from torch import nn

from dirprune.analysis.evidence import Passes, evidence
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

Problem = Any  # of conftest.py


def test_scales_are_averaged(problem: Problem) -> None:
    if "stem" not in problem.model.sites:
        with pytest.raises(DirpruneError, match="'bn-scale': site '0': 6 of 6 units have no batch"):
            evidence("bn-scale", problem.model, None)
        return
    net = problem.network
    stream = (net.norm0.weight.detach().abs() + net.norm2.weight.detach().abs()) / 2
    found = evidence("bn-scale", problem.model, None)
    torch.testing.assert_close(found["stem"].scores, stream, rtol=1e-12, atol=0)
    inner = net.norm1.weight.detach().abs()
    assert bool((net.norm1.weight < 0).any())  # so that the sign would show
    torch.testing.assert_close(found["conv1"].scores, inner, rtol=1e-12, atol=0)
    assert found["stem"].across_sites
    assert found.passes == Passes()


def test_a_norm_without_scales_is_none() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, affine=False), nn.ReLU(),
                        nn.Conv2d(3, 2, 1))  # fmt: skip
    model = SwitchedNetwork(net, torch.randn(2, 1, 3, 3), num_data=10)
    with pytest.raises(DirpruneError, match="3 of 3 units have no batch norm with a scale"):
        evidence("bn-scale", model, None)
