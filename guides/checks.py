"""What the numbers that guides take must be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def check_positive(name: str, value: float) -> float:
    """An initial value that must be a positive, finite number."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"Expected {name} > 0, but got {value}")
    return value


def check_count(name: str, value: int) -> int:
    """A size that must be a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"Expected {name} to be a whole number of at least 1, but got {value!r}")
    return value


def check_levels(q: Sequence[float] | Tensor) -> Tensor:
    """Probabilities as a float64 vector on the CPU."""
    levels = torch.as_tensor(q, dtype=torch.float64).cpu()
    if levels.dim() != 1 or not bool(((levels >= 0) & (levels <= 1)).all()):
        raise ValueError(f"quantiles: expected a list of probabilities in [0, 1], got {q}")
    return levels
