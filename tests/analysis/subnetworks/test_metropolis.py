"""Metropolis-Hastings over masks: its draws of paths, and that it leaves its target alone."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn.functional import logsigmoid

from dirprune.analysis.subnetworks.masks import Masks
from dirprune.analysis.subnetworks.metropolis import State, draw_path, log_path, step

SIZES = {"a": (5, 2), "b": (4, 2)}  # units, and how many stay: 10 x 6 masks


def test_a_paths_probability_is_plackett_and_luces() -> None:
    change = torch.tensor([0.3, -1.0, 2.0, 0.0])
    among = torch.tensor([True, True, False, True])
    w = torch.sigmoid(change.double())
    by_hand = w[3] / (w[0] + w[1] + w[3]) * w[0] / (w[0] + w[1])
    assert log_path(change.double(), among, torch.tensor([3, 0])) == pytest.approx(by_hand.log())
    every = [
        log_path(change.double(), among, torch.tensor(path))
        for path in itertools.permutations([0, 1, 3], 2)
    ]
    assert sum(math.exp(p) for p in every) == pytest.approx(1, abs=1e-12)


def test_paths_are_drawn_with_that_probability() -> None:
    change, among = torch.tensor([0.3, -1.0, 2.0, 0.0]).double(), torch.tensor([1, 1, 0, 1]).bool()
    generator = torch.Generator().manual_seed(0)
    paths = list(itertools.permutations([0, 1, 3], 2))
    drawn = [tuple(draw_path(change, among, 2, generator).tolist()) for _ in range(4000)]
    expected = [4000 * math.exp(log_path(change, among, torch.tensor(p))) for p in paths]
    # Right draws fall below this once in a thousand seeds.
    assert chisquare([drawn.count(p) for p in paths], expected).pvalue > 1e-3


def made_up() -> tuple[list[Masks], Tensor]:
    """All masks, and a density over them that knows of pairs: [60], normalised."""
    rows = [
        [
            torch.zeros(size, dtype=torch.bool).index_fill(0, torch.tensor(kept), True)
            for kept in itertools.combinations(range(size), number)
        ]
        for size, number in SIZES.values()
    ]
    masks = [dict(zip(SIZES, pair, strict=True)) for pair in itertools.product(*rows)]
    generator = torch.Generator().manual_seed(3)
    pairs = 0.3 * torch.randn(9, 9, generator=generator, dtype=torch.float64)
    flat = torch.stack([torch.cat(list(m.values())).double() for m in masks])
    return masks, torch.einsum("sa,ab,sb->s", flat, pairs, flat).log_softmax(0)


def key(masks: Masks) -> tuple[bool, ...]:
    return tuple(torch.cat(list(masks.values())).tolist())


@pytest.mark.parametrize("most", [1, 2])
def test_a_step_leaves_the_target_as_it_is(most: int) -> None:
    """From exact draws, after two steps, they are exact draws: independent ones, so chi-squared.

    The changes are arbitrary numbers, which must not matter.
    """
    masks, log_p = made_up()
    index = {key(m): i for i, m in enumerate(masks)}
    noise = torch.Generator().manual_seed(5)
    changes = [
        {n: torch.randn(k, generator=noise, dtype=torch.float64) for n, (k, _) in SIZES.items()}
        for _ in masks
    ]

    def target(m: Masks) -> State:
        i = index[key(m)]
        return State(m, float(log_p[i]), changes[i])

    generator = torch.Generator().manual_seed(most)
    starts = log_p.exp().multinomial(1500, replacement=True, generator=generator)
    counts, moved = np.zeros(len(masks)), 0
    for start in starts.tolist():
        state = target(masks[start])
        for _ in range(2):
            state, taken = step(state, target, most, generator)
            moved += taken
        counts[index[key(state.masks)]] += 1
    expected = 1500 * log_p.exp().numpy()
    rare = expected < 5  # where a count is no normal number
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    assert chisquare(counts, expected).pvalue > 1e-3
    assert moved > 300  # of 3,000 steps: the test would say nothing of a chain that stands still


def test_good_changes_move_the_chain_more_often_than_none() -> None:
    """The exact change of each unit's flip beats a blind proposal (they are of the same target)."""
    masks, _ = made_up()
    weights = torch.linspace(-4, 4, 9, dtype=torch.float64)

    def target(m: Masks, informed: bool) -> State:
        flat = torch.cat(list(m.values())).double()
        change = (1 - 2 * flat) * weights * informed
        return State(m, float(flat @ weights), dict(zip(SIZES, change.split([5, 4]), strict=True)))

    rates = []
    for informed in (True, False):
        generator = torch.Generator().manual_seed(0)
        state, moves = target(masks[-1], informed), 0
        for _ in range(600):
            state, taken = step(state, lambda m: target(m, informed), 1, generator)  # noqa: B023
            moves += taken
        rates.append(moves / 600)
    assert rates[0] > 1.3 * rates[1]


def test_a_forbidden_mask_is_never_entered() -> None:
    masks, log_p = made_up()
    index = {key(m): i for i, m in enumerate(masks)}

    def target(m: Masks) -> State:
        if bool(m["a"][0]):
            return State(m, -math.inf, {})
        zero = {n: torch.zeros(k, dtype=torch.float64) for n, (k, _) in SIZES.items()}
        return State(m, float(log_p[index[key(m)]]), zero)

    generator = torch.Generator().manual_seed(0)
    state = target(next(m for m in masks if not bool(m["a"][0])))
    for _ in range(200):
        state, _ = step(state, target, 2, generator)
        assert not bool(state.masks["a"][0])


def test_weights_are_bounded_by_one() -> None:
    """A change of a thousand nats is no more attractive than one of fifty: Barker's weight."""
    assert float(logsigmoid(torch.tensor(1000.0))) == pytest.approx(0, abs=1e-12)
    among = torch.ones(2, dtype=torch.bool)
    change = torch.tensor([1000.0, 50.0]).double()
    assert log_path(change, among, torch.tensor([0])) == pytest.approx(-math.log(2), abs=1e-9)
