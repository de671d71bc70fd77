"""AutoGeneralizedDirichlet against models whose posterior and evidence are known exactly."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor
from torch.distributions import kl_divergence

from dirprune.guides import AutoDirichlet
from dirprune.guides.base import SwitchGuide
from dirprune.guides.dirichlet import MIN_TOTAL
from dirprune.guides.distributions import GeneralizedDirichlet
from dirprune.guides.generalized_dirichlet import AutoGeneralizedDirichlet

Model = Callable[[], None]

F64 = torch.float64
COUNTS = torch.tensor([10.0, 3.0, 1.0, 0.0], dtype=F64)
PRIORS = {
    "flat": torch.ones(4, dtype=F64),
    "sparse": torch.full((4,), 0.3, dtype=F64),
    "informed": torch.tensor([0.5, 4.0, 2.0, 1.0], dtype=F64),
}


def multinomial(alpha: Tensor) -> Model:
    def model() -> None:
        s = pyro.sample("s", dist.Dirichlet(alpha))
        pyro.sample("x", dist.Multinomial(int(COUNTS.sum()), s), obs=COUNTS)

    return model


def betas_of(alpha: Tensor) -> tuple[Tensor, Tensor]:
    return alpha[:-1], alpha[1:].flip(-1).cumsum(-1).flip(-1)


# Of 4 trials 2 were unit 1; of 40 others, that were not unit 1, 30 were unit 2.
HITS, MISSES = torch.tensor([2.0, 30.0], dtype=F64), torch.tensor([2.0, 10.0], dtype=F64)


def nested() -> None:
    """Breaks of the stick seen in different numbers: exactly a generalized Dirichlet."""
    s = pyro.sample("s", dist.Dirichlet(torch.ones(3, dtype=F64)))
    rest = torch.stack([torch.ones_like(s[..., 0]), 1 - s[..., 0]], -1)
    z = s[..., :2] / rest
    pyro.sample("x", dist.Binomial(HITS + MISSES, z).to_event(1), obs=HITS)


def betas_of_nested() -> tuple[Tensor, Tensor]:
    a, b = betas_of(torch.ones(3, dtype=F64))
    return a + HITS, b + MISSES


def fixed(model: Model, a: Tensor, b: Tensor) -> AutoGeneralizedDirichlet:
    guide = AutoGeneralizedDirichlet(model, prototype_args=())
    setattr(guide, "concentration1/s", a)
    setattr(guide, "concentration0/s", b)
    return guide


def posterior_of(guide: AutoGeneralizedDirichlet) -> GeneralizedDirichlet:
    with torch.no_grad():
        return GeneralizedDirichlet(
            getattr(guide, "concentration1/s").clone(), getattr(guide, "concentration0/s").clone()
        )


def fit(model: Model, guide: SwitchGuide, steps: int = 1000) -> None:
    """Pyro's own SVI, with a step that falls from .1 to .001."""
    elbo = guide.elbo(num_particles=32, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(model, guide, ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / steps)}), elbo)
    for _ in range(steps):
        svi.step()


def log_beta(a: Tensor) -> Tensor:
    return torch.lgamma(a).sum(-1) - torch.lgamma(a.sum(-1))


def log_evidence_of_multinomial(alpha: Tensor) -> Tensor:
    ways = math.lgamma(float(COUNTS.sum()) + 1) - torch.lgamma(COUNTS + 1).sum()
    return log_beta(alpha + COUNTS) - log_beta(alpha) + ways


def log_evidence_of_nested() -> Tensor:
    a, b = betas_of(torch.ones(3, dtype=F64))
    prior, posterior = torch.stack([a, b], -1), torch.stack(betas_of_nested(), -1)
    ways = torch.lgamma(HITS + MISSES + 1) - torch.lgamma(HITS + 1) - torch.lgamma(MISSES + 1)
    return (log_beta(posterior) - log_beta(prior) + ways).sum()


def log_ratios(model: Model, guide: SwitchGuide) -> Tensor:
    """log p(x, s) - log q(s) for 50 draws s of q."""
    ratios = []
    for _ in range(50):
        q = poutine.trace(guide).get_trace()
        p = poutine.trace(poutine.replay(model, q)).get_trace()
        ratios.append(torch.as_tensor(p.log_prob_sum() - q.log_prob_sum()))
    return torch.stack(ratios).detach()


# -- the exact posterior ---------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
def test_every_draw_gives_the_evidence_at_a_dirichlet_posterior(prior: str) -> None:
    alpha = PRIORS[prior]
    model = multinomial(alpha)
    ratios = log_ratios(model, fixed(model, *betas_of(alpha + COUNTS)))
    expected = log_evidence_of_multinomial(alpha).expand(50)
    # Sums of some 30 terms below 100 in float64: 1e-10 relative leaves four digits to spare.
    torch.testing.assert_close(ratios, expected, rtol=1e-10, atol=0)
    a, b = betas_of(alpha + COUNTS)
    assert log_ratios(model, fixed(model, 1.1 * a, b)).std() > 0.01  # a 10 % error is seen


def test_every_draw_gives_the_evidence_at_a_posterior_that_is_no_dirichlet() -> None:
    ratios = log_ratios(nested, fixed(nested, *betas_of_nested()))
    # As above, but 1 - s_1 in the model has fewer digits than s.
    torch.testing.assert_close(ratios, log_evidence_of_nested().expand(50), rtol=1e-9, atol=0)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_mean_loss_is_the_negative_evidence_at_the_posterior(elbo: type[Trace_ELBO]) -> None:
    guide = fixed(nested, *betas_of_nested())
    parallel = elbo(num_particles=500, vectorize_particles=True, max_plate_nesting=0)
    losses = torch.tensor([parallel.loss(nested, guide) for _ in range(50)], dtype=F64)
    se = float(losses.std()) / math.sqrt(50)
    assert se < 0.03  # else the test would see nothing
    # 4.5 standard errors; Trace_ELBO has every draw exact, but for rounding.
    assert abs(float(losses.mean() + log_evidence_of_nested())) < 4.5 * se + 1e-9


# -- SVI finds it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
def test_svi_finds_a_dirichlet_posterior(prior: str) -> None:
    model, alpha = multinomial(PRIORS[prior]), PRIORS[prior]
    guide = AutoGeneralizedDirichlet(model)
    fit(model, guide)
    exact = dist.Dirichlet(alpha + COUNTS)
    # The loss is the negative log evidence plus this KL. In four seeds and four models the worst
    # were .0008 nats, .002 for a mean and 1.4 % for an sd: the noise of the last steps.
    assert float(kl_divergence(posterior_of(guide), exact)) < 0.003
    torch.testing.assert_close(guide.mean()["s"], exact.mean, rtol=0, atol=0.01)
    torch.testing.assert_close(guide.variance()["s"].sqrt(), exact.stddev, rtol=0.04, atol=0)


def test_svi_finds_a_posterior_that_no_dirichlet_fits() -> None:
    exact = GeneralizedDirichlet(*betas_of_nested())
    guide = AutoGeneralizedDirichlet(nested)
    fit(nested, guide)
    assert float(kl_divergence(posterior_of(guide), exact)) < 0.003
    torch.testing.assert_close(guide.mean()["s"], exact.mean, rtol=0, atol=0.01)
    torch.testing.assert_close(guide.variance()["s"].sqrt(), exact.stddev, rtol=0.04, atol=0)
    narrow = AutoDirichlet(nested)
    fit(nested, narrow)
    phi = narrow.concentration()["s"]
    gap = kl_divergence(GeneralizedDirichlet(*betas_of(phi)), exact)
    assert float(gap) > 0.2  # so the test can tell the families apart


# -- the start, the floor, closed forms ------------------------------------------------------------


def test_it_starts_where_auto_dirichlet_does() -> None:
    model = multinomial(PRIORS["informed"])
    ours = AutoGeneralizedDirichlet(model, init_concentration=3.0, prototype_args=())
    theirs = AutoDirichlet(model, init_concentration=3.0, prototype_args=())
    for method in ("mean", "variance", "covariance"):
        # A log and an exp of each parameter, and sums of logs.
        torch.testing.assert_close(
            getattr(ours, method)()["s"], getattr(theirs, method)()["s"], rtol=1e-10, atol=0
        )


def test_moments_are_those_of_draws() -> None:
    guide = fixed(nested, *betas_of_nested())
    with pyro.plate("draws", 100_000):
        draws = guide()["s"].detach()
    centred = draws - guide.mean()["s"]
    # 4.5 standard errors: by chance, 7 in a million are not.
    assert bool((centred.mean(0).abs() < 4.5 * centred.std(0) / math.sqrt(100_000)).all())
    products = centred.unsqueeze(-1) * centred.unsqueeze(-2)
    error = (products.mean(0) - guide.covariance()["s"]).abs()
    assert bool((error < 4.5 * products.std(0) / math.sqrt(100_000)).all())
    for p in (0.1, 0.5, 0.9):
        below = (draws <= guide.quantiles([p])["s"][0]).double().mean(0)
        # The quantiles come from 10,000 draws, hence sqrt(11) times the error of a proportion.
        assert float((below - p).abs().max()) < 4.5 * math.sqrt(11 * p * (1 - p) / 100_000)


@pytest.mark.parametrize("size", [2, 4096])
def test_floor_bounds_every_beta(size: int) -> None:
    def model() -> None:
        pyro.sample("s", dist.Dirichlet(torch.full((size,), 1 / size)))

    guide = AutoGeneralizedDirichlet(model, prototype_args=())
    for parameter in guide.parameters():
        parameter.data.fill_(-1e3)
    for name in ("concentration1/s", "concentration0/s"):
        least = getattr(guide, name).detach().min()
        assert float(least) == pytest.approx(MIN_TOTAL / 2, rel=1e-6)
    (guide()["s"] ** 2).sum().backward()
    guide.elbo().differentiable_loss(model, guide).backward()
    for parameter in guide.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())


def test_bad_start_is_refused() -> None:
    with pytest.raises(ValueError, match="init_concentration > 0, but got -1"):
        AutoGeneralizedDirichlet(nested, init_concentration=-1)
