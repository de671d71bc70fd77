"""A better sub-network of the same widths: units are swapped where the data say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from tqdm import tqdm

from ...inference.loop import Loader, move_batch, same_batches
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..evidence.scores import Passes
from ..evidence.switches import take
from .masks import Allowed, kept_of, masks_of
from .slopes import mean_log_prob, slopes

STEPS, IMAGES = 80, 128
SHARE = 0.1  # of a site's kept units that the first step tries to swap; it falls to 0 linearly


def refine(
    model: SwitchedNetwork,
    decision: Decision,
    loader: Loader,
    *,
    steps: int = STEPS,
    images: int = IMAGES,
    seed: int = 0,
) -> Decision:
    r"""Search for a better sub-network of a decision's widths.

    Scores of single units do not add up over sets. So: at the mask m of the decision, a backward
    pass over fresh training images gives for every unit, kept or gone, an estimate
    :math:`\Delta_k` of what flipping it alone would change in the mean log likelihood
    (:func:`~.slopes.slopes`). Site by site, the r kept units with the largest :math:`\Delta` are
    swapped for the r removed ones with the largest, pair by pair while the two sum to more than
    zero, and the swap stays if the log likelihood of these images did rise. r falls from a tenth of
    the kept units to one.

    It is a stochastic local search: what it finds depends on the seed, hardly on where it starts,
    and widths, multiply-adds and parameters are at most those of the decision. ``posterior``
    of :mod:`.sampler` says how sure the choice is.

    Args:
        model: the switched network.
        decision: what stays to begin with; its widths stay.
        loader: training images.
        steps: at most ``images`` x (2 + sites) forward-like passes each, one of them backward.
        images: fresh training images a step.
        seed: of the order of the images.

    Returns:
        A decision without probabilities, which were those of another choice;
        ``settings["refined"]`` has the steps, the swaps that stayed, the passes, and the mean log
        likelihood before and after, on images of the last step.

    Raises:
        DirpruneError: no steps or images, an empty loader, a decision that is of another network or
            removes nothing, or outputs that are not finite.
    """
    for what, number in {"steps": steps, "images": images}.items():
        if type(number) is not int or number < 1:
            raise DirpruneError(f"{what}={number!r}: expected a whole number of at least 1")
    masks = masks_of(model, decision)
    allowed = Allowed(model, masks)
    passes, swapped = Passes(), 0
    with same_batches(loader, [seed], model.device):
        parts = _portions(loader, images, model.device)
        for step in tqdm(range(steps), desc="swaps", unit="step", disable=None, leave=False):
            inputs, targets = next(parts)
            found = slopes(model, masks, inputs, targets)
            passes += Passes(len(targets), len(targets))
            best = found.log_prob
            for site in masks:
                swap = swapped_mask(masks[site], found.change[site], SHARE * (1 - step / steps))
                candidate = {**masks, site: swap}
                if bool((swap == masks[site]).all()) or not allowed(candidate):
                    continue
                value = mean_log_prob(model, candidate, inputs, targets)
                passes += Passes(len(targets))
                if value > best:
                    swapped += int((swap != masks[site]).sum()) // 2
                    masks, best = candidate, value
    before = mean_log_prob(model, masks_of(model, decision), inputs, targets)
    settings = {
        **decision.settings,
        "refined": {
            "steps": steps, "images": images, "seed": seed, "swaps": swapped,
            "passes": asdict(passes), "log_prob": {"before": before, "after": best},
        },
    }  # fmt: skip
    return Decision(kept_of(masks), settings=settings)


def swapped_mask(mask: Tensor, change: Tensor, share: float) -> Tensor:
    """A site's mask after the swaps that its slopes suggest; ties go by index.

    Args:
        mask: [K] booleans.
        change: [K], the estimated gain of flipping each unit alone.
        share: of the kept units, how many are swapped at most; at least one.
    """
    number = int(min(max(1, round(share * int(mask.sum()))), int((~mask).sum())))
    worst = change.masked_fill(~mask, -torch.inf).argsort(descending=True, stable=True)[:number]
    best = change.masked_fill(mask, -torch.inf).argsort(descending=True, stable=True)[:number]
    better = change[worst] + change[best] > 0
    swap = mask.clone()
    swap[worst[better]] = False
    swap[best[better]] = True
    return swap


def _portions(loader: Loader, images: int, device: torch.device) -> Iterator[tuple[Any, Tensor]]:
    """So many fresh images at a time, epoch after epoch; fewer where an epoch has no more."""
    while True:
        held: list[tuple[Any, Tensor]] = []
        size = none = 0
        for batch in loader:
            held.append(move_batch(batch, device))
            none += 1
            size += len(held[-1][1])
            if size < images:
                continue
            inputs, targets = tree_map(lambda *xs: torch.cat(xs), *held)
            held, size = [], 0
            for index in torch.arange(len(targets), device=device).split(images):
                if len(index) == images:
                    yield take(inputs, index), targets[index]
        if not none:
            raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")
        if held:
            yield tree_map(lambda *xs: torch.cat(xs), *held)
