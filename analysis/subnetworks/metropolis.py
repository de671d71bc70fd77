"""Metropolis-Hastings over masks of given sizes, by swaps that gradients suggest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .masks import Masks


@dataclass(frozen=True)
class State:
    """Where a chain is.

    Attributes:
        masks: site -> [K] booleans.
        log_density: of the target, up to a constant; minus infinity where a mask is not allowed.
        change: site -> [K], the estimated change of it if a unit were flipped. Any numbers leave
            the target invariant; good ones make the chain move.
    """

    masks: Masks
    log_density: float
    change: dict[str, Tensor]


Target = Callable[[Masks], State]


def step(state: State, target: Target, most: int, generator: torch.Generator) -> tuple[State, bool]:
    r"""One proposal, taken or not.

    A site is drawn, and r from 1 to ``most``. Of its kept units an ordered r-tuple o goes and of
    its removed ones an ordered r-tuple b comes back, both without replacement, in proportion to
    :math:`\sigma(\Delta_k)` (a locally balanced weight, Barker's), at the present mask m. On the
    way back from the new mask m' the tuple b goes and o comes back, with the weights at m'. With
    the tuples as auxiliary variables the swap is taken with probability

    .. math:: \min\left(1,\ \frac{p(m')\, q(b, o \mid m')}
        {p(m)\, q(o, b \mid m)}\right)

    which leaves p invariant. One evaluation of the target a step.

    Args:
        state: where the chain is; a site takes part if it keeps some of its units and not all.
        target: masks -> State.
        most: the largest number of swaps at once, cut to what a site has.
        generator: all randomness comes from it, on the CPU.

    References:
        Giacomo Zanella, "Informed proposals for local MCMC in discrete spaces", 2020, arXiv
        1711.07424. Will Grathwohl, Kevin Swersky, Milad Hashemi, David Duvenaud, Chris J. Maddison,
        "Oops I Took A Gradient: Scalable Sampling for Discrete Distributions", 2021, arXiv
        2102.04509. Haoran Sun, Hanjun Dai, Wei Xia, Arun Ramamurthy, "Path Auxiliary Proposal for
        MCMC in Discrete Space", 2022 (no arXiv id).
    """
    sites = [name for name, mask in state.masks.items() if bool(mask.any() and (~mask).any())]
    site = sites[int(torch.randint(len(sites), (), generator=generator))]
    mask = state.masks[site]
    limit = min(most, int(mask.sum()), int((~mask).sum()))
    number = 1 + int(torch.randint(limit, (), generator=generator))
    gone = draw_path(state.change[site], mask, number, generator)
    back = draw_path(state.change[site], ~mask, number, generator)
    swap = mask.clone()
    swap[gone], swap[back] = False, True
    new = target({**state.masks, site: swap})
    if new.log_density == -torch.inf:
        return state, False
    there = log_path(state.change[site], mask, gone) + log_path(state.change[site], ~mask, back)
    here = log_path(new.change[site], swap, back) + log_path(new.change[site], ~swap, gone)
    ratio = new.log_density - state.log_density + here - there
    taken = bool(torch.rand((), generator=generator, dtype=torch.float64).log() < ratio)
    return (new if taken else state), taken


def draw_path(change: Tensor, among: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """So many units among those of a mask, in order, without replacement (Gumbel top-k).

    Args:
        change: [K].
        among: [K] booleans.
        number: at most as many as ``among`` has.
        generator: on the CPU.
    """
    uniform = torch.rand(len(change), generator=generator, dtype=torch.float64)
    keys = logsigmoid(change) - torch.log(-torch.log(uniform))
    return keys.masked_fill(~among, -torch.inf).topk(number).indices


def log_path(change: Tensor, among: Tensor, path: Tensor) -> float:
    r"""The log probability of an ordered draw: Plackett and Luce's,
    :math:`\sum_t \log w_{k_t} - \log \sum_{k \notin k_1 .. k_{t-1}} w_k`.

    Args:
        change: [K]; the weights w are their sigmoids.
        among: [K] booleans, the units that could be drawn.
        path: the units in the order in which they were drawn.
    """
    weights = logsigmoid(change).masked_fill(~among, -torch.inf)
    total = 0.0
    for unit in path.tolist():
        total += float(weights[unit] - weights.logsumexp(0))
        weights[unit] = -torch.inf
    return total
