"""AutoDirichlet against models whose posterior and evidence are known exactly."""

import math
from collections.abc import Callable
from typing import cast

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import AutoGuide, AutoGuideList, AutoNormal
from pyro.optim import ClippedAdam
from torch import Tensor

from dirprune.guides import AutoDirichlet

Model = Callable[..., None]
Fixed = Callable[..., AutoDirichlet]

F64 = torch.float64
COUNTS = torch.tensor([10.0, 3.0, 1.0, 0.0], dtype=F64)
N = int(COUNTS.sum())
PRIORS = {
    "flat": torch.ones(4, dtype=F64),
    "sparse": torch.full((4,), 0.3, dtype=F64),
    "alpha/K": torch.full((4,), 1 / 4, dtype=F64),
    "informed": torch.tensor([0.5, 4.0, 2.0, 1.0], dtype=F64),
}


def log_beta(a: Tensor) -> Tensor:
    return torch.lgamma(a).sum(-1) - torch.lgamma(a.sum(-1))


def expected_log_likelihood(phi: Tensor, counts: Tensor) -> Tensor:
    """E_q[sum n_k log s_k], in closed form."""
    return (counts * (torch.digamma(phi) - torch.digamma(phi.sum(-1, keepdim=True)))).sum(-1)


def multinomial_model(alpha: Tensor) -> Model:
    def model() -> None:
        s = pyro.sample("s", dist.Dirichlet(alpha))
        pyro.sample("x", dist.Multinomial(N, s), obs=COUNTS)

    return model


def categorical_model(alpha: Tensor, batch: int | None = None) -> Model:
    data = torch.repeat_interleave(torch.arange(4), COUNTS.long())

    def model() -> None:
        s = pyro.sample("s", dist.Dirichlet(alpha))
        with pyro.plate("data", N, subsample_size=batch) as rows:
            pyro.sample("x", dist.Categorical(s), obs=data[rows])

    return model


def local_model(
    counts: Tensor, batch: int | None = None, alpha: float = 1.0, observe: bool = True
) -> None:
    with pyro.plate("rows", len(counts), subsample_size=batch) as rows:
        s = pyro.sample("s", dist.Dirichlet(torch.full((3,), alpha, dtype=F64)))
        if observe:
            pyro.factor("x", (counts[rows] * s.log()).sum(-1))


LOCAL_COUNTS = torch.tensor(
    [[3, 1, 0], [0, 2, 9], [1, 1, 1], [20, 0, 0], [0, 0, 4], [5, 2, 5]], dtype=F64
)


def log_ratios(model: Model, guide: AutoGuide, draws: int = 50) -> Tensor:
    """log p(x, s) - log q(s) for draws s of q."""
    ratios: list[Tensor] = []
    for _ in range(draws):
        q = poutine.trace(guide).get_trace()
        p = poutine.trace(poutine.replay(model, q)).get_trace()
        ratios.append(torch.as_tensor(p.log_prob_sum() - q.log_prob_sum()))
    return torch.stack(ratios).detach()


def fit(
    model: Model, guide: AutoGuide, *args: object, steps: int = 500, elbo: ELBO | None = None
) -> None:
    """Pyro's own SVI, with a step that falls from .1 to .001."""
    optimiser = ClippedAdam({"lr": 0.1, "lrd": 0.01 ** (1 / steps)})
    svi = SVI(model, guide, optimiser, elbo or AutoDirichlet.elbo())
    for _ in range(steps):
        svi.step(*args)


def particles(n: int, plates: int = 0) -> TraceMeanField_ELBO:
    return AutoDirichlet.elbo(num_particles=n, vectorize_particles=True, max_plate_nesting=plates)


def assert_within_standard_errors(losses: Tensor, expected: Tensor, largest_se: float) -> None:
    """The mean loss is within 4.5 standard errors: by chance, 7 in a million are not."""
    se = losses.std() / math.sqrt(len(losses))
    assert se < largest_se  # else the test would see nothing
    assert abs(losses.mean() - expected) < 4.5 * se


# -- the exact posterior ---------------------------------------------------------------------------


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("likelihood", ["multinomial", "categorical"])
def test_every_draw_gives_the_evidence_at_the_posterior(
    likelihood: str, prior: str, fixed_guide: Fixed
) -> None:
    alpha = PRIORS[prior]
    evidence = log_beta(alpha + COUNTS) - log_beta(alpha)
    if likelihood == "multinomial":
        model = multinomial_model(alpha)
        evidence = evidence + math.lgamma(N + 1) - torch.lgamma(COUNTS + 1).sum()
    else:
        model = categorical_model(alpha)
    ratios = log_ratios(model, fixed_guide(model, s=alpha + COUNTS))
    # Sums of some 20 terms below 100 in float64: 1e-10 relative leaves four digits to spare.
    torch.testing.assert_close(ratios, evidence.expand(50), rtol=1e-10, atol=0)
    off = log_ratios(model, fixed_guide(model, s=1.1 * (alpha + COUNTS)))
    assert off.std() > 0.01  # the same check sees a 10 % error of the concentrations


def test_mean_loss_is_the_negative_evidence_at_the_posterior(fixed_guide: Fixed) -> None:
    model = multinomial_model(PRIORS["flat"])
    guide = fixed_guide(model, s=1 + COUNTS)
    evidence = -torch.log(torch.tensor(math.comb(N + 3, 3), dtype=F64))  # all counts alike: flat
    losses = torch.tensor([particles(500).loss(model, guide) for _ in range(50)], dtype=F64)
    assert_within_standard_errors(losses, -evidence, largest_se=0.03)


@pytest.mark.parametrize("batch", [None, 5])
def test_loss_of_a_subsampled_plate_is_scaled(batch: int | None, fixed_guide: Fixed) -> None:
    phi, alpha = torch.tensor([4.0, 3.0, 2.0, 1.5], dtype=F64), PRIORS["informed"]
    guide = fixed_guide(categorical_model(alpha), s=phi)
    kl = torch.distributions.kl_divergence(dist.Dirichlet(phi), dist.Dirichlet(alpha))
    expected = kl - expected_log_likelihood(phi, COUNTS)
    model, elbo = categorical_model(alpha, batch), AutoDirichlet.elbo()
    losses = torch.tensor([elbo.loss(model, guide) for _ in range(1500)], dtype=F64)
    assert_within_standard_errors(losses, expected, largest_se=0.4)  # of a loss of 23


@pytest.mark.parametrize("create", [False, True], ids=["own-plates", "create_plates"])
def test_loss_of_local_sites_is_scaled(create: bool) -> None:
    # Without data the loss is the KL, closed-form, so that each call has to give it exactly.
    def plates(counts: Tensor, batch: int | None = None, *_: object) -> pyro.plate:
        return pyro.plate("rows", len(counts), subsample_size=batch)

    args = (LOCAL_COUNTS, 2, 0.7, False)
    guide = AutoDirichlet(
        local_model, prototype_args=args, create_plates=plates if create else None
    )
    phi, alpha = guide.concentration()["s"], torch.full((3,), 0.7, dtype=F64)
    assert phi.shape == (6, 3)  # all rows, though the prototype saw two
    kl = torch.distributions.kl_divergence(dist.Dirichlet(phi[0]), dist.Dirichlet(alpha))
    loss = AutoDirichlet.elbo().differentiable_loss(local_model, guide, *args)
    torch.testing.assert_close(loss, 6 * kl, rtol=1e-12, atol=0)  # rounding of 6 terms
    loss.backward()
    (parameter,) = guide.parameters()
    assert parameter.grad is not None
    assert int((parameter.grad.abs().sum(-1) > 0).sum()) == 2  # the rows of this subsample


# -- SVI finds it ----------------------------------------------------------------------------------


def assert_posterior(guide: AutoDirichlet, phi: Tensor, name: str = "s") -> None:
    """Means within .01; concentrations, hence standard deviations, within 10 % (5 %).

    In four seeds the worst was .006 and 3.5 %: the noise of the last steps.
    """
    mean = phi / phi.sum(-1, keepdim=True)
    torch.testing.assert_close(guide.mean()[name], mean, rtol=0, atol=0.01)
    torch.testing.assert_close(guide.concentration()[name], phi, rtol=0.1, atol=0)


@pytest.mark.parametrize("prior", PRIORS)
def test_svi_finds_the_posterior(prior: str) -> None:
    model = multinomial_model(PRIORS[prior])
    guide = AutoDirichlet(model)
    fit(model, guide, elbo=particles(32))
    assert_posterior(guide, PRIORS[prior] + COUNTS)


def test_svi_finds_the_posterior_from_categories_in_either_store(store: bool) -> None:
    model = categorical_model(PRIORS["flat"])
    guide = AutoDirichlet(model)
    fit(model, guide, elbo=particles(32, plates=1))
    assert_posterior(guide, 1 + COUNTS)
    assert len(pyro.get_param_store()) == (0 if store else 1)


def test_torch_optimiser_finds_the_posterior() -> None:
    model = multinomial_model(PRIORS["flat"])
    guide = AutoDirichlet(model, prototype_args=())
    module = particles(32)(cast(torch.nn.Module, model), guide)  # a function does
    assert len(list(module.parameters())) == 1  # before any call
    optimiser = torch.optim.Adam(module.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.01 ** (1 / 500))
    for _ in range(500):
        optimiser.zero_grad()
        module().backward()
        optimiser.step()
        schedule.step()
    assert_posterior(guide, 1 + COUNTS)


@pytest.mark.parametrize("create", [False, True], ids=["own-plates", "create_plates"])
def test_svi_matches_subsampled_rows_to_their_parameters(create: bool) -> None:
    def plates(counts: Tensor, batch: int | None = None) -> pyro.plate:
        return pyro.plate("rows", len(counts), subsample_size=batch)

    guide = AutoDirichlet(local_model, create_plates=plates if create else None)
    fit(local_model, guide, LOCAL_COUNTS, 2, elbo=particles(32, plates=1), steps=900)
    # A third of the steps for each row: wider than assert_posterior. Swapped rows differ by .5.
    phi = 1 + LOCAL_COUNTS
    mean = phi / phi.sum(-1, keepdim=True)
    torch.testing.assert_close(guide.mean()["s"], mean, rtol=0, atol=0.03)
    torch.testing.assert_close(guide.concentration()["s"], phi, rtol=0.25, atol=0)


def test_several_sites_and_dotted_names() -> None:
    data = {"a": COUNTS, "a.b": COUNTS.flip(0), "training": 3 * COUNTS}

    def model() -> None:
        for name, counts in data.items():
            s = pyro.sample(name, dist.Dirichlet(torch.ones_like(counts)))
            pyro.sample(f"x.{name}", dist.Multinomial(int(counts.sum()), s), obs=counts)

    guide = AutoDirichlet(model)
    fit(model, guide, elbo=particles(32))
    assert list(guide.concentration()) == list(data)
    for name, counts in data.items():
        assert_posterior(guide, 1 + counts, name)


def test_a_site_of_independent_rows_is_one_site() -> None:
    def model() -> None:
        s = pyro.sample("s", dist.Dirichlet(torch.ones(2, 4, dtype=F64)).to_event(1))
        pyro.factor("x", (torch.stack([COUNTS, COUNTS.flip(0)]) * s.log()).sum((-1, -2)))

    guide = AutoDirichlet(model)
    fit(model, guide, elbo=particles(32))
    assert_posterior(guide, 1 + torch.stack([COUNTS, COUNTS.flip(0)]))


def test_guide_list_with_a_normal_for_another_site(store: bool) -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=F64), 1))
        s = pyro.sample("s", dist.Dirichlet(PRIORS["flat"]))
        pyro.sample("x", dist.Multinomial(N, s), obs=COUNTS)
        pyro.sample("y", dist.Normal(z, 1), obs=torch.tensor(3.0, dtype=F64))

    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, hide=["s"])))
    guide.append(AutoDirichlet(poutine.block(model, expose=["s"])))
    fit(model, guide, elbo=particles(32))
    assert_posterior(cast(AutoDirichlet, guide[1]), 1 + COUNTS)
    # z | y ~ Normal(1.5, .5 ** .5); the same noise of the last steps.
    assert abs(guide.median()["z"] - 1.5) < 0.05
    assert guide.median()["s"].sum() == pytest.approx(1, abs=1e-12)
    assert guide.quantiles([0.1, 0.9])["s"].shape == (2, 4)


def test_enumerated_sites_stay_enumerated(fixed_guide: Fixed) -> None:
    confusion = torch.eye(4, dtype=F64) + 1e-30  # the class is seen, but by enumeration alone
    seen = torch.repeat_interleave(torch.arange(4), COUNTS.long())

    @config_enumerate
    def model() -> None:
        s = pyro.sample("s", dist.Dirichlet(PRIORS["flat"]))
        with pyro.plate("data", N):
            z = pyro.sample("z", dist.Categorical(s))
            pyro.sample("x", dist.Categorical(confusion[z]), obs=seen)

    guide = fixed_guide(poutine.block(model, hide=["z"]), s=1 + COUNTS)
    evidence = (log_beta(1 + COUNTS) - log_beta(PRIORS["flat"])).item()
    for _ in range(10):
        loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide)
        assert loss == pytest.approx(-evidence, rel=1e-10)  # as for every draw above
