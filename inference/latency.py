"""How long a forward pass takes on the machine at hand."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .evaluate import eval_mode

# Importing the timer looks for a C++ compiler's CUDA, and logs a warning where a toolkit is
# installed without a GPU; nothing is compiled here.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

from torch.utils.benchmark import Timer  # noqa: E402


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one batch: the median and the interquartile range over repeats."""

    median_ms: float
    iqr_ms: float


def measure_latency(network: nn.Module, inputs: Any, *, seconds: float = 0.5) -> Latency:
    """Time the network's forward pass on ``inputs`` with torch's own benchmark, in eval mode."""
    with eval_mode(network), torch.inference_mode():
        timer = Timer("network(x)", globals={"network": network, "x": inputs})
        timer.timeit(2)
        measured = timer.blocked_autorange(min_run_time=seconds)
    return Latency(1e3 * measured.median, 1e3 * measured.iqr)
