"""How accurate the pruned network will be: a prediction with an interval, and its check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import beta, betabinom
from torch import Tensor
from tqdm import tqdm

from ...inference.loop import Loader
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..evidence import Material, Scores, Source
from ..masked import correct, masked_gains
from .decide import decide, draws_masks

LEVEL = 0.9
DRAWS, DRAW_IMAGES = 16, 500  # posterior draws, and the images that each is run on


@dataclass(frozen=True)
class Interval:
    """A predictive distribution of an accuracy in percent: its mean and its central interval."""

    mean: float
    low: float
    high: float

    def __contains__(self, percent: float) -> bool:
        return self.low <= percent <= self.high

    def __str__(self) -> str:
        return f"{self.mean:.1f} % ({self.low:.1f} to {self.high:.1f})"


@dataclass(frozen=True)
class PredictedAccuracy:
    """What is predicted of a pruned network, before recalibration and fine-tuning.

    Attributes:
        network: the accuracy of the network that was decided on.
        under_draws: the same units, at the gains of a posterior draw instead of gains of one; None
            without a posterior.
        other_masks: gains of one, but the units that a posterior draw's own decision keeps: how
            much hangs on the choice; None where the evidence has no draws.
        images: held-out images that the first was measured on.
        new_images: the images that the interval is for; None means ever so many.
        level: the probability of the intervals.
    """

    network: Interval
    under_draws: Interval | None
    other_masks: Interval | None
    images: int
    new_images: int | None
    level: float = LEVEL

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a decision's settings."""
        return asdict(self)


def predict_accuracy(
    model: SwitchedNetwork,
    decision: Decision,
    source: Source,
    loader: Loader,
    *,
    evidence: Mapping[str, Scores] | None = None,
    new_images: int | None = None,
) -> PredictedAccuracy:
    r"""Predict the pruned network's accuracy on new images, from its mask on held-out ones.

    Two things are uncertain. *Which images come*: the mask gets k of n held-out images right, new
    images are as good as drawn with them, and so the number right among m new ones is

    .. math:: \text{BetaBinomial}\left(m,\ k + \tfrac12,\ n - k + \tfrac12\right)

    whose central interval is ``network``: of many networks, each with n held-out and m new images
    of its own, it holds the accuracy on the new ones in 90 % of cases (a little more, since counts
    are whole). That is all there is to the network that was decided on, whose gains are one and
    whose mask is known; it stands on the exchangeability of images and on no posterior.

    *Which network*: other draws of the posterior have other gains, and decide otherwise.
    ``under_draws`` and ``other_masks`` mix that distribution over draws: the accuracy of a network
    of which only that is known that a draw gave its gains, or its mask. They say how much the
    posterior leaves open, not what the pruned network does: gains of a draw do not add up to ones,
    and a draw's decision is worse than that of the mean over draws, so both lie low for it.

    Args:
        model: the switched network, a classifier.
        decision: what stays.
        source: a Fit or a DataTree of ``posterior``; None leaves ``under_draws`` out.
        loader: held-out images that took no part in training, posterior or decision. Of a decision
            under ``max_drop`` those that confirmed it are the nearest to that, but they let it
            through: simulated, a 90 % interval from them holds 84 to 93 %.
        evidence: that of the decision, for ``other_masks``.
        new_images: m; None predicts the accuracy over ever so many images.

    Raises:
        DirpruneError: the decision is of another network, no classifier, or an empty loader.
    """
    decision.check(model.sites)
    if new_images is not None and new_images < 1:
        raise DirpruneError(f"new_images={new_images}: expected at least 1")
    mask = masked_gains(model, decision.kept)
    right = correct(model, mask, loader, label="predicted accuracy")

    def over(gains: Mapping[str, Tensor]) -> Interval:
        found = correct(model, gains, loader, most=DRAW_IMAGES, label="under draws")
        return predictive(found.sum(1).tolist(), found.shape[1], new_images)

    under_draws = other_masks = None
    if source is not None:
        drawn = Material("predicted accuracy", model, source, None).switches(DRAWS)
        gains = model.gains({name: _spaced(s.flatten(0, 1)) for name, s in drawn.items()})
        under_draws = over({name: g * mask[name].cpu() for name, g in gains.items()})
    masks = [] if evidence is None else draws_masks(model, evidence, decision, DRAWS)
    if masks:
        rows = [masked_gains(model, kept) for kept in masks]
        other_masks = over({name: torch.cat([row[name] for row in rows]) for name in rows[0]})
    images = right.shape[1]
    return PredictedAccuracy(
        predictive([int(right.sum())], images, new_images),
        under_draws, other_masks, images, new_images,
    )  # fmt: skip


def predictive(
    correct: Sequence[int], images: int, new_images: int | None = None, level: float = LEVEL
) -> Interval:
    """The accuracy on new images, where ``correct`` of ``images`` were right, in percent.

    A beta-binomial under Jeffreys' prior (a beta, where ``new_images`` is None), mixed with equal
    weights over the counts; the ends are its quantiles.
    """
    a = np.asarray(correct, dtype=np.float64)[:, None] + 0.5
    b = images - a + 1.0
    if new_images is None:
        grid = np.linspace(0, 1, 10_001)
        share = beta.cdf(grid, a, b).mean(0)
    else:
        grid = np.arange(new_images + 1) / new_images
        share = betabinom.pmf(np.arange(new_images + 1), new_images, a, b).mean(0).cumsum()
    low, high = (
        float(grid[min(int(np.searchsorted(share, q)), len(grid) - 1)])
        for q in ((1 - level) / 2, (1 + level) / 2)
    )
    return Interval(100 * float((a / (images + 1)).mean()), 100 * low, 100 * high)


@dataclass(frozen=True)
class Checked:
    """A prediction, and what came of it.

    Attributes:
        budget: of the decision.
        predicted: from held-out images.
        happened: percent of new images that the pruned network classified correctly.
    """

    budget: Mapping[str, Any]
    predicted: PredictedAccuracy
    happened: float


def check_predictions(
    model: SwitchedNetwork,
    evidence: Mapping[str, Scores],
    source: Source,
    held_out: Loader,
    new: Loader,
    budgets: Sequence[Mapping[str, Any]],
) -> list[Checked]:
    """Decide under each budget, predict the accuracy, and measure it on new images.

    Masked and pruned networks are one function, so that the mask is what is measured.
    :func:`~.plots.predicted_accuracy_figure` draws it.

    Args:
        model: the switched network, a classifier.
        evidence: what decides.
        source: as in :func:`predict_accuracy`.
        held_out: images to predict from.
        new: images that nothing before has seen: test images.
        budgets: as ``decide`` takes them: ``[{"macs": 0.5}, {"macs": 0.25}]``.
    """
    checked = []
    for budget in tqdm(budgets, desc="budgets", unit="budget", disable=None, leave=False):
        decision = decide(model, evidence, **budget)
        right = correct(model, masked_gains(model, decision.kept), new)[0]
        predicted = predict_accuracy(
            model, decision, source, held_out, evidence=evidence, new_images=len(right)
        )
        checked.append(Checked(dict(budget), predicted, 100 * float(right.double().mean())))
    return checked


def _spaced(draws: Tensor) -> Tensor:
    """``DRAWS`` of them, evenly spaced over all restarts."""
    return draws[torch.linspace(0, len(draws) - 1, min(DRAWS, len(draws))).round().long()]
