"""The base class: what its docstring teaches works as it stands there."""

import inspect
import re
import textwrap
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from pyro.nn.module import PyroParam
from pyro.optim import ClippedAdam
from torch.distributions import constraints

from dirprune.guides import SwitchGuide
from dirprune.guides.base import DRAWS

COUNTS = torch.tensor([10.0, 3.0, 1.0, 0.0], dtype=torch.float64)


def model() -> None:
    s = pyro.sample("s", dist.Dirichlet(torch.ones(4, dtype=torch.float64)))
    pyro.sample("x", dist.Multinomial(14, s), obs=COUNTS)


def taught() -> type[SwitchGuide]:
    """The class that the docstring shows, run as it stands there."""
    doc = inspect.cleandoc(SwitchGuide.__doc__ or "")
    found = re.search(r"they make::\n\n(.*?)\n\n\s*``dirprune.fit", doc, re.DOTALL)
    assert found is not None
    code = textwrap.dedent(found[1])
    assert len([line for line in code.splitlines() if line]) <= 20  # "a new one is twenty lines"
    names: dict[str, Any] = {}
    exec(code, names)
    made: type[SwitchGuide] = names["AutoLogisticNormal"]
    return made


def test_the_guide_that_the_docstring_shows_learns_a_posterior() -> None:
    guide = taught()(model)
    steps = 600
    svi = SVI(
        model,
        guide,
        ClippedAdam({"lr": 0.05, "lrd": 0.01 ** (1 / steps)}),
        guide.elbo(num_particles=8, vectorize_particles=True),
    )
    for _ in range(steps):
        svi.step()
    truth = (1 + COUNTS) / (1 + COUNTS).sum()
    # .01 is the last steps' noise, .02 a logistic normal's own bias here.
    torch.testing.assert_close(guide.mean()["s"], truth, rtol=0, atol=0.03)
    sd = (truth * (1 - truth) / 19).sqrt()
    torch.testing.assert_close(guide.variance()["s"].sqrt(), sd, rtol=0.25, atol=0)


class Pairs(SwitchGuide):
    """A distribution that knows neither its mean nor its quantiles in closed form."""

    def parameters_of(self, mean: torch.Tensor) -> dict[str, PyroParam]:
        start = torch.tensor([3.0, 2.0], dtype=torch.float64)
        return {"phi": PyroParam(start, constraints.positive, event_dim=1)}

    def distribution(self, phi: torch.Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        class Unknown(dist.Dirichlet):  # type: ignore[misc]
            @property
            def mean(self) -> torch.Tensor:
                raise NotImplementedError

            variance = mean

        return Unknown(phi)


def pairs() -> Pairs:
    def beta() -> None:
        pyro.sample("s", dist.Dirichlet(torch.ones(2, dtype=torch.float64)))

    return Pairs(beta, prototype_args=())


def test_moments_and_quantiles_without_a_closed_form_are_those_of_draws() -> None:
    """Dirichlet(3, 2): mean .6, variance .04; each within four of its own standard errors."""
    guide, before = pairs(), torch.get_rng_state()
    sd = 0.2
    assert guide.mean()["s"][0].item() == pytest.approx(0.6, abs=4 * sd / DRAWS**0.5)
    assert guide.variance()["s"][0].item() == pytest.approx(0.04, rel=4 * (2 / DRAWS) ** 0.5)
    low, median, high = guide.quantiles([0.05, 0.5, 0.95])["s"][:, 0].tolist()
    # Beta(3, 2); the standard error of a quantile is sqrt(q (1 - q) / n) / density.
    assert low == pytest.approx(0.2486, abs=0.012)
    assert median == pytest.approx(0.6143, abs=0.012)
    assert high == pytest.approx(0.9024, abs=0.009)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(guide.mean()["s"], guide.mean()["s"])


def test_the_median_is_on_the_simplex() -> None:
    assert pairs().median()["s"].sum().item() == pytest.approx(1)
