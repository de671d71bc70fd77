"""Can a decision's uncertainty be taken at its word: held-out swaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...inference.loop import Loader, seed_of
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..evidence import Scores
from ..evidence.switches import fixed_images, predictions
from ..masked import masked_gains
from .reliability import Calibration, calibration

SWAP_IMAGES = 1000


@dataclass(frozen=True)
class Swap:
    """A kept unit against a removed one of the same site.

    Attributes:
        site: whose units they are.
        kept: the unit that the decision keeps.
        removed: the unit that it could have kept instead.
        probability: that the decision is right about the two, by the draws.
        rise: of the mean held-out loss in nats if the two are swapped; above 0 the decision is
            right.
    """

    site: str
    kept: int
    removed: int
    probability: float
    rise: float


@dataclass(frozen=True)
class SwapCalibration:
    """What came of the swaps, and how it agrees with their probabilities."""

    swaps: tuple[Swap, ...]
    calibration: Calibration

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        c = self.calibration
        return {
            "swaps": len(self.swaps),
            "bins": {
                "swaps": c.sizes.astype(int).tolist(),
                "confidence": c.confidence.tolist(),
                "right": c.accuracy.tolist(),
            },
            "ece": c.ece,
            "p": c.p,
            "confidence": c.mean_confidence,
            "right": c.mean_accuracy,
            "verdict": c.verdict,
        }


def swap_calibration(
    model: SwitchedNetwork,
    decision: Decision,
    draws: Mapping[str, Tensor] | Mapping[str, Scores],
    loader: Loader,
    *,
    images: int = SWAP_IMAGES,
    seed: int = 0,
) -> SwapCalibration:
    r"""How often swapping a kept unit for a removed one hurts, when the draws say so with p.

    Kept and removed units of each site are paired at random, each in one pair at most. Of a pair
    (i kept, j removed) the draws :math:`s` say

    .. math:: p = P(s_i > s_j) + \tfrac12 P(s_i = s_j)

    and the data say whether the held-out loss of the decision's sub-network rises when j takes i's
    place. Calibrated draws are right about a share p of the pairs of probability p. The loss is
    that of finitely many images, so that pairs which hardly differ come out by chance: even exact
    draws look over-confident about these; pairs that do not differ at all are split at random.
    Pairs share the rest of the network and the images, which the p-value takes no account of.

    Args:
        model: the switched network.
        decision: which units stay.
        draws: site -> [S, K], high = keep: draws of the evidence that decided, or masks of
            ``subnetwork_posterior``; or evidence with draws.
        loader: held-out images that took no part in the decision.
        images: how many of them; a forward pass each for every pair, and one more.
        seed: of the pairs.

    Raises:
        DirpruneError: no draws, fewer than 20 pairs, an empty loader, or a decision that is of
            another network.
    """
    decision.check(model.sites)
    pairs = _pairs(model, decision, _plain(draws), seed)
    inputs, targets = fixed_images(model, loader, images)
    mask = masked_gains(model, decision.kept)
    rows = {name: row.repeat(1 + len(pairs), 1) for name, row in mask.items()}
    for row, (site, kept, removed, _) in enumerate(pairs, 1):
        rows[site][row, kept] = 0
        rows[site][row, removed] = 1
    losses = torch.empty((1 + len(pairs)) * len(targets), dtype=torch.float64)
    with torch.no_grad():
        for index, log_prob, _ in predictions(model, rows, inputs, targets, label="swaps"):
            losses[index] = -log_prob
    mean = losses.view(1 + len(pairs), -1).mean(1)
    rises = (mean[1:] - mean[0]).tolist()
    swaps = tuple(Swap(*pair, rise) for pair, rise in zip(pairs, rises, strict=True))
    p = np.array([swap.probability for swap in swaps])
    # Two classes: the kept unit is the one to keep, or the other is.
    # A swap that changes nothing at all (two dead units) says nothing, and is split at random.
    coin = np.random.default_rng(seed).integers(2, size=len(swaps))
    other = np.array(
        [
            int(c) if swap.rise == 0 else int(swap.rise < 0)
            for swap, c in zip(swaps, coin, strict=True)
        ]
    )
    return SwapCalibration(swaps, calibration(np.stack([p, 1 - p], 1), other, seed=seed))


def _plain(draws: Mapping[str, Tensor] | Mapping[str, Scores]) -> dict[str, Tensor]:
    found = {}
    for site, values in draws.items():
        given = values.draws if isinstance(values, Scores) else values
        if given is None:
            raise DirpruneError(
                f"the evidence about {site!r} has no draws: expected a criterion with draws, as "
                "removal-cost, or the masks of subnetwork_posterior"
            )
        found[site] = given.double()
    return found


def _pairs(
    model: SwitchedNetwork, decision: Decision, draws: Mapping[str, Tensor], seed: int
) -> list[tuple[str, int, int, float]]:
    generator = torch.Generator().manual_seed(seed_of([seed]))
    pairs = []
    for site, kept in decision.kept.items():
        if site not in draws:
            continue
        size = model.sites[site].size
        if draws[site].dim() != 2 or draws[site].shape[1] != size:
            raise DirpruneError(
                f"draws of {site!r}: expected [S, {size}], got {list(draws[site].shape)}"
            )
        gone = torch.ones(size, dtype=torch.bool)
        gone[kept] = False
        removed = gone.nonzero()[:, 0]
        kept = kept[torch.randperm(len(kept), generator=generator)]
        removed = removed[torch.randperm(len(removed), generator=generator)]
        for i, j in zip(kept.tolist(), removed.tolist(), strict=False):
            a, b = draws[site][:, i], draws[site][:, j]
            p = (a > b).double().mean() + (a == b).double().mean() / 2
            pairs.append((site, i, j, float(p)))
    if len(pairs) < 20:
        raise DirpruneError(
            f"the decision leaves {len(pairs)} pairs of a kept and a removed unit of one site, "
            "each unit in one pair: expected at least 20, to say anything of calibration; keep "
            "nearer to half of the units"
        )
    return pairs
