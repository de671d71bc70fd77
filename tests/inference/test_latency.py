"""Latency: positive milliseconds, more of them for more work, and the network as it was."""

from typing import Any

import torch
from torch import nn

from dirprune.inference.latency import measure_latency


def test_more_work_takes_longer() -> None:
    x = torch.randn(64, 1024)
    small, large = nn.Linear(1024, 8), nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(4)])
    quick, slow = (measure_latency(n, x, seconds=0.05) for n in (small, large))
    # 512 times the multiply-adds; five is far within it
    assert 0 < 5 * quick.median_ms < slow.median_ms
    assert quick.iqr_ms >= 0


def test_the_pass_is_in_eval_mode_and_the_mode_comes_back() -> None:
    network: Any = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    network[0].eval()
    modes: set[bool] = set()
    network[1].register_forward_hook(lambda m, i, o: modes.add(m.training))
    mean = network[0].running_mean.clone()
    measure_latency(network, torch.randn(8, 4), seconds=0.01)
    assert modes == {False}
    assert [m.training for m in network] == [False, True, True]
    assert torch.equal(network[0].running_mean, mean)
