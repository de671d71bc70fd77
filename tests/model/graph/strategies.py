"""Random networks from the blocks that people build networks of, as a hypothesis strategy.

A network is drawn as a plan, nested tuples of names and numbers, so that a failing example prints
as something to read and shrinks to few blocks; :class:`Drawn` builds it. The plan says nothing of
sizes that follow: each block takes the width that the one before it gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import (
    ACTIVATIONS,
    Conv,
    Dense,
    Gated,
    Grouped,
    Inception,
    Padded,
    Pool,
    Residual,
    Scale,
    Shared,
    Shuffle,
    Squeeze,
    Tokens,
    Twice,
    Up,
    norm,
)
from .networks import spread

Plan = tuple[Any, ...]

ACTIVATION = st.sampled_from(sorted(ACTIVATIONS))
WIDTH = st.sampled_from([4, 6, 8, 12])  # many divisors: groups of many kinds
NORM = st.sampled_from(
    ["none", "batch", "instance", "instance, affine", "group", "group, bare", "each"]
)


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "conv": Conv,
    "grouped": Grouped,
    "residual": lambda *args: Residual(*args[:-1], pre=args[-1]),
    "twice": Twice,
    "shared": Shared,
    "squeeze": Squeeze,
    "dense": Dense,
    "inception": Inception,
    "gated": lambda *args: Gated(*args[:-1], glu=args[-1]),
    "shuffle": Shuffle,
    "up": Up,
    "padded": Padded,
    "pool": Pool,
    "scale": Scale,
    "tokens": lambda *args: Tokens(*args[:-1], attend=args[-1]),
}
SMALL = st.sampled_from([1, 2, 3])
DRAWS: dict[str, st.SearchStrategy[Plan]] = {
    "conv": st.tuples(WIDTH, NORM, ACTIVATION),
    "grouped": st.tuples(st.sampled_from([2, 3, 4, 16]), SMALL, NORM, ACTIVATION),
    "residual": st.tuples(WIDTH, NORM, ACTIVATION, st.booleans()),
    "twice": st.tuples(ACTIVATION),
    "shared": st.tuples(ACTIVATION),
    "squeeze": st.tuples(WIDTH, ACTIVATION),
    "dense": st.tuples(WIDTH, NORM, ACTIVATION),
    "inception": st.tuples(WIDTH, WIDTH, NORM, ACTIVATION),
    "gated": st.tuples(WIDTH, st.booleans()),
    "shuffle": st.tuples(NORM, ACTIVATION),
    "up": st.tuples(WIDTH, st.sampled_from([1, 2, 16]), ACTIVATION),
    "padded": st.tuples(SMALL, SMALL, NORM, ACTIVATION),
    "pool": st.tuples(st.sampled_from(["max", "average"])),
    "scale": st.just(()),
    "tokens": st.tuples(st.sampled_from([2, 4]), WIDTH, ACTIVATION, st.booleans()),
}
# Ends of a network: what makes numbers of an image.
HEADS = ("mean", "flatten", "channels last", "1d")


class Drawn(nn.Module):
    """The network of a plan: a stem, blocks, a head; images [B, 3, 4, 4] to [B, 5]."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        stem, blocks, self.head = plan
        self.stem = Conv(3, *stem)
        width: Any = self.stem.out
        self.blocks = nn.ModuleList()
        for name, *rest in blocks:
            if name == "shuffle" and width % 2:
                continue
            block = BLOCKS[name](width, *rest)
            self.blocks.append(block)
            width = block.out
        if self.head == "1d":
            self.line = nn.Conv1d(width, 6, 3)
            self.line_norm = norm("batch", 6, 1)
            width = 6
        pixels = 1 if self.head in ("mean", "1d") else 16
        self.middle, self.last = nn.Linear(width * pixels, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        if self.head == "1d":
            x = F.relu(self.line_norm(self.line(x.flatten(2)))).amax(2)
        elif self.head == "mean":
            x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        elif self.head == "flatten":
            x = x.flatten(1)
        else:
            x = x.permute(0, 2, 3, 1).flatten(1)
        return self.last(F.relu(self.middle(F.dropout(x, training=self.training))))


def plans(*names: str, most: int = 4) -> st.SearchStrategy[Plan]:
    """Plans of networks from these blocks, by default from all."""
    blocks = [st.tuples(st.just(name), DRAWS[name]).map(_flat) for name in names or BLOCKS]
    return st.tuples(
        st.tuples(WIDTH, NORM, ACTIVATION),
        st.lists(st.one_of(blocks), max_size=most).map(tuple),
        st.sampled_from(HEADS),
    )


def _flat(named: tuple[str, Plan]) -> Plan:
    return (named[0], *named[1])


def build(plan: Plan, seed: int) -> nn.Module:
    """The plan's network, its weights drawn from ``seed``."""
    torch.manual_seed(seed)
    return spread(Drawn(plan))
