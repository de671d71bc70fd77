"""A budget in accuracy: the smallest network that loses at most so many points of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import beta
from torch import Tensor
from tqdm import tqdm

from ...inference.loop import Loader
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..masked import classified, masked_gains
from .budget import exactly

Kept = Mapping[str, Tensor]
LEVEL = 0.05  # of the bound on the true loss
RESOLUTION = 0.01  # of the multiply-adds


@dataclass(frozen=True)
class Loss:
    """A masked network beside the original, image by image.

    Attributes:
        lost: images that the original alone gets right.
        won: images that the masked network alone gets right.
        images: all that were looked at.
    """

    lost: int
    won: int
    images: int

    @property
    def points(self) -> float:
        """The accuracy lost, in percentage points; below zero if it gained."""
        return 100 * (self.lost - self.won) / self.images

    def within(self, bound: float) -> bool:
        return 100 * (self.lost - self.won) <= exactly(bound) * self.images

    def upper(self, level: float = LEVEL) -> float:
        r"""A bound on the loss over all images of that kind, in points, wrong in at most ``level``.

        The exact upper limit for the share of images that are lost, less the exact lower one for
        those that are won (Clopper and Pearson, each at half the level).

        References:
            C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits illustrated in
            the case of the binomial", 1934.
        """
        n = self.images
        high = (
            1.0 if self.lost == n else float(beta.ppf(1 - level / 2, self.lost + 1, n - self.lost))
        )
        low = 0.0 if self.won == 0 else float(beta.ppf(level / 2, self.won, n - self.won + 1))
        return 100 * (high - low)


@dataclass(frozen=True)
class Candidate:
    """A decision under a budget of multiply-adds, and what it loses on each half of the images."""

    macs: float
    kept: Kept
    choosing: Loss
    confirming: Loss


@dataclass(frozen=True)
class Found:
    """The decision of the search, with what is known of its loss.

    Attributes:
        candidate: the decision.
        confirmations: how many decisions the second half was asked about, this one included.
    """

    candidate: Candidate
    confirmations: int

    @property
    def upper(self) -> float:
        r"""A bound on the true loss, in points, that is wrong in at most 5 % of searches.

        The r-th decision that the second half is asked about has :math:`6 / (\pi r)^2` of the
        level; over all r these sum to one: whichever was confirmed, the bound holds.
        """
        return self.candidate.confirming.upper(LEVEL * 6 / (math.pi * self.confirmations) ** 2)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a decision's settings."""
        chosen, confirmed = self.candidate.choosing, self.candidate.confirming
        return {
            "macs": self.candidate.macs,
            "loss_choosing": chosen.points,
            "loss_confirming": confirmed.points,
            "images_choosing": chosen.images,
            "images_confirming": confirmed.images,
            "confirmations": self.confirmations,
            "loss_upper": self.upper,
            "level": LEVEL,
        }


def halves(images: int) -> tuple[Tensor, Tensor]:
    """The images that choose and those that confirm: the same random halves each time."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    return order[: images // 2].sort().values, order[images // 2 :].sort().values


def find_within_drop(
    model: SwitchedNetwork,
    choose: Callable[[float], Kept],
    bound: float,
    smallest: float,
    validation: Loader,
) -> Found:
    r"""The smallest decision, in multiply-adds, that loses at most ``bound`` points of accuracy.

    Among many networks measured on the same images the one that is chosen for its figure owes some
    of it to these images (the winner's curse). So one half of the images chooses: the interval
    between a budget of multiply-adds that loses at most the bound there and one that loses more is
    halved until it is a hundredth wide. The other half confirms: what is chosen has to be within
    the bound there too, or the search goes on above it, in steps that double. What comes back has
    lost at most the bound on either half, hence on all.

    That is a statement about these images, and the losses on both halves flatter what they let
    through: simulated with networks that all lose 4 points where 3 are allowed, 300 images in a
    half and fresh noise for each, 44 % of searches found one, with 2.6 and 2.5 points lost (a
    search on all images at once: 55 %). :attr:`Found.upper` has, beside it, a bound on the loss
    over all images of the kind, right in 95 % of searches whatever was chosen: the decisions that
    the second half is asked about follow from the first alone, and each has its part of the level.
    A search for a network whose *bound* is within the budget would be stricter, but would let
    nothing through on few images: half a point takes some 840 in the second half, of which the
    network loses none.

    Args:
        model: the switched network, a classifier.
        choose: share of multiply-adds -> kept units.
        bound: points of accuracy.
        smallest: the smallest share of multiply-adds that there is.
        validation: held-out images; every decision is measured on all of them.

    Raises:
        DirpruneError: not even the largest decision is within the bound; fewer than two images;
            images that come in another order each time.
    """
    with tqdm(desc="accuracy", unit="network", disable=None, leave=False) as bar:
        (original,), labels = classified(model, model.unit_gains(), validation)
        if len(original) < 2:
            raise DirpruneError(
                f"budget max_drop={bound}: one half of the validation images chooses and the other "
                f"confirms, which takes two at least, got {len(original)}"
            )
        first, second = halves(len(original))

        def measure(macs: float) -> Candidate:
            kept = choose(macs)
            (right,), now = classified(model, masked_gains(model, kept), validation)
            if not torch.equal(now, labels):
                raise DirpruneError(
                    f"budget max_drop={bound}: networks are compared image by image, and the "
                    "loader of validation images gives its examples in another order each time; "
                    "give one that does not shuffle"
                )

            def loss(half: Tensor) -> Loss:
                a, b = original[half], right[half]
                return Loss(int((a & ~b).sum()), int((b & ~a).sum()), len(half))

            found = Candidate(macs, kept, loss(first), loss(second))
            bar.update()
            bar.set_postfix_str(f"macs={macs:g}: {found.choosing.points:.2f} points lost")
            return found

        largest = measure(1.0)
        if not largest.choosing.within(bound):
            _refuse(largest, bound)
        within = [largest]  # on the first half, ever smaller
        least, confirmations = measure(smallest), 0
        below = smallest
        if least.choosing.within(bound):
            within.append(least)
        while True:
            while within[-1].macs - below > RESOLUTION:
                middle = round((within[-1].macs + below) / 2, 4)
                candidate = measure(middle)
                if candidate.choosing.within(bound):
                    within.append(candidate)
                else:
                    below = middle
            chosen = within.pop()
            confirmations += 1
            if chosen.confirming.within(bound):
                return Found(chosen, confirmations)
            if not within:
                _refuse(chosen, bound)
            # Few questions: each has to share the level of the bound.
            below = chosen.macs + RESOLUTION * (2 ** (confirmations - 1) - 1)
            while len(within) > 1 and within[-1].macs <= below:
                within.pop()


def _refuse(largest: Candidate, bound: float) -> None:
    chosen, confirmed = largest.choosing, largest.confirming
    raise DirpruneError(
        f"budget max_drop={bound}: the largest network that the other budgets and round_to allow "
        f"loses {chosen.points:.2f} points on the {chosen.images} validation images that choose "
        f"and {confirmed.points:.2f} on the {confirmed.images} that confirm: "
        "allow more of one of them"
    )
