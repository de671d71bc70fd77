"""The quantile of a layer's weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def quantile(values: Tensor, p: float) -> Tensor:
    """The p-quantile of all values, interpolated linearly between order statistics.

    By numpy, which partitions: ``torch.quantile`` sorts, and refuses more than 2^24 values, which a
    layer may have.

    >>> float(quantile(torch.tensor([4.0, 1.0, 2.0, 3.0]), 0.5))
    2.5
    """
    known = values.detach().cpu()
    if known.dtype in (torch.bfloat16, torch.float16):  # numpy has none of the first
        known = known.float()
    return values.new_tensor(np.quantile(known.numpy(), p))
