"""Options of things that go by name: numbers, keyword-only, with defaults."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any

from .errors import DirpruneError


def keyword_options(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters of a function, with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def check_numbers(what: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse options that are not there, and values that none of them can have.

    An option whose default is whole takes whole numbers, of at least 1 (a seed: 0); the others take
    finite ones of at least 0.

    Args:
        what: whose options they are, for the message: "evidence 'taylor'".
        known: the options, with their defaults.
        given: the values.
    """
    for option, value in given.items():
        if option not in known:
            has = ", ".join(f"{k}={v}" for k, v in known.items()) or "none"
            raise DirpruneError(f"{what} has no option {option!r}. It has: {has}")
        whole = isinstance(known[option], int)
        if isinstance(value, bool) or not isinstance(value, Integral if whole else Real):
            kind = "whole number" if whole else "number"
            raise DirpruneError(
                f"{what}: option {option!r}: expected a {kind}, as in {option}={known[option]}, "
                f"got {value!r}"
            )
        least = 1 if whole and option != "seed" else 0
        if not least <= float(value) < math.inf:
            raise DirpruneError(
                f"{what}: option {option!r}: expected at least {least}, got {value!r}"
            )
