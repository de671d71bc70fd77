"""AutoLogisticNormal against a conjugate model and quadrature."""

import math
from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor

from dirprune.guides.distributions import LogisticNormal
from dirprune.guides.logistic_normal import AutoLogisticNormal

Model = Callable[[], None]

F64 = torch.float64
COUNTS = torch.tensor([10.0, 3.0], dtype=F64)
ELBOS = pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
SEEN, NOISE = torch.tensor(1.2, dtype=F64), 0.5


def gaussian() -> None:
    """A log-ratio, whose prior is N(0, 2), seen with normal noise."""
    one = torch.ones(2, dtype=F64)
    s = pyro.sample("s", LogisticNormal(torch.zeros(2, dtype=F64), one))
    ratio = s[..., 0].log() - s[..., 1].log()
    pyro.sample("y", dist.Normal(ratio, NOISE), obs=SEEN)


VARIANCE = 1 / (1 / 2 + 1 / NOISE**2)
MEAN = VARIANCE * float(SEEN) / NOISE**2
LOG_EVIDENCE = float(dist.Normal(torch.zeros_like(SEEN), math.sqrt(2 + NOISE**2)).log_prob(SEEN))


def multinomial() -> None:
    s = pyro.sample("s", dist.Dirichlet(torch.ones(2, dtype=F64)))
    pyro.sample("x", dist.Multinomial(int(COUNTS.sum()), s), obs=COUNTS)


def fixed(model: Model, loc: Tensor, scale: Tensor) -> AutoLogisticNormal:
    guide = AutoLogisticNormal(model, prototype_args=())
    setattr(guide, "loc/s", loc)
    setattr(guide, "scale/s", scale)
    return guide


def fit(model: Model, guide: AutoLogisticNormal, elbo: type[Trace_ELBO], steps: int = 500) -> None:
    """Pyro's own SVI, with a step that falls from .1 to .001."""
    parallel = elbo(num_particles=32, vectorize_particles=True, max_plate_nesting=0)
    svi = SVI(model, guide, ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / steps)}), parallel)
    for _ in range(steps):
        svi.step()


def test_every_draw_gives_the_evidence_at_the_posterior() -> None:
    loc = torch.tensor([MEAN, 0.0], dtype=F64)
    scale = torch.tensor([0.6, 0.8], dtype=F64) * math.sqrt(VARIANCE)  # squares sum to one

    def ratios(guide: AutoLogisticNormal) -> Tensor:
        values = []
        for _ in range(50):
            q = poutine.trace(guide).get_trace()
            p = poutine.trace(poutine.replay(gaussian, q)).get_trace()
            values.append(torch.as_tensor(p.log_prob_sum() - q.log_prob_sum()))
        return torch.stack(values).detach()

    exact = torch.full((50,), LOG_EVIDENCE, dtype=F64)
    # Sums of some 20 terms below 20.
    torch.testing.assert_close(ratios(fixed(gaussian, loc, scale)), exact, rtol=1e-12, atol=0)
    assert ratios(fixed(gaussian, loc, 1.1 * scale)).std() > 0.01  # a 10 % error is seen


@ELBOS
def test_svi_finds_the_posterior(elbo: type[Trace_ELBO]) -> None:
    guide = AutoLogisticNormal(gaussian)
    fit(gaussian, guide, elbo)
    with torch.no_grad():
        loc, scale = getattr(guide, "loc/s").clone(), getattr(guide, "scale/s").clone()
    # The noise of the last steps, relative to the posterior's sd (.47), as with AutoDirichlet.
    assert float(loc[0] - loc[1]) == pytest.approx(MEAN, abs=0.05 * math.sqrt(VARIANCE))
    assert float(scale.norm()) == pytest.approx(math.sqrt(VARIANCE), rel=0.05)


@ELBOS
def test_mean_loss_is_the_one_of_quadrature(elbo: type[Trace_ELBO]) -> None:
    # Of a Dirichlet posterior, which the family does not contain.
    loc, scale = torch.tensor([0.9, -0.2], dtype=F64), torch.tensor([0.6, 0.5], dtype=F64)
    x, w = np.polynomial.legendre.leggauss(200)
    u = torch.as_tensor((x + 1) / 2)
    s = torch.stack([u, 1 - u], -1)
    log_q = LogisticNormal(loc, scale).log_prob(s)
    total = int(COUNTS.sum())
    likelihood = dist.Multinomial(total, s, validate_args=False).log_prob(COUNTS)
    exact = (torch.as_tensor(w / 2) * log_q.exp() * (log_q - likelihood)).sum()  # prior density 1
    parallel = elbo(num_particles=500, vectorize_particles=True, max_plate_nesting=0)
    guide = fixed(multinomial, loc, scale)
    losses = torch.tensor([parallel.loss(multinomial, guide) for _ in range(50)], dtype=F64)
    se = float(losses.std()) / math.sqrt(50)
    assert se < 0.02  # else the test would see nothing
    assert abs(float(losses.mean() - exact)) < 4.5 * se


def test_both_elbos_are_the_same_estimate() -> None:
    # No closed form to a Dirichlet: from the same draw, the same sum in another order.
    losses, gradients = [], []
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        guide = AutoLogisticNormal(multinomial, prototype_args=())
        pyro.set_rng_seed(1)
        loss = elbo.differentiable_loss(multinomial, guide)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad for p in guide.parameters() if p.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert len(gradients[0]) == 4
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_it_starts_at_the_priors_mean() -> None:
    prior = torch.tensor([0.5, 4.0, 2.0, 1.0], dtype=F64)

    def model() -> None:
        pyro.sample("s", dist.Dirichlet(prior))

    guide = AutoLogisticNormal(model, init_scale=0.01, prototype_args=())
    # E[e^eta] is e^loc but for the factor exp(scale^2 / 2) = 1 + 5e-5; 10,000 draws.
    torch.testing.assert_close(guide.mean()["s"], prior / prior.sum(), rtol=1e-3, atol=0)
    sd = guide.variance()["s"].sqrt() / guide.mean()["s"]
    assert bool((sd < 0.015).all())  # sqrt(2) of the scale at most


def test_bad_start_is_refused() -> None:
    with pytest.raises(ValueError, match="init_scale > 0, but got 0"):
        AutoLogisticNormal(multinomial, init_scale=0)
