"""Latency: networks take turns, as they are, and the shares are those of the pairs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import benchmark

from dirprune.inference import latency
from dirprune.inference.latency import Latency, measure_latency


class FakeTimer:
    """In the place of torch's: its networks say how long they take, and the order is recorded."""

    order: list[str]
    threads: set[int]

    def __init__(self, stmt: str, *, globals: dict[str, Any], num_threads: int) -> None:
        self.stmt, self.globals = stmt, globals
        self.threads.add(num_threads)

    def timeit(self, number: int) -> Any:
        network = self.globals["network"]
        eval(self.stmt, self.globals)
        seconds = next(network.seconds)
        # 10 ms a turn, by what the first pass took
        assert number == (round(0.01 / network.first) if network.name in self.order else 1)
        self.order.append(network.name)
        spec = benchmark.utils.common.TaskSpec("", "")
        return benchmark.Measurement(number, [number * seconds], spec)


class Clocked(nn.Module):
    """A network that takes the given milliseconds, the first of them twice."""

    def __init__(self, name: str, *ms: float) -> None:
        super().__init__()
        self.name, self.first = name, ms[0] / 1e3
        self.seconds = iter([m / 1e3 for m in (ms[0], *ms)])

    def forward(self, x: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
        return x + shift


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeTimer]:
    FakeTimer.order, FakeTimer.threads = [], set()
    monkeypatch.setattr(latency, "Timer", FakeTimer)
    return FakeTimer


def test_networks_take_turns_and_every_other_round_goes_backwards(fake: type[FakeTimer]) -> None:
    networks = [Clocked(name, *range(1, 5)) for name in "abc"]
    found = measure_latency(networks, torch.zeros(7, 2), rounds=4, threads=2)
    assert "".join(fake.order) == "abc" + "abccbaabccba"
    assert fake.threads == {2}
    for one in found:
        assert one.rounds_ms == pytest.approx((1, 2, 3, 4))
        assert (one.batch, one.threads) == (7, 2)
        # Quartiles of 1, 2, 3, 4 by linear interpolation: 1.75 and 3.25.
        assert one.median_ms == pytest.approx(2.5)
        assert one.iqr_ms == pytest.approx(1.5)


def test_a_share_is_that_of_pairs_so_that_noise_in_both_cancels(fake: type[FakeTimer]) -> None:
    # The machine is up to nine times slower in some rounds; the second network takes half, always.
    noise = [1.0, 9.0, 2.0, 5.0, 1.0]
    before, after = measure_latency(
        [Clocked("a", *noise), Clocked("b", *(n / 2 for n in noise))], torch.zeros(1), rounds=5
    )
    share = after.share_of(before)
    assert (share.median, share.low, share.high) == pytest.approx((0.5, 0.5, 0.5))
    assert before.iqr_ms == pytest.approx(4)
    assert before.threads == 1


def test_quartiles_of_a_share() -> None:
    one, ten = Latency((1.0, 2.0, 3.0, 4.0, 5.0), 1, 1), Latency((10.0,) * 5, 1, 1)
    share = one.share_of(ten)
    assert (share.low, share.median, share.high) == pytest.approx((0.2, 0.3, 0.4))


def test_a_slow_network_gets_five_rounds(
    fake: type[FakeTimer], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 100))
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    (found,) = measure_latency([Clocked("a", *[1.0] * 20)], torch.zeros(1), most_seconds=1)
    assert len(found.rounds_ms) == 5


def test_keyword_inputs_and_several_inputs(fake: type[FakeTimer]) -> None:
    network = Clocked("a", 1.0, 1.0)
    (found,) = measure_latency([network], (), kwargs={"x": torch.ones(3), "shift": 1.0}, rounds=2)
    assert found.batch == 3


def test_more_work_takes_longer_on_the_real_clock() -> None:
    x = torch.randn(64, 1024)
    small, large = nn.Linear(1024, 8), nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(4)])
    quick, slow = measure_latency([small, large], x, rounds=5)
    # 512 times the multiply-adds; a half is far within it
    assert quick.share_of(slow).median < 0.5
    assert quick.median_ms > 0
    assert quick.iqr_ms >= 0


def test_the_pass_is_in_eval_mode_and_the_mode_comes_back() -> None:
    network: Any = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    network[0].eval()
    modes: set[tuple[bool, bool]] = set()
    network[1].register_forward_hook(
        lambda m, i, o: modes.add((m.training, torch.is_inference_mode_enabled()))
    )
    mean = network[0].running_mean.clone()
    measure_latency([network], torch.randn(8, 4), rounds=2)
    assert modes == {(False, True)}
    assert [m.training for m in network] == [False, True, True]
    assert torch.equal(network[0].running_mean, mean)
