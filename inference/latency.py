"""How long forward passes take on the machine at hand: networks timed in turns."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..model.graph.trace import as_tuple
from .evaluate import eval_mode

# Importing the timer looks for a C++ compiler's CUDA, and logs a warning where a toolkit is
# installed without a GPU; nothing is compiled here.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

from torch.utils.benchmark import Timer  # noqa: E402

TURN_SECONDS = 0.01
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one batch, one figure for each round of a comparison.

    Attributes:
        rounds_ms: of one pass, the mean over each round's turn.
        batch: examples in the batch.
        threads: of torch on the CPU.
    """

    rounds_ms: tuple[float, ...]
    batch: int
    threads: int

    @property
    def median_ms(self) -> float:
        return statistics.median(self.rounds_ms)

    @property
    def iqr_ms(self) -> float:
        """The interquartile range over rounds."""
        low, high = _quartiles(self.rounds_ms)
        return high - low

    def share_of(self, original: Latency) -> Share:
        """What this network takes of ``original``'s time, round by round in pairs.

        >>> Latency((1.0, 3.0), 8, 1).share_of(Latency((4.0, 6.0), 8, 1)).median
        0.375
        """
        shares = [a / b for a, b in zip(self.rounds_ms, original.rounds_ms, strict=True)]
        return Share(statistics.median(shares), *_quartiles(shares))


@dataclass(frozen=True)
class Share:
    """Median and quartiles, over rounds, of one network's time as a share of another's."""

    median: float
    low: float
    high: float


def measure_latency(
    networks: Sequence[nn.Module],
    inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    rounds: int = 20,
    threads: int = 1,
    most_seconds: float = 60.0,
) -> list[Latency]:
    """Time the forward passes of networks on one batch, in turns, so that noise hits all alike.

    In each round every network has its turn of torch's own ``benchmark.Timer``: two passes to warm
    up, then as many as take 10 ms, at least one, and the device is waited for. Every other round
    goes backwards. Networks are in eval mode, which is put back, and keep no gradients.

    Args:
        networks: two or more to compare, on the device of the inputs.
        inputs: a tensor, or a tuple of the positional inputs; batch first.
        kwargs: keyword inputs.
        rounds: how often; the spread is that over rounds.
        threads: of torch on the CPU; one is what others compare by, and what a busy machine
            disturbs least.
        most_seconds: after so long no further round begins, once there are five.
    """
    args, kwargs = as_tuple(inputs), dict(kwargs or {})
    timers = [
        Timer(
            "network(*args, **kwargs)",
            globals={"network": network, "args": args, "kwargs": kwargs},
            num_threads=threads,
        )
        for network in networks
    ]
    found: list[list[float]] = [[] for _ in networks]
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(eval_mode(network))
        stack.enter_context(torch.inference_mode())
        started = time.perf_counter()
        numbers = [max(1, round(TURN_SECONDS / timer.timeit(1).median)) for timer in timers]
        for i in range(rounds):
            if i >= LEAST_ROUNDS and time.perf_counter() - started > most_seconds:
                break
            turns = list(zip(timers, numbers, found, strict=True))
            for timer, number, times in turns if i % 2 == 0 else reversed(turns):
                times.append(1e3 * timer.timeit(number).median)
    batch = next((len(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)), 1)
    return [Latency(tuple(times), batch, threads) for times in found]


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
