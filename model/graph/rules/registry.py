"""Where rules are registered, by the name of their operation."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import DirpruneError
from ..propagation import Rule

RULES: dict[str, Rule] = {}


def register_rule(*operations: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of these operations, instead of any that they have.

    Args:
        operations: bare names for those of ``torch.ops.aten`` ("cumsum"), with their namespace for
            those of other libraries ("mylib::soft_clip").

    Raises:
        DirpruneError: no operation is named, or the rule is no function.
    """
    if not operations or not all(isinstance(name, str) for name in operations):
        raise DirpruneError(
            f"register_rule: expected names of operations ('mylib::soft_clip'), got {operations!r}"
        )

    def decorate(rule: Rule) -> Rule:
        if not callable(rule):
            raise DirpruneError(f"a rule is a function of (propagation, node), got {rule!r}")
        RULES.update(dict.fromkeys(operations, rule))
        return rule

    return decorate
