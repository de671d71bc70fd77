"""Numbers and values as the report writes them."""

from __future__ import annotations

import json
from typing import Any


def share(value: float, digits: int = 1) -> str:
    """0.25 as "25.0 %"."""
    return f"{100 * value:.{digits}f} %"


def percent(value: float | None) -> str:
    """An accuracy, or that there is none."""
    return "not measured" if value is None else f"{value:.2f} %"


def signed(text: str) -> str:
    """A number with the minus sign of print."""
    return text.replace("-", "−")


def text(value: Any) -> str:
    """Any value of a setting."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def quoted(value: Any) -> str:
    """A string as it stands in code."""
    return json.dumps(str(value), ensure_ascii=False)


def ranges(units: list[int]) -> str:
    """[0, 1, 2, 5] as "0–2, 5"."""
    parts: list[list[int]] = []
    for unit in units:
        if parts and unit == parts[-1][1] + 1:
            parts[-1][1] = unit
        else:
            parts.append([unit, unit])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts)
