"""What may follow a criterion, by name: stages that change a decision, or make one of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...inference.fit import Fit
from ...inference.loop import Loader
from ...model.decision import Decision
from ...model.options import keyword_options
from ...model.switched import SwitchedNetwork
from ..decision.rounds import ROUNDS, STEPS, prune_in_rounds
from ..decision.rule import Widths
from ..evidence import CRITERIA, parse_criterion, spelled
from ..evidence.scores import Passes
from ..subnetworks.masks import keeps_all
from ..subnetworks.reselect import reselect
from ..subnetworks.search import refine

Budget = Mapping[str, Any]


@dataclass(frozen=True)
class Bench:
    """What a method may read: one network and training images, never held-out ones.

    Attributes:
        model: the switched network.
        loader: training images.
        seed: of all that is drawn.
        augmented: the same images, augmented as in training, for batch norms; None takes
            ``loader``.
        fit: the posterior, where the method reads one.
        svi: how posteriors are learned, as arguments of :func:`~dirprune.inference.fit.fit`, for a
            stage that learns more of them.
    """

    model: SwitchedNetwork
    loader: Loader
    augmented: Loader | None = None
    seed: int = 0
    fit: Fit | None = None
    svi: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """A decision, and what it took.

    Attributes:
        decision: which units stay.
        scoring: passes of single examples, of the criterion and of all stages.
        learning: those of the posteriors; None where they were not counted.
        seconds: of the scoring and the stages; the posterior that is shared is not in it.
    """

    decision: Decision
    scoring: Passes
    learning: Passes | None
    seconds: float


@dataclass(frozen=True)
class Aim:
    """What a stage is to meet: the criterion that it may use, budget and widths."""

    criterion: str
    budget: Budget
    widths: Widths = None


@dataclass(frozen=True)
class Stage:
    """What follows a criterion, by a name.

    Attributes:
        apply: (bench, aim, before, **options) -> Choice. ``before()`` makes the choice of what
            stands before it, which a stage that scores the units itself need not call.
        summary: a line about it.
        options: that it takes, with their defaults.
        value: the option that NAME=NUMBER sets.
        scores: does it score the units itself, by the method's criterion?
        rival: is a method with it still one of the literature?
    """

    apply: Callable[..., Choice]
    summary: str
    options: Mapping[str, Any]
    value: str = ""
    scores: bool = False
    rival: bool = True


def changing(change: Callable[..., Decision], told: str) -> dict[str, Any]:
    """A stage's ``apply`` and ``options`` from a function that changes a decision.

    Args:
        change: (model, decision, loader, *, seed, **options) -> Decision.
        told: the entry of its ``settings`` that holds its "passes".
    """

    def apply(bench: Bench, aim: Aim, before: Callable[[], Choice], **options: Any) -> Choice:
        choice = before()
        if keeps_all(bench.model, choice.decision):
            return choice  # there is nothing that could change places
        started = time.perf_counter()
        found = change(
            bench.model, choice.decision, bench.loader, **{"seed": bench.seed, **options}
        )
        passes = Passes(**found.settings[told]["passes"])
        seconds = choice.seconds + time.perf_counter() - started
        return Choice(found, choice.scoring + passes, choice.learning, seconds)

    return {"apply": apply, "options": keyword_options(change)}


def _rounds(compensate: tuple[str, ...] = ()) -> Callable[..., Choice]:
    """The ``apply`` of removal in rounds, with these compensations after each."""

    def apply(bench: Bench, aim: Aim, before: Callable[[], Choice], **options: Any) -> Choice:
        started = time.perf_counter()
        name, given = parse_criterion(aim.criterion)
        if "seed" in CRITERIA[name].options:
            given = {"seed": bench.seed, **given}
        svi = {k: v for k, v in bench.svi.items() if k in ("guide", "guide_options", "particles")}
        found = prune_in_rounds(
            bench.model, bench.loader, evidence=spelled(name, given), **aim.budget,
            widths=aim.widths, compensate=compensate,
            compensation_loader=bench.augmented or bench.loader,
            **{"seed": bench.seed, **svi, **options},
        )  # fmt: skip
        scoring, learning = Passes(), Passes()
        for one in found.rounds:
            scoring += one.passes
            learning += one.learning or Passes()
        counted = all(one.learning is not None for one in found.rounds)
        seconds = time.perf_counter() - started
        return Choice(found.decision, scoring, learning if counted else None, seconds)

    return apply


ROUND_OPTIONS = {"rounds": ROUNDS, "steps": STEPS}  # of SVI in each

STAGES: dict[str, Stage] = {
    "rounds": Stage(
        _rounds(), "removal in rounds, each scored anew", ROUND_OPTIONS, "rounds", scores=True
    ),
    "rounds-recalibrate": Stage(
        _rounds(("recalibrate",)), "the same, each scored on recalibrated batch norms",
        ROUND_OPTIONS, "rounds", scores=True,
    ),
    "rounds-least-squares": Stage(
        _rounds(("least-squares",)), "the same, each scored on reconstructed outputs",
        ROUND_OPTIONS, "rounds", scores=True,
    ),
    "refine": Stage(
        **changing(refine, "refined"),
        summary="swaps units for better ones, the widths fixed",
        rival=False,
    ),
    "reselect": Stage(
        **changing(reselect, "reselected"),
        summary="chooses sites anew for outputs that are reconstructed, the widths fixed",
        rival=False,
    ),
}  # fmt: skip
