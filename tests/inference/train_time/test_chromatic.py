"""Chromatic Gibbs sampling of filters: against enumeration of all states."""

import itertools

import pytest
import torch
from torch import Tensor

from dirprune.inference.train_time.chromatic import draw_filters

DRAWS = 10_000  # filters with the same terms


def coupling(channels: int, positions: int, c: float) -> Tensor:
    """A of x'Ax: -c between weights of a kernel, -c/2 between the two halves, 0 within a half."""
    kernel = torch.arange(channels).repeat_interleave(positions)
    right = kernel >= channels // 2
    same, across = kernel[:, None] == kernel, right[:, None] != right
    a = -c * same.double() - 0.5 * c * across.double()
    return a.fill_diagonal_(0)


def exact(b: Tensor, a: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    x = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=b.numel())), dtype=torch.float64)
    p = (-beta * (((x @ a) * x).sum(1) + x @ b.flatten())).softmax(0)
    return p @ x, x.T @ (p[:, None] * x)


@pytest.mark.parametrize(
    ("channels", "positions", "c", "beta"),
    [(2, 2, 0.2, 1.0), (4, 2, 0.5, 0.2), (5, 1, 0.3, 0.7), (3, 3, 0.1, 1.0), (1, 4, 0.2, 1.0)],
)
def test_marginals_and_pairs_are_those_of_enumeration(
    channels: int, positions: int, c: float, beta: float
) -> None:
    b = torch.randn(channels, positions, dtype=torch.float64)
    mean, pairs = exact(b, coupling(channels, positions, c), beta)
    start = torch.arange(DRAWS) % 2 == 0
    x = draw_filters(b.expand(DRAWS, -1, -1), c, beta, start).flatten(1)
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    # As for the exact sampler: 4.5 standard errors. The chains are independent, and at these
    # temperatures they forget where they began within a few of the 50 sweeps.
    for found, expected in ((x.mean(0), mean), (x.T @ x / DRAWS, pairs)):
        error = ((1 - expected.square()).clamp(min=0) / DRAWS).sqrt()
        assert bool(((found - expected).abs() <= 4.5 * error + 1e-9).all())


def test_a_cold_filter_stays_where_it_began() -> None:
    # beta 1 and c 1, as at the end of a training: flipping half a filter of 8 x 9 weights costs
    # 36 x 36 x 2 nats, so that a filter is whole or gone, as its mean says in the beginning.
    start = torch.arange(20) < 7
    x = draw_filters(0.001 * torch.randn(20, 8, 9), 1.0, 1.0, start)
    assert torch.equal((x == 1).all(2).all(1), start)
    assert torch.equal((x == -1).all(2).all(1), ~start)


def test_more_sweeps_leave_the_distribution_alone() -> None:
    # It is the stationary one. One sweep from a cold start is not there yet: the test can fail.
    b = torch.tensor([[0.1], [0.3]], dtype=torch.float64)
    mean, _ = exact(b, coupling(2, 1, 1.0), 0.8)
    start = torch.ones(DRAWS, dtype=torch.bool)
    far, near = (
        draw_filters(b.expand(DRAWS, -1, -1), 1.0, 0.8, start, sweeps=sweeps).flatten(1).mean(0)
        for sweeps in (1, 20)
    )
    assert float((far - mean).abs().max()) > 0.1
    assert float((near - mean).abs().max()) < 4.5 / DRAWS**0.5
