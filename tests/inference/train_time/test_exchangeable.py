"""Exact draws of spins: against enumeration of all states."""

import itertools

import pytest
import torch
from torch import Tensor

from dirprune.inference.train_time.exchangeable import ExchangeableSpins

DRAWS = 20_000


def states(n: int) -> Tensor:
    """All 2^n states of n spins."""
    return torch.tensor(list(itertools.product([-1.0, 1.0], repeat=n)), dtype=torch.float64)


def exact(b: Tensor, c: float, beta: float, field: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """E[x], E[x x'] and the probabilities of 0 ... n spins up, by enumeration of x'Ax + b'x."""
    n = len(b)
    x = states(n)
    a = -c * (torch.ones(n, n, dtype=torch.float64) - torch.eye(n, dtype=torch.float64))
    energy = ((x @ a) * x).sum(1) + x @ (b - field)
    p = (-beta * energy).softmax(0)
    ups = ((x + 1) / 2).sum(1).long()
    return p @ x, x.T @ (p[:, None] * x), torch.zeros(n + 1).double().index_add_(0, ups, p)


CASES = [
    (1, 0.7, 1.3, 0.4),
    (4, 0.0, 1.0, 0.0),  # no coupling: coins
    (4, 0.15, 0.8, 0.0),
    (4, -0.2, 0.8, 0.3),  # spins that repel
    (6, 0.1, 1.0, -0.5),
    (9, 0.01, 3.0, 0.0),  # a kernel of 3 x 3
]


@pytest.mark.parametrize(("n", "c", "beta", "field"), CASES)
def test_marginals_and_pairs_are_those_of_enumeration(
    n: int, c: float, beta: float, field: float
) -> None:
    b = torch.randn(n, dtype=torch.float64)
    mean, pairs, ups = exact(b, c, beta, field)
    spins = ExchangeableSpins(b.expand(DRAWS, n), c, beta)
    pluses = spins.draw_pluses(torch.full((DRAWS,), field))
    x = spins.draw_spins(pluses)
    assert torch.equal(((x + 1) / 2).sum(-1).long(), pluses)
    # Up to 54 figures of spins, whose sd is sqrt(1 - E^2): within 4.5 standard errors, which one
    # figure in 150,000 leaves by chance.
    for found, expected in ((x.mean(0), mean), (x.T @ x / DRAWS, pairs)):
        error = ((1 - expected.square()).clamp(min=0) / DRAWS).sqrt()
        assert bool(((found - expected).abs() <= 4.5 * error + 1e-9).all())
    found = torch.bincount(pluses, minlength=n + 1) / DRAWS
    assert bool(((found - ups).abs() <= 4.5 * (ups * (1 - ups) / DRAWS).sqrt() + 1e-9).all())


def test_each_row_has_its_own_terms_and_field() -> None:
    b = torch.tensor([[5.0, -5.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    rows = b.repeat_interleave(2, 0)[:, None].expand(4, 500, 3)
    field = torch.tensor([0.0, 9.0, -9.0, 9.0])[:, None].expand(4, 500)
    spins = ExchangeableSpins(rows, 0.0, 2.0)
    x = spins.draw_spins(spins.draw_pluses(field)).mean(1)
    # Odds of e^20 and more: no draw of 500 goes the other way (2,000 x e^-16 = .0002 at most).
    assert x[0, :2].tolist() == [-1, 1]
    assert abs(float(x[0, 2])) < 0.25  # a fair coin: sd of the mean is .045
    assert x[1].tolist() == [1, 1, 1]
    assert x[2].tolist() == [-1, -1, -1]
    assert x[3].tolist() == [1, 1, 1]


@pytest.mark.parametrize("shift", [-0.01, 0.01])
def test_cold_large_kernels_are_in_their_ground_state(shift: float) -> None:
    # 5 x 5 weights at beta = 10^4, where logarithms reach 6 x 10^4. With b of one sign up to
    # +-.001 the least energy has all spins at -sign(shift): others cost at least 2 x .009 x 10^4.
    b = shift + 0.001 * (2 * torch.rand(300, 25) - 1)
    spins = ExchangeableSpins(b, 0.01, 1e4)
    x = spins.draw_spins(spins.draw_pluses())
    assert bool((x == (-1.0 if shift > 0 else 1.0)).all())


def test_no_rows_are_no_spins() -> None:
    spins = ExchangeableSpins(torch.zeros(3, 0, 4), 1.0, 1.0)
    pluses = spins.draw_pluses(torch.zeros(3, 0))
    assert pluses.shape == (3, 0)
    assert spins.draw_spins(pluses).shape == (3, 0, 4)
