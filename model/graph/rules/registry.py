"""Where rules are registered, by the name of their operation."""

from __future__ import annotations

from collections.abc import Callable

from ..propagation import Rule

RULES: dict[str, Rule] = {}


def register_rule(*operations: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of these operations, instead of any that they have.

    Args:
        operations: bare names for those of ``torch.ops.aten`` ("cumsum"), with their namespace for
            those of other libraries ("mylib::soft_clip").
    """

    def decorate(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, rule))
        return rule

    return decorate
