"""A posterior over the sub-networks of given widths, as an ArviZ DataTree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from ...inference.loop import Loader, seed_of
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..evidence.scores import Passes
from ..evidence.switches import fixed_images
from ..tree import site_dataset
from .masks import Allowed, Masks, masks_of
from .metropolis import State, step
from .slopes import slopes

DRAWS, WARMUP, IMAGES = 100, 50, 512
ACCEPTANCE = 0.4  # that the largest number of swaps at once is tuned to during the warm-up


def subnetwork_posterior(
    model: SwitchedNetwork,
    decision: Decision | Sequence[Decision],
    loader: Loader,
    *,
    draws: int = DRAWS,
    warmup: int = WARMUP,
    chains: int = 2,
    images: int = IMAGES,
    seed: int = 0,
) -> xr.DataTree:
    r"""Draws from the posterior over masks that keep as many units of each site as a decision.

    .. math:: p(m \mid D) \propto \exp\left(\frac{\min(\tau N, n)}{n} \sum_{i=1}^n
        \log p(y_i \mid x_i, g = m)\right), \quad |m_l| = k_l

    with a uniform prior: every sub-network of these widths, at no more multiply-adds and parameters
    than the start has. The weights are given, as everywhere here, and learned from the
    same images; tau and N are the model's. Of more than n images' worth, n is what is seen, and
    each counts once.

    Chains start where they are told to (so begin with a good decision, of :func:`~.search.refine`)
    and move by :func:`~.metropolis.step`. On a large network a few hundred steps explore the
    surroundings of a start, and no more. Chains that start together cannot show what they have not
    found; give one decision for each chain, from independent searches, and ``az.rhat`` of ``lp``
    and of the units says whether they have come to agree. Where they have not, inclusion
    probabilities mix the places that the searches ended in, with equal weights.

    Args:
        model: the switched network.
        decision: gives the widths and the start; of several, of the same widths, chain c starts at
            number c, in turns.
        loader: training images, of which ``images`` fixed ones are the data.
        draws: of each chain, one a step.
        warmup: steps before, which tune how many units are swapped at once.
        chains: of different seeds; at least as many as there are decisions.
        images: n, a forward and backward pass each at every step.
        seed: of the chains; the images do not depend on it.

    Returns:
        A DataTree: ``posterior`` (site -> 0 or 1 over chain, draw, unit), ``sample_stats`` (``lp``
        without the prior's constant; ``log_prob``, the mean over the images in nats; ``accepted``),
        and attributes with the passes and settings. :func:`inclusion` gives probabilities.

    Raises:
        DirpruneError: a number out of range, an empty loader, a decision that is of another network
            or removes nothing, decisions of different widths, or outputs that are not finite.
    """
    for what, (number, least) in {
        "draws": (draws, 2), "warmup": (warmup, 0), "chains": (chains, 1), "images": (images, 1),
    }.items():  # fmt: skip
        if type(number) is not int or number < least:
            raise DirpruneError(f"{what}={number!r}: expected a whole number of at least {least}")
    if not model.costs.nesting.is_flat:
        raise DirpruneError(
            "a posterior over sub-networks is sampled by swaps of single units, and features of a "
            "flattened channel come and go with it: give a model without flatten='features'"
        )
    starts = _starts(model, [decision] if isinstance(decision, Decision) else decision)
    if chains < len(starts):
        raise DirpruneError(f"chains={chains}, but {len(starts)} decisions to start them at")
    allowed = Allowed(model.costs, starts, {})
    inputs, targets = fixed_images(model, loader, images)
    scale = min(model.temperature * model.num_data, float(len(targets)))
    evaluations = 0

    def target(masks: Masks) -> State:
        nonlocal evaluations
        if not allowed(masks):
            return State(masks, -torch.inf, {})
        evaluations += 1
        found = slopes(model, masks, inputs, targets)
        change = {site: scale * change for site, change in found.change.items()}
        return State(masks, scale * found.log_prob, change)

    firsts = [target(start) for start in starts]
    kept: list[list[State]] = []
    accepted: list[list[bool]] = []
    largest = []
    with tqdm(
        total=chains * (warmup + draws), desc="sub-networks", unit="step", disable=None, leave=False
    ) as bar:
        for chain in range(chains):
            generator = torch.Generator().manual_seed(seed_of([seed, chain]))
            state, most = firsts[chain % len(firsts)], 1.0
            kept.append([])
            accepted.append([])
            for i in range(warmup + draws):
                state, taken = step(state, target, max(1, int(most)), generator)
                bar.update()
                if i < warmup:  # Robbins and Monro on the logarithm
                    most = max(1.0, most * np.exp((taken - ACCEPTANCE) / (1 + i) ** 0.5))
                else:
                    kept[-1].append(state)
                    accepted[-1].append(taken)
            largest.append(int(most))
    return _tree(
        kept, accepted, scale,
        {
            "draws": draws, "warmup": warmup, "chains": chains, "images": len(targets),
            "seed": seed, "temperature": model.temperature, "num_data": model.num_data,
            "most_swaps": largest,
            "passes": asdict(Passes(evaluations * len(targets), evaluations * len(targets))),
        },
    )  # fmt: skip


def _starts(model: SwitchedNetwork, decisions: Sequence[Decision]) -> list[Masks]:
    """The masks of the decisions, which have the widths of the first."""
    starts = [masks_of(model, one) for one in decisions]
    if not starts:
        raise DirpruneError("expected a decision to start at, got none")
    widths = [{name: int(mask.sum()) for name, mask in start.items()} for start in starts]
    for own in widths:
        if own != widths[0]:
            raise DirpruneError(f"decisions of the widths {widths[0]} and {own}: expected the same")
    return starts


def inclusion(tree: xr.DataTree) -> dict[str, Tensor]:
    """Site -> [K], the share of the draws that keep each unit: float64."""
    return {
        str(site): torch.from_numpy(draws.mean(("chain", "draw")).values.astype(np.float64))
        for site, draws in tree["posterior"].to_dataset().items()
    }


def _tree(
    kept: list[list[State]], accepted: list[list[bool]], scale: float, settings: Mapping[str, Any]
) -> xr.DataTree:
    lp = np.array([[state.log_density for state in chain] for chain in kept])
    masks = {
        site: torch.stack([torch.stack([s.masks[site] for s in chain]) for chain in kept]).to(
            torch.int8
        )
        for site in kept[0][0].masks
    }
    dims = ("chain", "draw")
    stats = xr.Dataset(
        {"lp": (dims, lp), "log_prob": (dims, lp / scale), "accepted": (dims, np.array(accepted))}
    ).assign_coords({d: np.arange(n) for d, n in zip(dims, lp.shape, strict=True)})
    tree = xr.DataTree.from_dict({"posterior": site_dataset(masks, dims), "sample_stats": stats})
    tree.attrs = {"settings": json.dumps(settings)}
    return tree
