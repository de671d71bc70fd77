"""Methods by one line: a criterion, and what follows it, as in ``l1-norm+refine:steps=80``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...guides.families import parse_options
from ...model.errors import DirpruneError, unknown_name
from ...model.options import check_numbers
from ..evidence import CRITERIA, parse_criterion
from ..evidence.registry import POSTERIOR
from .stages import STAGES, Stage


@dataclass(frozen=True)
class Method:
    """How units are chosen.

    Attributes:
        spec: as it was written; it names the method in tables and files.
        criterion: the evidence that comes first, with its options.
        stages: (name, options) of what follows, in order.
    """

    spec: str
    criterion: str
    stages: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @property
    def reads_posterior(self) -> bool:
        """Is the criterion one of a posterior (so that there is one method for each posterior)?"""
        return POSTERIOR in CRITERIA[parse_criterion(self.criterion)[0]].reads

    @property
    def needs_fit(self) -> bool:
        """Has the posterior to be learned first? A stage may learn its own instead."""
        own = bool(self.stages) and STAGES[self.stages[0][0]].scores
        return self.reads_posterior and not own

    @property
    def is_rival(self) -> bool:
        """Is it of the literature: no posterior, and neither criterion nor stage of ours?"""
        own = self.reads_posterior or CRITERIA[parse_criterion(self.criterion)[0]].own
        return not own and all(STAGES[name].rival for name, _ in self.stages)


def parse_method(spec: str) -> Method:
    """A method from its line: ``CRITERION[:OPTION=NUMBER...][+STAGE[=NUMBER][:OPTION=NUMBER...]]``.

    >>> parse_method("l1-norm+refine:steps=80").stages
    (('refine', {'steps': 80}),)

    Raises:
        DirpruneError: not of that form, an unknown name, an option that is not there, or a stage at
            a place where it cannot stand.
    """
    criterion, *rest = (part.strip() for part in spec.split("+"))
    parse_criterion(criterion)
    stages = tuple(_parse_stage(spec, part) for part in rest)
    for place, (name, _) in enumerate(stages):
        if STAGES[name].scores and place:
            raise DirpruneError(
                f"method {spec!r}: {name} scores the units itself, so it comes right behind the "
                "criterion"
            )
    return Method(spec, criterion, stages)


def _parse_stage(spec: str, text: str) -> tuple[str, dict[str, Any]]:
    head, *parts = text.split(":")
    name, equals, value = head.partition("=")
    if name not in STAGES:
        raise unknown_name(f"stage (of the method {spec!r})", name, STAGES)
    stage: Stage = STAGES[name]
    if equals:
        if not stage.value:
            raise DirpruneError(f"method {spec!r}: {name} takes no value; {_options(stage)}")
        parts = [f"{stage.value}={value}", *parts]
    form = f"{name}{f'={stage.value.upper()}' if stage.value else ''}:OPTION=NUMBER:..."
    options = parse_options(parts, f"method {spec!r}", form)
    check_numbers(f"stage {name!r}", stage.options, options)
    return name, options


def _options(stage: Stage) -> str:
    return "options: " + ", ".join(f"{k}={v}" for k, v in stage.options.items())
