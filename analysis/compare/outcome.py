"""What is known of one method on one network, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...model.errors import DirpruneError
from ...model.writing import atomic_write
from ..evidence.scores import Passes
from .grid import file_name


@dataclass(frozen=True)
class Learned:
    """Which posterior.

    Attributes:
        guide, prior: as one writes them.
        temperature: None takes what is usual for the number of images.
    """

    guide: str
    prior: str
    temperature: float | None = None

    @property
    def name(self) -> str:
        """For tables.

        >>> Learned("dirichlet", "symmetric:1", 0.1).name
        'dirichlet, symmetric:1, τ 0.1'
        """
        return f"{self.guide}, {self.prior}, τ {self.tempered}"

    @property
    def file_name(self) -> str:
        """For files."""
        return "_".join(map(file_name, (self.guide, self.prior, f"tau-{self.tempered}")))

    @property
    def tempered(self) -> str:
        """The temperature in words."""
        return "usual" if self.temperature is None else f"{self.temperature:g}"


@dataclass(frozen=True)
class Trial:
    """One method on one network.

    Attributes:
        method: as it was written.
        posterior: that the method reads; None where it reads none.
        seed: of the network's training and of all that is drawn.
        few: the training images that there are; 0 for all.
    """

    method: str
    posterior: Learned | None
    seed: int
    few: int = 0

    @property
    def name(self) -> str:
        """A readable name that any file system takes.

        >>> Trial("shapley:std=0", None, 2, 500).name
        'shapley-std-0_few-500_seed-2'
        """
        learned = () if self.posterior is None else (self.posterior.file_name,)
        few = (f"few-{self.few}",) if self.few else ()
        return "_".join([file_name(self.method), *learned, *few, f"seed-{self.seed}"])


@dataclass(frozen=True)
class Chosen:
    """A choice under one budget.

    Attributes:
        kept: site -> units that stay.
        macs, params: what is left of them.
        scoring: passes of single examples, (forward, backward).
        learning: those of the posteriors; None where they were not counted.
        seconds: of the scoring; the shared posterior's are in ``TrialRecord.seconds``.
    """

    kept: dict[str, list[int]]
    macs: int
    params: int
    scoring: tuple[int, int]
    learning: tuple[int, int] | None
    seconds: float

    @property
    def forwards(self) -> dict[str, int | None]:
        """Scoring, learning and both in forward passes, of which a backward one counts as two."""
        scoring = Passes(*self.scoring).forwards
        learning = None if self.learning is None else Passes(*self.learning).forwards
        total = None if learning is None else scoring + learning
        return {"scoring": scoring, "learning": learning, "total": total}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Chosen:
        learning = content["learning"]
        return Chosen(
            **{
                **content,
                "scoring": tuple(content["scoring"]),
                "learning": None if learning is None else tuple(learning),
            }
        )


@dataclass(frozen=True)
class Arm:
    """What one choice came to under one protocol and compensation.

    Attributes:
        protocol, budget, compensation: their names.
        accuracy: "test" and "validation" -> percent.
        untrained: the same before the protocol's training; None where it has none.
        seconds: of "compensation" and "training".
    """

    protocol: str
    budget: str
    compensation: str
    accuracy: dict[str, float]
    untrained: dict[str, float] | None
    seconds: dict[str, float]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.protocol, self.budget, self.compensation


@dataclass
class TrialRecord:
    """All that is known of a trial; ``trial.json`` holds it, and it grows arm by arm.

    Attributes:
        trial: which.
        original: the unpruned network: "test" and "validation" in percent, "macs", "params".
        chosen: budget -> the choice.
        arms: in the order in which they were measured.
        seconds: of "learning", the posterior that is shared.
        rival: is the method one of the literature?
    """

    trial: Trial
    original: dict[str, float] = field(default_factory=dict)
    chosen: dict[str, Chosen] = field(default_factory=dict)
    arms: list[Arm] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    rival: bool = True

    def has(self, protocol: str, budget: str, compensation: str) -> bool:
        return any(arm.key == (protocol, budget, compensation) for arm in self.arms)

    def _check(self) -> None:
        """Raise a ValueError for figures that no measurement has."""
        percents = [arm.accuracy for arm in self.arms]
        percents += [arm.untrained for arm in self.arms if arm.untrained is not None]
        percents.append({k: v for k, v in self.original.items() if k in ("test", "validation")})
        for value in (value for parts in percents for value in parts.values()):
            if not (isinstance(value, int | float) and 0 <= value <= 100):
                raise ValueError(f"{value!r} percent")
        counts = [count for one in self.chosen.values() for count in (one.macs, one.params)]
        for count in counts:
            if type(count) is not int or count < 0:
                raise ValueError(f"{count!r} multiply-adds or parameters")

    def save(self, path: Path) -> None:
        atomic_write(path, json.dumps(asdict(self)))

    @staticmethod
    def load(path: Path) -> TrialRecord | None:
        """What a file holds; None where there is none.

        Raises:
            DirpruneError: the file is damaged.
        """
        try:
            content = json.loads(path.read_text())
            trial = content.pop("trial")
            learned = trial.pop("posterior")
            record = TrialRecord(
                **{
                    **content,
                    "trial": Trial(
                        **trial, posterior=None if learned is None else Learned(**learned)
                    ),
                    "chosen": {b: Chosen.from_json(c) for b, c in content["chosen"].items()},
                    "arms": [Arm(**arm) for arm in content["arms"]],
                }
            )
            record._check()
            return record
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DirpruneError(f"{path} is damaged; --resume makes it again") from error
