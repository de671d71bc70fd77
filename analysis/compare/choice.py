"""What a method chooses on one network, budget by budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial

from ..decision.decide import decide
from ..decision.rule import Widths
from ..evidence import CRITERIA, Evidence, evidence, parse_criterion
from .method import Method
from .stages import STAGES, Aim, Bench, Budget, Choice


class Chooser:
    """The choices of one method on one network; the criterion is evaluated once for all budgets.

    Args:
        method: a criterion and its stages.
        bench: what it may read.
        widths: as in :func:`~dirprune.analysis.decision.decide.decide`.
    """

    def __init__(self, method: Method, bench: Bench, widths: Widths = None) -> None:
        self.method, self.bench, self.widths = method, bench, widths

    @cached_property
    def scored(self) -> tuple[Evidence, float]:
        """The evidence, and the seconds that it took."""
        bench = self.bench
        name, given = parse_criterion(self.method.criterion)
        own = {"seed": bench.seed} if "seed" in CRITERIA[name].options else {}
        started = time.perf_counter()
        found = evidence(name, bench.model, bench.fit, bench.loader, **{**own, **given})
        return found, time.perf_counter() - started

    def choose(self, budget: Budget) -> Choice:
        """The units that stay under a budget: of the last stage, which asks those before it."""
        aim = Aim(self.method.criterion, budget, self.widths)
        last: Callable[[], Choice] = partial(self._one_shot, budget)
        for name, options in self.method.stages:
            last = partial(STAGES[name].apply, self.bench, aim, last, **options)
        return last()

    def _one_shot(self, budget: Budget) -> Choice:
        found, seconds = self.scored
        started = time.perf_counter()
        decision = decide(self.bench.model, found, **budget, widths=self.widths)
        seconds += time.perf_counter() - started
        return Choice(decision, found.passes, found.learning, seconds)
