"""Removal in rounds: a share goes, the posterior is learned again over what is left, and so on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pyro.infer.autoguide import AutoGuide
from torch import nn
from tqdm import tqdm

from ...inference.compensation import COMPENSATIONS, Report, parse_compensation
from ...inference.compensation import compensate as apply_compensations
from ...inference.fingerprint import fingerprint, model_settings, readable
from ...inference.fit import GuideSpec, fit
from ...inference.loop import Checkpoint, Loader, batches_in, seed_of
from ...inference.steps import Steps
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..evidence import CRITERIA, Evidence, Passes, Source, parse_criterion
from ..evidence import evidence as score
from ..gains import mean_gains
from .decide import decide
from .left import Left
from .rule import Widths
from .schedule import Schedule

ROUNDS, STEPS = 6, 80


@dataclass(frozen=True)
class Round:
    """What one round left.

    Attributes:
        budget: what might be left after it, as shares of the original; empty where the widths are
            given.
        units: site -> how many of its units are left.
        passes: what the scoring took.
        learning: what the posterior took that it was read from; None where that was not counted.
        seconds: wall time of the round.
        compensation: (name with its options, what it did) of each.
    """

    budget: Mapping[str, float]
    units: Mapping[str, int]
    passes: Passes
    learning: Passes | None
    seconds: float
    compensation: tuple[tuple[str, Report], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Round:
        """What :meth:`to_dict` gave."""
        learning = data["learning"]
        return Round(
            data["budget"], data["units"], Passes(**data["passes"]),
            None if learning is None else Passes(**learning), data["seconds"],
            tuple((name, Report(**report)) for name, report in data["compensation"]),
        )  # fmt: skip


@dataclass(frozen=True)
class Rounds:
    """What :func:`prune_in_rounds` returns.

    Attributes:
        network: the pruned network, compensated if that was asked for.
        decision: which units of the *original* stay. The inclusion probability of a unit is that of
            the round that removed it; of one that stays, that of the last round.
        rounds: what each round left; they end early where nothing more has to go and nothing can.
    """

    network: nn.Module
    decision: Decision
    rounds: tuple[Round, ...]

    @property
    def passes(self) -> Passes | None:
        """What all scoring and learning took; None where a posterior's was not counted."""
        total = Passes()
        for one in self.rounds:
            if one.learning is None:
                return None
            total = total + one.passes + one.learning
        return total


def prune_in_rounds(
    model: SwitchedNetwork,
    loader: Loader | None,
    *,
    rounds: int = ROUNDS,
    evidence: str = "removal-cost",
    macs: float | None = None,
    params: float | None = None,
    keep: float | None = None,
    widths: Widths = None,
    round_to: int | None = None,
    guide: GuideSpec = "dirichlet",
    guide_options: Mapping[str, Any] | None = None,
    steps: int = STEPS,
    particles: int = 4,
    source: Source = None,
    compensate: str | Sequence[str] = (),
    compensation_loader: Loader | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
) -> Rounds:
    r"""Remove units in rounds, each of which judges what the rounds before it have left.

    ::

        found = prune_in_rounds(model, train, keep=0.3, compensate="least-squares")
        found.network, found.decision, found.passes

    A round learns the posterior over the units that are left (with gains of mean one over those;
    only where the criterion reads a posterior), scores them, decides and cuts. After round r of R a
    budget of share b of the *original's* cost is :math:`b^{r/R}`: each round removes the same share
    of what it finds, and the last one ends where a single decision would.

    Without compensation ``found.network`` is ``prune(model, found.decision)``. With it, each round
    begins with the compensated network of the one before; what is reconstructed are the outputs of
    the *original*, so that errors of several rounds do not add up.

    Args:
        model: the switched network. The model of each round has its prior (one that reads the
            network reads what is left of it), likelihood, temperature, scaling and kinds of units.
        loader: training images; None will do for criteria and compensations that look at none.
        rounds: R; one round is ``fit``, ``evidence``, ``decide`` and ``prune``.
        evidence: a criterion, alone or with options ("shapley:permutations=2").
        macs: the share of the original's multiply-adds that may be left, in (0, 1].
        params: the same for its parameters.
        keep: the share of all its units that stays, in (0, 1], rounded to a whole number of units.
        widths: as in ``decide``: None, "uniform", or units by site, which need no budget.
        round_to: as in ``decide``.
        guide: of the posteriors: a name, a class or a factory.
        guide_options: options of a guide that is given by name.
        steps: of SVI in a round, a batch each.
        particles: as in ``fit``.
        source: the posterior of the first round, a Fit or a DataTree, where there is one already.
        compensate: names of compensations after each round, in their order, or one name;
            "fold-gains" folds the mean gains of the round's own posterior.
        compensation_loader: images for those, augmented as they were in training where batch norms
            are recalibrated; by default ``loader``.
        seed: same seed, same result (bit for bit on a CPU with one thread).
        checkpoint: a file for what the finished rounds left; SVI keeps its state beside it.
        resume: go on from that file if it is there; the result is that of an undisturbed run.

    Returns:
        The network, the decision in the units of ``model``, and what each round left.

    Raises:
        DirpruneError: no budget or one that cannot be met, unknown names, a guide that serves one
            model alone, a loader that is missing or empty, a checkpoint of another run.
        KeyboardInterrupt: Ctrl-C; finished rounds are in the checkpoint, and the steps of SVI.
    """
    budget = {
        what: share
        for what, share in {"macs": macs, "params": params, "keep": keep}.items()
        if share is not None
    }
    names = (compensate,) if isinstance(compensate, str) else tuple(compensate)
    path = None if checkpoint is None else Path(checkpoint)
    way = _Way(
        evidence, guide, dict(guide_options or {}), steps, particles, names, source, loader,
        compensation_loader or loader, seed, path, resume,
    )  # fmt: skip
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise DirpruneError(f"rounds: expected a whole number of at least 1, got {rounds!r}")
    way.check(rounds)
    schedule = Schedule(model, budget, widths, round_to, rounds)
    settings = {**schedule.settings, "rounds": rounds, **way.settings()}
    batches = None if loader is None else batches_in(loader)
    made_with = {**settings, **model_settings(model), "batches": batches}
    keeper = Checkpoint(path, made_with | fingerprint(model) if path else {}, resume)
    left, done = Left(model), []
    with tqdm(total=rounds, desc="rounds", unit="round", disable=None, leave=False) as bar:
        if (saved := keeper.read()) is not None:
            left.restore(saved["job"])
            done = [Round.from_dict(one) for one in saved["values"]]
            bar.update(len(done))
        while len(done) < rounds:
            if done:
                try:
                    left.go_on()
                except DirpruneError as error:
                    if schedule.met(left.units):
                        break
                    raise DirpruneError(f"after round {len(done)} of {rounds}: {error}") from error
            done.append(_round(left, schedule, way, len(done) + 1))
            values = [one.to_dict() for one in done]
            keeper.write({"job": left.state(), "values": values, "generators": {}})
            bar.update()
    return Rounds(left.network, Decision(left.units, left.probability, settings), tuple(done))


@dataclass(frozen=True)
class _Way:
    """How a round learns, scores and compensates; as the arguments of :func:`prune_in_rounds`."""

    evidence: str
    guide: GuideSpec
    guide_options: dict[str, Any]
    steps: int
    particles: int
    compensate: tuple[str, ...]
    source: Source
    loader: Loader | None
    compensation_loader: Loader | None
    seed: int
    checkpoint: Path | None
    resume: bool

    @property
    def learns(self) -> bool:
        """Does the criterion read a posterior?"""
        return "posterior" in CRITERIA[parse_criterion(self.evidence)[0]].reads

    @property
    def folds(self) -> bool:
        """Does a compensation read gains?"""
        return any("gains" in reads for _, reads in self._compensations())

    def _compensations(self) -> list[tuple[str, tuple[str, ...]]]:
        """The name of each compensation, and what it reads."""
        names = [parse_compensation(spec)[0] for spec in self.compensate]
        return [(name, COMPENSATIONS[name].reads) for name in names]

    def check(self, rounds: int) -> None:
        """Refuse, before anything is learned, what would fail then."""
        if self.loader is None and CRITERIA[parse_criterion(self.evidence)[0]].reads:
            raise DirpruneError(f"evidence {self.evidence!r} needs a loader of training images")
        for name, reads in self._compensations():
            if self.compensation_loader is None and "images" in reads:
                raise DirpruneError(f"compensation {name!r} needs a loader of training images")
        if self.learns and self.loader is not None:
            Steps(self.loader, self.steps)
        if self.learns and isinstance(self.guide, AutoGuide) and rounds > 1:
            raise DirpruneError(
                f"guide: a {type(self.guide).__name__} of one model cannot serve the smaller ones "
                "of later rounds; give its name, its class or a factory model -> guide"
            )
        if self.folds and not self.learns:
            raise DirpruneError(
                f"compensation 'fold-gains' needs a posterior, and evidence {self.evidence!r} "
                "reads none: leave it out, or choose a criterion of the posterior"
            )

    def settings(self) -> dict[str, Any]:
        """For a decision, and for what a checkpoint belongs to."""
        told = {"evidence": self.evidence, "compensate": list(self.compensate), "seed": self.seed}
        if not self.learns:
            return told
        guide = self.guide if isinstance(self.guide, str) else readable(self.guide)
        of_guide = {"guide": guide, "guide_options": self.guide_options}
        return {**told, **of_guide, "steps": self.steps, "particles": self.particles}

    def posterior(self, model: SwitchedNetwork, number: int) -> Source:
        """The posterior of a round over what is left."""
        if not self.learns or (number == 1 and self.source is not None):
            return self.source if number == 1 else None
        assert self.loader is not None  # checked
        path = self.checkpoint
        return fit(
            model, self.guide, Steps(self.loader, self.steps), particles=self.particles,
            guide_options=self.guide_options, resume=self.resume,
            seed=self.seed if number == 1 else seed_of([self.seed, number]),
            checkpoint=None if path is None else path.with_name(f"{path.name}.svi{number}"),
        )  # fmt: skip


def _round(left: Left, schedule: Schedule, way: _Way, number: int) -> Round:
    """Learn, score, decide, cut and compensate."""
    started, model = time.perf_counter(), left.model
    posterior = way.posterior(model, number)
    found: Evidence = score(way.evidence, model, posterior, way.loader)
    try:
        decision = decide(model, found, **schedule.aim(number, model, left.units, set(found)))
    except DirpruneError as error:
        raise DirpruneError(f"round {number} of {schedule.rounds}: {error}") from error
    gains = left.spread(mean_gains(model, posterior)) if way.folds else None
    left.cut(decision)
    compensated = apply_compensations(
        way.compensate, left.original, Decision(left.units), left.network,
        way.compensation_loader, gains=gains,
    )  # fmt: skip
    left.network = compensated.network
    return Round(
        schedule.after(number),
        {name: len(units) for name, units in left.units.items()},
        found.passes,
        found.learning,
        time.perf_counter() - started,
        compensated.reports,
    )
