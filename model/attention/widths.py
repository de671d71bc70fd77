"""Where queries, keys and values end in a packed projection."""

from __future__ import annotations

from torch import Tensor, nn


def widths(packed: Tensor, out: nn.Linear) -> list[int]:
    """Rows of queries, keys and values in a packed weight or bias.

    The output projection reads the values, and keys are as wide as queries.
    """
    values = out.weight.shape[1]
    keys = (len(packed) - values) // 2
    return [keys, keys, values]
