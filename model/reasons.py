"""Why layers are left alone, told briefly: fifty layers of a transformer have three reasons."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain

FEW = 3  # names that are written out


def group_reasons(unprunable: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason -> layers; reasons that differ in the number of a module alone are one, with a ``*``.

    >>> found = group_reasons(
    ...     {"a": "no rule in block.0.f", "b": "no rule in block.1.f", "c": "end"}
    ... )
    >>> found
    {'no rule in block.*.f': ['a', 'b'], 'end': ['c']}
    """
    alike: dict[str, dict[str, list[str]]] = {}
    for layer, reason in unprunable.items():
        pattern = re.sub(r"(?<=[._])\d+(?![\w%])", "*", reason)
        alike.setdefault(pattern, {}).setdefault(reason, []).append(layer)
    return {
        pattern if len(reasons) > 1 else next(iter(reasons)): list(chain(*reasons.values()))
        for pattern, reasons in alike.items()
    }


def few(names: Sequence[str]) -> str:
    """The first three, and how many more there are.

    >>> few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")
