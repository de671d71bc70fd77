"""A better sub-network of the same widths: units are swapped where the data say so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from tqdm import tqdm

from ...inference.loop import Loader, move_batch, same_batches, seed_of
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..evidence.scores import Passes
from ..evidence.switches import take
from .masks import Allowed, kept_of, masks_of, within_channels, without_promises
from .slopes import mean_log_prob, slopes
from .transfer import Transfers, free_budgets

STEPS, IMAGES = 80, 128
SITES = 4  # that a step tries, at random: a deep network has many, and each takes a forward pass
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
    r"""Search for a better sub-network within a decision's widths or budgets.

    Scores of single units do not add up over sets. So: at the mask m of the decision, a backward
    pass over fresh training images gives for every unit, kept or gone, an estimate
    :math:`\Delta_k` of what flipping it alone would change in the mean log likelihood
    (:func:`~.slopes.slopes`). Site by site, the r kept units with the largest :math:`\Delta` are
    swapped for the r removed ones with the largest, pair by pair while the two sum to more than
    zero, and the swap stays if the log likelihood of these images did rise. r falls from a tenth of
    the kept units to one. Where the decision chose its widths itself, under budgets of ``macs``,
    ``params`` or ``keep``, they move as well: units come back in one site and go in another
    (:class:`~.transfer.Transfers`), within these budgets. Uniform and given widths stay, at no more
    multiply-adds and parameters than the decision's. Where features of flattened channels are
    units, these channels stay, and so do all widths: features are swapped within them.

    It is a stochastic local search: what it finds depends on the seed, hardly on where it starts.
    :func:`~.posterior.subnetwork_posterior` says how sure the choice is.

    Args:
        model: the switched network.
        decision: what stays to begin with. Sites that keep all their units are left alone.
        loader: training images.
        steps: of one backward pass each, and of a forward pass for each move that is tried.
        images: fresh training images a step.
        seed: of the order of the images.

    Returns:
        A decision without probabilities, which were those of another choice;
        ``settings["refined"]`` has the steps, the flips of units that stayed, the passes, and the
        mean log likelihood "before" and "after", on further training images.

    Raises:
        DirpruneError: no steps or images, an empty loader, a decision that is of another network or
            removes nothing, or outputs that are not finite.
    """
    for what, number in {"steps": steps, "images": images}.items():
        if type(number) is not int or number < 1:
            raise DirpruneError(f"{what}={number!r}: expected a whole number of at least 1")
    masks = start = masks_of(model, decision)
    nested = not model.costs.nesting.is_flat
    budgets = {} if nested else free_budgets(decision)
    allowed = Allowed(model.costs, [masks], budgets)
    sites = [name for name, mask in masks.items() if not bool(mask.all())]
    generator = torch.Generator().manual_seed(seed_of([seed]))
    transfers = Transfers(model.costs, budgets, sites)
    passes, flips = Passes(), 0
    with same_batches(loader, [seed], model.device):
        parts = _portions(loader, images, model.device)
        for step in tqdm(range(steps), desc="swaps", unit="step", disable=None, leave=False):
            inputs, targets = next(parts)
            found = slopes(model, masks, inputs, targets)
            passes += Passes(len(targets), len(targets))
            best = found.log_prob
            share = SHARE * (1 - step / steps)
            change = within_channels(model.costs, masks, found.change)
            chosen = torch.randperm(len(sites), generator=generator)[:SITES].tolist()
            for site in [*([None] if budgets else []), *(sites[i] for i in chosen)]:
                if site is None:
                    candidate = transfers(masks, change, share)
                else:
                    candidate = {**masks, site: swapped_mask(masks[site], change[site], share)}
                flipped = {name: candidate[name] != mask for name, mask in masks.items()}
                number = sum(int(units.sum()) for units in flipped.values())
                if not number or not allowed(candidate):
                    continue
                value = mean_log_prob(model, candidate, inputs, targets)
                passes += Passes(len(targets))
                if value > best:
                    masks, best, flips = candidate, value, flips + number
                    # To flip a unit back undoes what flipping it did.
                    change = {n: torch.where(flipped[n], -c, c) for n, c in change.items()}
        inputs, targets = next(parts)  # that judged no move
        told = {
            "before": mean_log_prob(model, start, inputs, targets),
            "after": mean_log_prob(model, masks, inputs, targets),
        }
    passes += Passes(2 * len(targets))
    settings = {
        **without_promises(decision.settings),
        "refined": {
            "steps": steps, "images": images, "seed": seed, "flips": flips,
            "passes": asdict(passes), "log_prob": told,
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
    """So many fresh images at a time, epoch after epoch; all of an epoch that has fewer.

    What an epoch has over is left: a move should not be judged by a handful of images.
    """
    while True:
        held: list[tuple[Any, Tensor]] = []
        size, given = 0, False
        for batch in loader:
            held.append(move_batch(batch, device))
            size += len(held[-1][1])
            if size < images:
                continue
            inputs, targets = tree_map(lambda *xs: torch.cat(xs), *held)
            held, size = [], 0
            for index in torch.arange(len(targets), device=device).split(images):
                if len(index) == images:
                    given = True
                    yield take(inputs, index), targets[index]
        if not given and not held:
            raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")
        if not given:
            yield tree_map(lambda *xs: torch.cat(xs), *held)
