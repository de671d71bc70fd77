"""Recalibration: the running statistics are the means of the batches' own, and nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dirprune.inference.batchnorm import recalibrate
from dirprune.model.errors import DirpruneError


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=0.3)
    ).double()


def batches(number: int) -> list[tuple[Tensor, Tensor]]:
    sizes = [7 + 5 * i for i in range(number)]  # of unequal size: each has the same weight
    return [(3 + 2 * torch.randn(n, 4, dtype=torch.float64), torch.zeros(n)) for n in sizes]


def test_statistics_are_the_means_of_the_batches_statistics() -> None:
    net, data = network(), batches(6)
    assert recalibrate(net, data, batches=4) == 2
    first = [x for x, _ in data[:4]]  # dropout is off
    # With one batch norm after the other, the second sees what the first does *in train mode*.
    normed = [(x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in first]
    second = [net[2](x).detach() for x in normed]
    for norm, values in ((net[1], first), (net[3], second)):
        mean = torch.stack([x.mean(0) for x in values]).mean(0)
        var = torch.stack([x.var(0) for x in values]).mean(0)
        # sums of four numbers in float64
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-12, atol=1e-12)
        assert norm.num_batches_tracked == 4


def test_nothing_else_changes() -> None:
    net = network()
    net.train()
    net[0].eval()
    modes = [m.training for m in net.modules()]
    weights = {k: v.clone() for k, v in net.named_parameters()}
    recalibrate(net, batches(3))
    assert [m.training for m in net.modules()] == modes
    assert [net[1].momentum, net[3].momentum] == [0.1, 0.3]
    assert all(torch.equal(v, weights[k]) for k, v in net.named_parameters())


def test_twice_is_once() -> None:
    # The old statistics are forgotten, and no draw is made.
    net, data = network(), batches(3)
    recalibrate(net, data)
    once = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    recalibrate(net, data)
    assert all(torch.equal(v, once[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_network_without_batch_norm_is_left_alone() -> None:
    assert recalibrate(nn.Linear(4, 3), batches(1)) == 0
    untracked = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))
    assert recalibrate(untracked, batches(1)) == 0


@pytest.mark.parametrize("bad", [[], [3]])
def test_after_an_error_the_network_works_as_before(bad: list[Any]) -> None:
    net: Any = network().eval()
    net[1].running_mean.fill_(2.0)
    with pytest.raises(DirpruneError):
        recalibrate(net, bad)
    assert not net.training
    assert [net[1].momentum, net[3].momentum] == [0.1, 0.3]
    if not bad:  # no batch: the old statistics are still there
        assert torch.equal(net[1].running_mean, torch.full((4,), 2.0, dtype=torch.float64))


def test_no_batches_is_an_error() -> None:
    with pytest.raises(DirpruneError, match="batches: expected at least 1, got 0"):
        recalibrate(network(), batches(2), batches=0)
