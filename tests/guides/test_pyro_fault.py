"""The fault of Pyro that AutoDirichlet is there for; this file tells when Pyro mends it."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import ClippedAdam
from torch import Tensor

COUNTS = torch.tensor([10.0, 3.0, 1.0, 0.0], dtype=torch.float64)
STEPS = 500


def model() -> None:
    s = pyro.sample("s", dist.Dirichlet(torch.ones_like(COUNTS)))
    pyro.sample("x", dist.Multinomial(int(COUNTS.sum()), s), obs=COUNTS)


def posterior_mean(elbo: type[Trace_ELBO]) -> Tensor:
    """What AutoNormal converges to, estimated by 20,000 draws (standard error below .001)."""
    guide = AutoNormal(model)
    optimiser = ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / STEPS)})
    svi = SVI(model, guide, optimiser, elbo(num_particles=16, vectorize_particles=True))
    for _ in range(STEPS):
        svi.step()
    with torch.no_grad(), pyro.plate("draws", 20_000):
        draws: Tensor = guide()["s"]
    return draws.mean(0)


def test_auto_normal_under_the_mean_field_elbo_is_wrong_at_a_simplex_site() -> None:
    """Pyro drops a Delta's log_density, the Jacobian, where it has a KL in closed form.

    If this fails, Pyro was mended: say so in the documents, and lift what refuses the pair.
    """
    mean = posterior_mean(TraceMeanField_ELBO)
    measured = torch.tensor([0.724, 0.204, 0.071, 0.002], dtype=torch.float64)  # pyro-ppl 1.9.2
    # The last steps' noise is about .01; the truth (.611, .222, .111, .056) is .11 away.
    torch.testing.assert_close(mean, measured, rtol=0, atol=0.03)


def test_auto_normal_under_the_trace_elbo_is_right() -> None:
    truth = (1 + COUNTS) / (1 + COUNTS).sum()
    # The same noise; a logistic normal's own bias is about .005.
    torch.testing.assert_close(posterior_mean(Trace_ELBO), truth, rtol=0, atol=0.03)
