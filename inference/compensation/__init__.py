"""Compensation that costs no training: what is left makes up for what was removed, by name.

A compensation is a function of a :class:`~.task.Task` and of a pruned network, which it changes;
its line in ``COMPENSATIONS`` gives it a name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..loop import Loader
from .registry import COMPENSATIONS, Compensation, parse_compensation
from .task import Report, Task


@dataclass(frozen=True)
class Compensated:
    """A compensated network, and what each compensation did, in their order.

    Attributes:
        network: a new network.
        reports: (name with its options, :class:`~.task.Report`) of each.
    """

    network: nn.Module
    reports: tuple[tuple[str, Report], ...]


def compensate(
    names: str | Sequence[str],
    model: SwitchedNetwork,
    decision: Decision,
    network: nn.Module,
    loader: Loader | None = None,
    *,
    gains: Mapping[str, Tensor] | None = None,
) -> Compensated:
    """Let what is left of a network make up for what was removed, without training.

    ::

        pruned = prune(model, decision)
        names = ["least-squares", "recalibrate"]
        better = compensate(names, model, decision, pruned, train_loader).network

    Args:
        names: of ``COMPENSATIONS`` ("fold-gains", "recalibrate", "least-squares"), applied in this
            order, alone or with options ("least-squares:images=500"); one name, or several.
        model: the switched network, which holds the original one.
        decision: the units that stay.
        network: the pruned network; it is copied, not changed.
        loader: training images, for what has to look at some.
        gains: site -> [K], a gain for every unit, kept or not, for "fold-gains".

    Returns:
        The new network, with a report of each compensation.

    Raises:
        DirpruneError: an unknown name or option, a network that this decision did not make,
            arguments in another order, or something that a compensation needs and was not given.
    """
    _check_order(names, model, decision, network)
    listed = [names] if isinstance(names, str) else list(names)
    parsed = [(spec, *parse_compensation(spec)) for spec in listed]
    tasks = [Task(name, model, decision, loader, gains) for _, name, _ in parsed]
    Task("", model, decision, loader, gains).check(network)
    for task in tasks:  # before anything long begins
        reads = COMPENSATIONS[task.name].reads
        if "images" in reads:
            _ = task.loader
        if "gains" in reads:
            _ = task.gains
    changed = copy.deepcopy(network)
    reports = [
        (spec, COMPENSATIONS[name].apply(task, changed, **options))
        for (spec, name, options), task in zip(parsed, tasks, strict=True)
    ]
    return Compensated(changed, tuple(reports))


def _check_order(*given: object) -> None:
    """Raise a DirpruneError unless these are names, model, decision and network."""
    kinds = (str | Sequence, SwitchedNetwork, Decision, nn.Module)
    if not all(isinstance(one, kind) for one, kind in zip(given, kinds, strict=True)):
        came = ", ".join(type(one).__name__ for one in given)
        raise DirpruneError(
            "compensate(names, model, decision, network, loader) takes names, a SwitchedNetwork, a "
            f"Decision and the pruned network, in this order; got {came}"
        )


__all__ = [
    "COMPENSATIONS",
    "Compensated",
    "Compensation",
    "Report",
    "Task",
    "compensate",
    "parse_compensation",
]
