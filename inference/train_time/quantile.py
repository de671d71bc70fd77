"""The quantile of a layer's weights."""

from __future__ import annotations

import numpy as np
from torch import Tensor


def quantile(values: Tensor, p: float) -> Tensor:
    """The p-quantile of all values, interpolated linearly between order statistics.

    By numpy, which partitions: ``torch.quantile`` sorts, and refuses more than 2^24 values, which a
    layer may have.

    >>> import torch
    >>> float(quantile(torch.tensor([4.0, 1.0, 2.0, 3.0]), 0.5))
    2.5
    """
    return values.new_tensor(np.quantile(values.detach().cpu().numpy(), p))
