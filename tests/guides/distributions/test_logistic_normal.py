"""The logistic normals, diagonal and low-rank, against quadrature, dense algebra and draws."""

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from dirprune.guides.distributions import LogisticNormal, LowRankLogisticNormal

Rule = Callable[[int], tuple[Tensor, Tensor]]

F64 = torch.float64
LOC = torch.tensor([0.4, -0.8, 0.1], dtype=F64)
SCALE = torch.tensor([0.7, 0.4, 0.9], dtype=F64)
FACTOR = torch.tensor([[0.5, -0.2], [0.3, 0.6], [-0.4, 0.1]], dtype=F64)


def low_rank(sizes: tuple[int, ...], rank: int = 2) -> LowRankLogisticNormal:
    size = sum(sizes)
    factor = torch.randn(size, rank, dtype=F64)
    return LowRankLogisticNormal(
        torch.randn(size, dtype=F64), factor, torch.rand(size, dtype=F64) + 0.3, sizes
    )


def dense_log_prob(q: LowRankLogisticNormal, s: Tensor) -> Tensor:
    """The density as the docstring has it, with the dense covariance."""
    size, count = len(q.loc), len(q.sizes)
    sigma = torch.diag(q.scale**2) + q.factor @ q.factor.T
    ones = [torch.ones(k, 1, dtype=F64) for k in q.sizes]
    indicator = torch.block_diag(*ones)
    precision = torch.linalg.inv(sigma)
    inner = indicator.T @ precision @ indicator
    projected = (
        precision - precision @ indicator @ torch.linalg.inv(inner) @ indicator.T @ precision
    )
    r = s.log() - q.loc
    return (
        -0.5 * (size - count) * math.log(2 * math.pi)
        - 0.5 * (torch.logdet(sigma) + torch.logdet(inner))
        - 0.5 * ((r @ projected) * r).sum(-1)
        - s.log().sum(-1)
    )


# -- the density -----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [None, FACTOR], ids=["diagonal", "low-rank"])
@pytest.mark.parametrize("size", [2, 3])
def test_density_integrates_to_one_and_has_the_moments_of_draws(
    size: int, factor: Tensor | None, quadrature: Rule
) -> None:
    q: Any = LogisticNormal(LOC[:size], SCALE[:size])
    if factor is not None:
        q = LowRankLogisticNormal(LOC[:size], factor[:size], SCALE[:size], (size,))
    s, w = quadrature(size)
    w = w * q.log_prob(s).exp()
    # The density falls faster than any power at the edges.
    assert float(w.sum()) == pytest.approx(1, rel=1e-8)
    draws = q.sample((100_000,))
    # 4.5 standard errors: by chance, 7 in a million are not.
    for power in (1, 2):
        se = (draws**power).std(0) / math.sqrt(100_000)
        assert bool(((draws**power).mean(0) - w @ s**power).abs().lt(4.5 * se).all())
    product = draws[:, 0] * draws[:, 1]
    se = product.std() / math.sqrt(100_000)
    assert abs(product.mean() - w @ (s[:, 0] * s[:, 1])) < 4.5 * se


def test_joint_density_of_two_simplices_integrates_to_one(quadrature: Rule) -> None:
    loc = torch.tensor([0.3, -0.2, -0.4, 0.1], dtype=F64)
    factor = torch.tensor([[0.6], [-0.1], [-0.5], [0.2]], dtype=F64)
    scale = torch.tensor([0.5, 0.3, 0.4, 0.6], dtype=F64)
    q = LowRankLogisticNormal(loc, factor, scale, (2, 2))
    s, w = quadrature(2)
    one, two = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    both = torch.cat([s[one.reshape(-1)], s[two.reshape(-1)]], -1)
    weights = (w[one] * w[two]).reshape(-1) * q.log_prob(both).exp()
    assert float(weights.sum()) == pytest.approx(1, rel=1e-8)
    draws = q.sample((100_000,))
    product = draws[:, 0] * draws[:, 2]
    se = product.std() / math.sqrt(100_000)
    exact = weights @ (both[:, 0] * both[:, 2])
    assert abs(product.mean() - exact) < 4.5 * se  # 4.5 standard errors
    apart = (weights @ both[:, 0]) * (weights @ both[:, 2])
    assert abs(exact - apart) > 45 * se  # a density that forgot the factor would be seen


def test_two_components_are_the_logit_normal() -> None:
    q = LogisticNormal(LOC[:2], SCALE[:2])
    s = q.sample((50,))
    logit = dist.Normal(LOC[0] - LOC[1], SCALE[:2].norm())
    exact = dist.TransformedDistribution(logit, dist.transforms.SigmoidTransform())
    torch.testing.assert_close(q.log_prob(s), exact.log_prob(s[:, 0]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sizes", [(3,), (2, 2), (4, 1, 3), (1, 1)])
def test_low_rank_density_is_the_dense_one(sizes: tuple[int, ...]) -> None:
    q = low_rank(sizes)
    s = q.sample((20,))
    torch.testing.assert_close(q.log_prob(s), dense_log_prob(q, s), rtol=1e-10, atol=1e-10)


def test_without_a_factor_the_simplices_are_independent() -> None:
    sizes = (4, 2, 3)
    q = low_rank(sizes)
    q = LowRankLogisticNormal(q.loc, torch.zeros_like(q.factor), q.scale, sizes)
    s = q.sample((20,))
    parts = zip(q.loc.split(sizes), q.scale.split(sizes), s.split(sizes, -1), strict=True)
    apart = sum(LogisticNormal(loc, scale).log_prob(part) for loc, scale, part in parts)
    assert isinstance(apart, Tensor)
    torch.testing.assert_close(q.log_prob(s), apart, rtol=1e-12, atol=1e-12)


def test_a_common_shift_changes_nothing() -> None:
    s = LogisticNormal(LOC, SCALE).sample((20,))
    expected = LogisticNormal(LOC, SCALE).log_prob(s)
    torch.testing.assert_close(LogisticNormal(LOC + 7, SCALE).log_prob(s), expected)
    # Nor does a factor that shifts a whole simplex.
    factor = torch.cat([FACTOR, torch.ones(3, 1, dtype=F64)], -1)
    torch.testing.assert_close(
        LowRankLogisticNormal(LOC, factor, SCALE, (3,)).log_prob(s),
        LowRankLogisticNormal(LOC, FACTOR, SCALE, (3,)).log_prob(s),
    )


def test_the_order_of_components_changes_nothing() -> None:
    s = LogisticNormal(LOC, SCALE).sample((20,))
    torch.testing.assert_close(
        LogisticNormal(LOC.flip(0), SCALE.flip(0)).log_prob(s.flip(-1)),
        LogisticNormal(LOC, SCALE).log_prob(s),
    )


# -- far from the middle ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["diagonal", "low-rank"])
def test_density_down_to_the_least_float64(kind: str) -> None:
    least = torch.finfo(F64).tiny
    loc = torch.tensor([0.0, math.log(least), math.log(least) / 2], dtype=F64)
    s = torch.tensor([1.0, least, least**0.5], dtype=F64)
    if kind == "diagonal":
        q: Any = LogisticNormal(loc, SCALE)
        inverse = (SCALE**-2).sum().log() / 2 + SCALE.log().sum()
    else:
        q = LowRankLogisticNormal(loc, 0 * FACTOR, SCALE, (3,))
        inverse = (SCALE**-2).sum().log() / 2 + SCALE.log().sum()
    # At the mode of the exponent: the normalisation and the Jacobian alone.
    expected = -math.log(2 * math.pi) - inverse - s.log().sum()
    torch.testing.assert_close(q.log_prob(s), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_draws_are_above_zero_and_have_a_density(dtype: torch.dtype) -> None:
    loc = torch.tensor([0.0, -2000.0, 30.0], dtype=dtype)
    scale = torch.tensor([1e-3, 500.0, 40.0], dtype=dtype)
    for q in (
        LogisticNormal(loc, scale, validate_args=True),
        LowRankLogisticNormal(loc, 100 * FACTOR.to(dtype), scale, (3,), validate_args=True),
    ):
        s = q.rsample((1000,))
        assert s.dtype == dtype
        assert float(s.min()) > 0
        assert bool(q.log_prob(s).isfinite().all())


def test_a_strong_factor_keeps_the_digits() -> None:
    # Two components that hardly vary apart: the variance of their log-ratio is 2e-12, that of each
    # 2; a difference of the two quadratic forms would have four digits.
    scale = torch.full((2,), 1e-6, dtype=F64)
    q = LowRankLogisticNormal(torch.zeros(2, dtype=F64), torch.ones(2, 1, dtype=F64), scale, (2,))
    s = torch.tensor([0.5 + 1e-7, 0.5 - 1e-7], dtype=F64)
    logit = dist.Normal(torch.zeros((), dtype=F64), math.sqrt(2) * 1e-6)
    # The log-ratio 4e-7 comes with an absolute rounding of 1e-16.
    expected = logit.log_prob(s[0].log() - s[1].log()) - s.log().sum()
    torch.testing.assert_close(q.log_prob(s), expected, rtol=1e-8, atol=0)


# -- derivatives, shapes ---------------------------------------------------------------------------


def test_gradcheck() -> None:
    s = LogisticNormal(LOC, SCALE).sample((2,)).requires_grad_()
    loc, scale, factor = (x.clone().requires_grad_() for x in (LOC, SCALE, FACTOR))

    def diagonal(loc: Tensor, scale: Tensor, s: Tensor) -> Tensor:
        return LogisticNormal(loc, scale, validate_args=False).log_prob(s)

    def joint(loc: Tensor, factor: Tensor, scale: Tensor, s: Tensor) -> Tensor:
        return LowRankLogisticNormal(loc, factor, scale, (2, 1), validate_args=False).log_prob(s)

    assert torch.autograd.gradcheck(diagonal, (loc, scale, s))
    assert torch.autograd.gradcheck(joint, (loc, factor, scale, s))


def test_one_component_is_one() -> None:
    q = LogisticNormal(LOC[:1], SCALE[:1])
    assert q.rsample().tolist() == [1]
    # The one-component simplex is a point of mass one; a rounding of logs.
    assert float(q.log_prob(torch.ones(1, dtype=F64))) == pytest.approx(0, abs=1e-15)


def test_expand() -> None:
    plain, joint = LogisticNormal(LOC, SCALE), low_rank((2, 1))
    for q in (plain, joint):
        wide = q.expand((2, 3))
        assert wide.batch_shape == (2, 3)
        s = wide.rsample((5,))
        assert s.shape == (5, 2, 3, 3)
        assert float(s.std((0, 1, 2))[0]) > 0  # each has a draw of its own
        assert wide.log_prob(s).shape == (5, 2, 3)
        torch.testing.assert_close(wide.log_prob(s), q.log_prob(s))
        torch.testing.assert_close(wide.log_prob(s[0, 0, 0]), q.log_prob(s[0, 0, 0]).expand(2, 3))


def test_batches_of_parameters() -> None:
    locs, factors = torch.randn(4, 3, dtype=F64), torch.randn(4, 3, 2, dtype=F64)
    q = LowRankLogisticNormal(locs, factors, SCALE, (2, 1))
    assert q.batch_shape == (4,)
    s = q.sample()
    rows = [
        LowRankLogisticNormal(loc, factor, SCALE, (2, 1)).log_prob(row)
        for loc, factor, row in zip(locs, factors, s, strict=True)
    ]
    torch.testing.assert_close(q.log_prob(s), torch.stack(rows))


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="scale"):
        LogisticNormal(LOC, -SCALE, validate_args=True)
    with pytest.raises(ValueError, match="one-dimensional"):
        LogisticNormal(LOC[0], SCALE[0])
    with pytest.raises(
        ValueError, match=r"expected loc and scale \[..., 4\].*\(3,\), \(3,\) and \(3, 2\)"
    ):
        LowRankLogisticNormal(LOC, FACTOR, SCALE, (2, 2))


def test_a_draw_off_the_simplices_is_refused() -> None:
    q = low_rank((2, 1))
    q = LowRankLogisticNormal(q.loc, q.factor, q.scale, (2, 1), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.tensor([0.5, 0.2, 0.3], dtype=F64))  # sums to one, but over both
