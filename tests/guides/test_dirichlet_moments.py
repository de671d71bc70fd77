"""AutoDirichlet's closed forms, its parameters' limits, and the gradients of its draws."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from scipy import stats
from torch import Tensor

from dirprune.guides import AutoDirichlet
from dirprune.guides.dirichlet import MIN_TOTAL

Fixed = Callable[..., AutoDirichlet]

F64 = torch.float64
PHIS = {
    "posterior": torch.tensor([11.0, 4.0, 2.0, 1.0], dtype=F64),
    "sparse": torch.tensor([0.05, 0.3, 0.02, 1.5], dtype=F64),
    "dense": torch.tensor([900.0, 1100.0, 1000.0, 5.0], dtype=F64),
}
PHIS["rows"] = torch.stack([PHIS["posterior"], PHIS["sparse"]])


def model_of(prior: Tensor) -> Callable[[], None]:
    def model() -> None:
        with pyro.plate_stack("rows", prior.shape[:-1]):
            pyro.sample("s", dist.Dirichlet(prior))

    return model


@pytest.fixture(params=PHIS)
def phi(request: pytest.FixtureRequest) -> Tensor:
    value = PHIS[request.param]
    assert isinstance(value, Tensor)
    return value


@pytest.fixture
def guide(phi: Tensor, fixed_guide: Fixed) -> AutoDirichlet:
    return fixed_guide(model_of(torch.ones_like(phi)), s=phi)


# -- closed forms ----------------------------------------------------------------------------------


def test_moments_are_scipys(guide: AutoDirichlet, phi: Tensor) -> None:
    rows = phi.reshape(-1, 4)
    for i, row in enumerate(rows.numpy()):
        exact = stats.dirichlet(row)
        for ours, theirs in (
            (guide.concentration()["s"], row),
            (guide.mean()["s"], exact.mean()),
            (guide.variance()["s"], exact.var()),
        ):
            # A few roundings, and those of the parameter's log and exp.
            assert ours.reshape(-1, 4)[i].numpy() == pytest.approx(theirs, rel=1e-12)
        cov = guide.covariance()["s"].reshape(-1, 4, 4)[i].numpy()
        assert cov == pytest.approx(exact.cov(), rel=1e-11)  # one subtraction more


def test_quantiles_are_scipys(guide: AutoDirichlet, phi: Tensor) -> None:
    q = torch.tensor([0.0, 0.025, 0.5, 0.9, 1.0], dtype=F64)
    ours = guide.quantiles(q)["s"]
    assert ours.shape == (5, *phi.shape)
    rest = phi.sum(-1, keepdim=True) - phi
    for level, values in zip(q, ours, strict=True):
        # The inverse found by iteration, to the accuracy that scipy states for it.
        assert values.numpy() == pytest.approx(stats.beta(phi, rest).ppf(level), rel=1e-8)


def test_moments_and_quantiles_are_those_of_draws(guide: AutoDirichlet, phi: Tensor) -> None:
    draws = torch.distributions.Dirichlet(phi).sample((100_000,))
    for p in (0.1, 0.5, 0.9):
        below = (draws <= guide.quantiles([p])["s"][0]).double().mean(0)
        # 4.5 standard errors of a proportion: by chance, 7 in a million are not.
        assert float((below - p).abs().max()) < 4.5 * math.sqrt(p * (1 - p) / 100_000)
    centred = draws - guide.mean()["s"]
    assert bool((centred.mean(0).abs() < 4.5 * centred.std(0) / math.sqrt(100_000)).all())
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    error = (products.mean(0) - guide.covariance()["s"]).abs()
    assert bool((error < 4.5 * products.std(0) / math.sqrt(100_000)).all())


def test_median_is_on_the_simplex_and_marginal_median_is_not(guide: AutoDirichlet) -> None:
    marginal, median = guide.marginal_median()["s"], guide.median()["s"]
    torch.testing.assert_close(marginal, guide.quantiles([0.5])["s"][0], rtol=0, atol=0)
    torch.testing.assert_close(median.sum(-1), torch.ones_like(median[..., 0]), rtol=1e-14, atol=0)
    assert bool(((marginal.sum(-1) - 1).abs() > 1e-5).all())  # .0001 for the dense one
    # The direction is the same; 1e-12 for a product and a quotient.
    torch.testing.assert_close(median * marginal.sum(-1, keepdim=True), marginal)


def test_median_where_every_marginal_median_underflows(fixed_guide: Fixed) -> None:
    phi = torch.tensor([4e-4, 6e-4], dtype=F64).repeat(1000)  # .5 ** 1600
    guide = fixed_guide(model_of(torch.ones_like(phi)), s=phi)
    assert guide.marginal_median()["s"].max() < 1e-300
    torch.testing.assert_close(guide.median()["s"], phi, rtol=1e-12, atol=0)  # their sum is 1


def test_median_in_float32_is_found_in_float64(fixed_guide: Fixed) -> None:
    guide = fixed_guide(model_of(torch.ones(500)), s=torch.full((500,), 2e-3))
    assert guide.marginal_median()["s"].sum() == 0  # .5 ** 500 is no float32
    # 500 equal shares, to float32's rounding.
    torch.testing.assert_close(guide.median()["s"], torch.full((500,), 2e-3), rtol=1e-4, atol=0)


def test_a_site_of_one_component_is_one() -> None:
    guide = AutoDirichlet(model_of(torch.ones(1, dtype=F64)), prototype_args=())
    for value in (
        guide()["s"],
        guide.mean()["s"],
        guide.median()["s"],
        *guide.quantiles([0.1])["s"],
    ):
        assert value.tolist() == pytest.approx([1], rel=1e-15)  # one rounding
    assert guide.variance()["s"].tolist() == [0]


@pytest.mark.parametrize("q", [0.5, [1.5], [-0.1], [float("nan")], [[0.5]]])
def test_quantiles_refuse_what_is_no_list_of_probabilities(q: list[float]) -> None:
    guide = AutoDirichlet(model_of(torch.ones(3)), prototype_args=())
    with pytest.raises(ValueError, match=r"expected a list of probabilities in \[0, 1\]"):
        guide.quantiles(q)


def test_answers_have_no_graph_and_are_copies() -> None:
    guide = AutoDirichlet(model_of(torch.ones(3)), prototype_args=())
    phi = guide.concentration()["s"]
    assert not phi.requires_grad
    phi.zero_()
    assert guide.concentration()["s"].sum() == pytest.approx(30, rel=1e-6)  # float32


# -- parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_start_is_the_priors_mean(dtype: torch.dtype) -> None:
    prior = torch.tensor([0.1, 0.2, 0.7], dtype=dtype)
    guide = AutoDirichlet(model_of(prior), init_concentration=2.0, prototype_args=())
    phi = guide.concentration()["s"]
    assert phi.dtype == guide()["s"].dtype == dtype
    torch.testing.assert_close(phi, 6 * prior, rtol=1e-5, atol=0)  # log and exp in float32


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_start_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"init_concentration > 0, but got {value}"):
        AutoDirichlet(model_of(torch.ones(3)), init_concentration=value)


@pytest.mark.parametrize("size", [2, 4096])
def test_floor_bounds_the_sum(size: int) -> None:
    guide = AutoDirichlet(model_of(torch.full((size,), 1 / size)), prototype_args=())
    (parameter,) = guide.parameters()
    parameter.data.fill_(-1e3)
    # Rounding of a float32 sum. A flat prior of sum 1 (alpha/K) stays in reach at any width.
    assert guide.concentration()["s"].sum().item() == pytest.approx(MIN_TOTAL, rel=1e-4)
    (guide()["s"] ** 2).sum().backward()
    assert parameter.grad is not None
    assert bool(parameter.grad.isfinite().all())


# -- gradients -------------------------------------------------------------------------------------


def gradient_of_sum_of_squares(a: float, size: int, dtype: torch.dtype) -> tuple[float, float]:
    """Relative error of d E[sum s^2] / da under Dirichlet(a, ..., a), and its standard error."""
    draws = 600_000 // size
    phi = torch.full((draws, size), a, dtype=dtype, requires_grad=True)
    s = dist.Dirichlet(phi).rsample()
    (gradient,) = torch.autograd.grad((s**2).sum(), phi)
    each = gradient.double().sum(-1)
    # E[sum s^2] = (a + 1) / (K a + 1)
    exact = (1 - size) / (size * a + 1) ** 2
    return each.mean().item() / exact - 1, each.std().item() / math.sqrt(draws) / abs(exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 10])
@pytest.mark.parametrize("a", [1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4])
def test_gradients_of_draws(a: float, size: int, dtype: torch.dtype) -> None:
    error, se = gradient_of_sum_of_squares(a, size, dtype)
    assert se < 0.03  # so that an error of 14 % is seen
    assert abs(error) < 4.5 * se


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [2, 10, 100])
def test_gradients_at_the_floor(size: int, dtype: torch.dtype) -> None:
    error, se = gradient_of_sum_of_squares(MIN_TOTAL / size, size, dtype)
    assert se < 0.07
    assert abs(error) < 4.5 * se


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_below_the_floor_are_wrong(dtype: torch.dtype) -> None:
    # Why there is a floor. If this fails, torch was mended: measure again, lower MIN_TOTAL.
    error, se = gradient_of_sum_of_squares(MIN_TOTAL / 20, 2, dtype)
    assert error > 0.1  # .2 in both precisions
    assert error > 4.5 * se


@pytest.mark.parametrize("a", [2e-2, 1.0, 1e4])
def test_gradient_of_the_kl_is_exact(a: float, fixed_guide: Fixed) -> None:
    alpha, phi = torch.full((3,), 0.7, dtype=F64), a * torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    model = model_of(alpha)
    guide = fixed_guide(model, s=phi)
    guide.elbo().differentiable_loss(model, guide).backward()
    # dKL/dphi_k = (phi_k - alpha_k) psi'(phi_k) - (Phi - A) psi'(Phi); times dphi_k/du_k, where
    # phi_k = floor + exp(u_k).
    total = phi.sum()
    exact = (phi - alpha) * torch.polygamma(1, phi)
    exact = exact - (total - alpha.sum()) * torch.polygamma(1, total)
    (parameter,) = guide.parameters()
    # Terms of 6e4 that cancel to 1e-4 at a = 1e4: eight of sixteen digits are left.
    torch.testing.assert_close(parameter.grad, exact * (phi - MIN_TOTAL / 3), rtol=1e-6, atol=0)


def test_prior_without_a_closed_form_kl() -> None:
    # Logistic normal: no mean, no KL to a Dirichlet. Both ELBOs sample, and must agree.
    stick = torch.distributions.transforms.StickBreakingTransform()
    base = dist.Normal(torch.zeros(3, dtype=F64), 1).to_event(1)

    def model() -> None:
        pyro.sample("s", dist.TransformedDistribution(base, [stick]))

    guide = AutoDirichlet(model, prototype_args=())
    start = torch.full((4,), 10.0, dtype=F64)  # the simplex's centre
    torch.testing.assert_close(guide.concentration()["s"], start, rtol=1e-12, atol=0)
    pyro.set_rng_seed(1)
    loss = TraceMeanField_ELBO().loss(model, guide)
    pyro.set_rng_seed(1)
    # The same draw: the same sum in another order.
    assert loss == pytest.approx(Trace_ELBO().loss(model, guide), rel=1e-12)
