"""How much of the best rival's accuracy loss a method removes, over budgets."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import t

from ...model.errors import DirpruneError

# Seed -> percentage points of accuracy that were lost, by budget.
Losses = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class LossShare:
    """What :func:`loss_share` finds.

    Attributes:
        best: budget -> the rival that loses least there.
        by_budget: budget -> 1 - own loss / the best rival's, of the means over seeds; None where
            that rival loses nothing.
        share: 1 - sum of own losses / sum of the best rivals', of the means over seeds; None where
            these lose nothing.
        by_seed: seed -> the same of one seed alone, where it has all budgets.
    """

    best: dict[str, str]
    by_budget: dict[str, float | None]
    share: float | None
    by_seed: dict[int, float]

    @property
    def mean(self) -> float | None:
        """The mean over budgets of ``by_budget``, where there is one for each."""
        found = [v for v in self.by_budget.values() if v is not None]
        return statistics.fmean(found) if len(found) == len(self.by_budget) else None


def loss_share(own: Losses, rivals: Mapping[str, Losses]) -> LossShare:
    r"""The share of the best rival's accuracy loss that a method removes.

    .. math:: 1 - \frac{\sum_b \bar\ell_b}{\sum_b \min_r \bar\ell_{rb}}

    with :math:`\bar\ell` a mean over seeds: 0.33 where a third of the loss is gone, below 0 where
    the method loses more. The best rival is another one at each budget, the best of them all: no
    single method need be so good. It is a ratio of sums, since at budgets that cost next to nothing
    the ratio of two losses is noise; ``by_budget`` and ``mean`` have those too.

    Args:
        own: budget -> seed -> percentage points lost against the unpruned network.
        rivals: the same by name. A rival without some seed of a budget is left out there.

    Raises:
        DirpruneError: no rival for a budget, or no budget.
    """
    if not own:
        raise DirpruneError("no budget to compare at")
    best: dict[str, str] = {}
    for budget, losses in own.items():
        complete = {
            name: statistics.fmean(rival[budget][seed] for seed in losses)
            for name, rival in rivals.items()
            if set(losses) <= set(rival.get(budget, {}))
        }
        if not losses or not complete:
            raise DirpruneError(f"budget {budget}: no rival with the same seeds to compare with")
        best[budget] = min(complete, key=lambda name: complete[name])
    mine = {b: statistics.fmean(losses.values()) for b, losses in own.items()}
    theirs = {
        b: statistics.fmean(rivals[best[b]][b][seed] for seed in losses)
        for b, losses in own.items()
    }
    everywhere = set.intersection(*(set(losses) for losses in own.values()))
    by_seed = {
        seed: _share(
            sum(losses[seed] for losses in own.values()),
            sum(rivals[best[b]][b][seed] for b in own),
        )
        for seed in sorted(everywhere)
    }
    return LossShare(
        best,
        {b: _share(mine[b], theirs[b]) for b in own},
        _share(sum(mine.values()), sum(theirs.values())),
        {seed: value for seed, value in by_seed.items() if value is not None},
    )


def _share(own: float, best: float) -> float | None:
    return 1 - own / best if best > 0 else None


@dataclass(frozen=True)
class Difference:
    """A mean over pairs, with its standard error.

    Attributes:
        mean: of the differences.
        se: sd / sqrt(pairs); None of one pair.
        pairs: how many.
    """

    mean: float
    se: float | None
    pairs: int

    @property
    def differs(self) -> bool | None:
        """Is zero outside the 95 % interval of Student's t? None where one pair cannot tell."""
        if self.se is None:
            return None
        return abs(self.mean) > float(t.ppf(0.975, self.pairs - 1)) * self.se


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Difference | None:
    """The difference of two methods over the seeds that both have; None where they share none.

    >>> paired({0: 97.0, 1: 95.0}, {0: 98.0, 1: 98.0, 2: 90.0})
    Difference(mean=-2.0, se=1.0, pairs=2)
    """
    found = differences(first, second)
    if not found:
        return None
    se = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return Difference(statistics.fmean(found), se, len(found))


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> Sequence[float]:
    """Those of the seeds that both have."""
    return [first[seed] - second[seed] for seed in sorted(set(first) & set(second))]
