"""The generalized Dirichlet against the Dirichlet, quadrature and draws."""

import math
from collections.abc import Callable

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from dirprune.guides.distributions import GeneralizedDirichlet

Rule = Callable[[int], tuple[Tensor, Tensor]]

F64 = torch.float64
A = torch.tensor([3.0, 2.5, 6.0], dtype=F64)
B = torch.tensor([4.0, 9.0, 2.2], dtype=F64)


def of_dirichlet(alpha: Tensor) -> GeneralizedDirichlet:
    rest = alpha[..., 1:].flip(-1).cumsum(-1).flip(-1)
    return GeneralizedDirichlet(alpha[..., :-1], rest)


ALPHAS = {
    "posterior": torch.tensor([11.0, 4.0, 2.0, 1.0], dtype=F64),
    "sparse": torch.tensor([0.05, 0.3, 0.02, 1.5], dtype=F64),
    "dense": torch.tensor([900.0, 1100.0, 1000.0, 5.0], dtype=F64),
    "rows": torch.tensor([[3.0, 1.0, 2.0], [0.5, 4.0, 9.0]], dtype=F64),
}


@pytest.fixture(params=ALPHAS)
def alpha(request: pytest.FixtureRequest) -> Tensor:
    value = ALPHAS[request.param]
    assert isinstance(value, Tensor)
    return value


# -- it contains the Dirichlet ---------------------------------------------------------------------


def test_density_of_a_dirichlet(alpha: Tensor) -> None:
    exact = dist.Dirichlet(alpha)
    s = exact.sample((100,))
    # lgammas of 2e4 that cancel, and logs of a running sum: four digits to spare.
    torch.testing.assert_close(
        of_dirichlet(alpha).log_prob(s), exact.log_prob(s), rtol=1e-10, atol=1e-9
    )


def test_moments_of_a_dirichlet(alpha: Tensor) -> None:
    ours, exact = of_dirichlet(alpha), dist.Dirichlet(alpha)
    torch.testing.assert_close(ours.mean, exact.mean, rtol=1e-12, atol=0)  # sums of logs
    torch.testing.assert_close(ours.variance, exact.variance, rtol=1e-11, atol=0)
    total = alpha.sum(-1, keepdim=True)
    m = alpha / total
    outer = m.unsqueeze(-1) * m.unsqueeze(-2)
    covariance = (torch.diag_embed(m) - outer) / (total + 1).unsqueeze(-1)
    # The logs' sum cancels to -log1p(1 / total) = 3e-4 for the dense one.
    torch.testing.assert_close(ours.covariance_matrix, covariance, rtol=1e-10, atol=0)


def test_entropy_and_kl_of_a_dirichlet(alpha: Tensor) -> None:
    ours, exact = of_dirichlet(alpha), dist.Dirichlet(alpha)
    torch.testing.assert_close(ours.entropy(), exact.entropy(), rtol=1e-9, atol=1e-9)
    prior = dist.Dirichlet(torch.linspace(0.3, 2.0, alpha.shape[-1], dtype=F64))
    expected = kl_divergence(exact, prior)
    torch.testing.assert_close(kl_divergence(ours, prior), expected, rtol=1e-9, atol=1e-9)
    same = kl_divergence(ours, of_dirichlet(prior.concentration))
    torch.testing.assert_close(same, expected, rtol=1e-9, atol=1e-9)


# -- where it is no Dirichlet ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_density_moments_entropy_and_kl_by_quadrature(size: int, quadrature: Rule) -> None:
    q = GeneralizedDirichlet(A[: size - 1], B[: size - 1])
    prior = dist.Dirichlet(torch.tensor([1.5, 0.7, 2.0], dtype=F64)[:size])
    s, w = quadrature(size)
    log_density = q.log_prob(s)
    w = w * log_density.exp()
    mean = w @ s
    # Smooth densities that end like a power above 1: 200 points give eight digits and more.
    assert float(w.sum()) == pytest.approx(1, rel=1e-8)
    torch.testing.assert_close(q.mean, mean, rtol=1e-7, atol=0)
    covariance = (s.T * w) @ s - torch.outer(mean, mean)
    torch.testing.assert_close(q.covariance_matrix, covariance, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(q.variance, covariance.diagonal(), rtol=1e-5, atol=1e-9)
    assert float(q.entropy()) == pytest.approx(float(-(w @ log_density)), rel=1e-6)
    kl = float(w @ (log_density - prior.log_prob(s)))
    assert float(kl_divergence(q, prior)) == pytest.approx(kl, rel=1e-6)
    other = GeneralizedDirichlet(B[: size - 1], A[: size - 1])
    kl = float(w @ (log_density - other.log_prob(s)))
    assert float(kl_divergence(q, other)) == pytest.approx(kl, rel=1e-6)


def test_neighbours_may_vary_together() -> None:
    # A Dirichlet's covariances are all negative.
    q = GeneralizedDirichlet(
        torch.tensor([0.5, 50.0], dtype=F64), torch.tensor([0.5, 50.0], dtype=F64)
    )
    # E[z (1 - z)] E[r^2] - E[z]^2 E[r]^2, where E[r^2] = 3/8 and E[z (1 - z)] = 25 / 101.
    exact = 25 / 101 * 3 / 8 - 1 / 16
    assert float(q.covariance_matrix[1, 2]) == pytest.approx(exact, rel=1e-12)


def test_draws_have_the_moments() -> None:
    q = GeneralizedDirichlet(A, B)
    centred = q.sample((100_000,)) - q.mean
    # 4.5 standard errors: by chance, 7 in a million are not.
    assert bool((centred.mean(0).abs() < 4.5 * centred.std(0) / math.sqrt(100_000)).all())
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    error = (products.mean(0) - q.covariance_matrix).abs()
    assert bool((error < 4.5 * products.std(0) / math.sqrt(100_000)).all())


def test_extreme_moments_are_finite() -> None:
    size = 2000
    for a, b in ((0.01, 0.01), (1e6, 1e6), (0.01, 1e4)):
        q = GeneralizedDirichlet(
            torch.full((size,), a, dtype=F64), torch.full((size,), b, dtype=F64)
        )
        assert bool(q.mean.isfinite().all())
        assert float(q.mean.sum()) == pytest.approx(1, rel=1e-9)  # 2,000 sums of logs
        assert bool((q.variance >= 0).all())
        assert bool((q.variance <= q.mean).all())  # s^2 < s
        # The components sum to one: so their covariances with any of them sum to zero.
        assert float(q.covariance_matrix.sum(-1).abs().max()) < 1e-10


def test_variance_of_a_narrow_beta_has_its_digits() -> None:
    a, b = torch.tensor([3e9], dtype=F64), torch.tensor([1e9], dtype=F64)
    exact = 0.75 * 0.25 / (4e9 + 1)
    torch.testing.assert_close(
        GeneralizedDirichlet(a, b).variance,
        torch.tensor([exact, exact], dtype=F64),
        rtol=1e-12,
        atol=0,
    )


# -- draws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_draws_are_on_the_simplex_and_have_a_density(dtype: torch.dtype) -> None:
    for a, b in ((0.01, 0.01), (1e-2, 40.0), (10.0, 1e4)):
        q = GeneralizedDirichlet(
            torch.full((4000,), a, dtype=dtype),
            torch.full((4000,), b, dtype=dtype),
            validate_args=True,
        )
        s = q.sample((20,))
        assert s.dtype == dtype
        assert float(s.min()) > 0
        assert bool(torch.distributions.constraints.simplex.check(s).all())
        assert bool(q.log_prob(s).isfinite().all())


def test_density_where_little_of_the_stick_is_left() -> None:
    # s_3 and s_4 are nothing beside s_1 + s_2; 1 - cumsum would find rests of 0.
    q = GeneralizedDirichlet(A, B)
    s = torch.tensor([0.75, 0.25 - 3e-200, 1e-200, 2e-200], dtype=F64)
    a, b = A.double(), B.double()
    log_left = [math.log(0.25), math.log(3) - 200 * math.log(10), math.log(2) - 200 * math.log(10)]
    log_before = [0.0, *log_left[:2]]
    expected = sum(
        float(
            (a[k] - 1) * s[k].log() + (b[k] - 1) * log_left[k] - (a[k] + b[k] - 1) * log_before[k]
        )
        - float(torch.lgamma(a[k]) + torch.lgamma(b[k]) - torch.lgamma(a[k] + b[k]))
        for k in range(3)
    )
    assert float(q.log_prob(s)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("total", [0.02, 1.0, 100.0])
def test_gradients_of_draws(total: float, dtype: torch.dtype) -> None:
    # d E[sum_k k s_k^2] / d(a, b) from draws, against that of the closed form.
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    a = torch.tensor([0.5, 0.3], dtype=dtype) * total
    b = torch.tensor([0.5, 0.7], dtype=dtype) * total
    both = torch.stack([a, b]).double().requires_grad_()
    q = GeneralizedDirichlet(both[0], both[1])
    (exact,) = torch.autograd.grad((weight.double() * (q.variance + q.mean**2)).sum(), both)
    draws = 200_000
    each = torch.stack([a, b]).unsqueeze(1).repeat(1, draws, 1).requires_grad_()
    s = GeneralizedDirichlet(each[0], each[1]).rsample()
    (gradient,) = torch.autograd.grad((weight * s**2).sum(), each)
    gradient = gradient.double()
    se = gradient.std(1) / math.sqrt(draws)
    assert bool((se < 0.05 * exact.abs().max()).all())  # else the test would see nothing
    assert bool(((gradient.mean(1) - exact).abs() < 4.5 * se).all())


# -- derivatives, shapes ---------------------------------------------------------------------------


def test_gradcheck() -> None:
    s = GeneralizedDirichlet(A, B).sample((2,))
    prior = dist.Dirichlet(torch.tensor([0.3, 2.0, 1.0, 4.0], dtype=F64))
    a, b = A.clone().requires_grad_(), B.clone().requires_grad_()

    def log_prob(a: Tensor, b: Tensor, s: Tensor) -> Tensor:
        return GeneralizedDirichlet(a, b, validate_args=False).log_prob(s)

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return kl_divergence(GeneralizedDirichlet(a, b), prior)

    assert torch.autograd.gradcheck(log_prob, (a, b, s.requires_grad_()))
    assert torch.autograd.gradcheck(kl, (a, b))


def test_one_component_is_one() -> None:
    empty = torch.empty(3, 0, dtype=F64)
    q = GeneralizedDirichlet(empty, empty, validate_args=True)
    assert q.batch_shape == (3,)
    assert q.event_shape == (1,)
    s = q.rsample((5,))
    assert torch.equal(s, torch.ones(5, 3, 1, dtype=F64))
    assert torch.equal(q.log_prob(s), torch.zeros(5, 3, dtype=F64))
    assert torch.equal(q.mean, torch.ones(3, 1, dtype=F64))
    assert torch.equal(q.variance, torch.zeros(3, 1, dtype=F64))
    assert torch.equal(q.covariance_matrix, torch.zeros(3, 1, 1, dtype=F64))
    assert torch.equal(q.entropy(), torch.zeros(3, dtype=F64))
    prior = dist.Dirichlet(torch.ones(3, 1, dtype=F64))
    assert torch.equal(kl_divergence(q, prior), torch.zeros(3, dtype=F64))


def test_kl_of_batches_and_independents() -> None:
    q = GeneralizedDirichlet(A, B)
    p = dist.Dirichlet(torch.full((4,), 0.7, dtype=F64))
    single = kl_divergence(q, p)
    torch.testing.assert_close(kl_divergence(q.expand((5,)), p.expand((5,))), single.expand(5))
    rows = kl_divergence(q.expand((5, 3)).to_event(1), p.expand((5, 3)).to_event(1))
    torch.testing.assert_close(rows, 3 * single.expand(5))


def test_expand() -> None:
    q = GeneralizedDirichlet(A, B).expand((2, 3))
    assert q.batch_shape == (2, 3)
    s = q.rsample((5,))
    assert s.shape == (5, 2, 3, 4)
    torch.testing.assert_close(
        q.log_prob(s), GeneralizedDirichlet(A, B).log_prob(s), rtol=1e-14, atol=0
    )
    assert q.mean.shape == q.variance.shape == (2, 3, 4)
    assert q.covariance_matrix.shape == (2, 3, 4, 4)
    assert q.entropy().shape == (2, 3)


def test_bad_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="concentration0"):
        GeneralizedDirichlet(A, -B, validate_args=True)
    with pytest.raises(ValueError, match="one-dimensional"):
        GeneralizedDirichlet(A[0], B[0])
