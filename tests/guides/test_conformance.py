"""What every guide of ours keeps: one list of guides through every test.

A new guide gets a line in ``CASES``.
"""

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList
from pyro.optim import ClippedAdam
from torch import Tensor

from dirprune.guides import AutoDirichlet, SwitchGuide
from dirprune.guides.generalized_dirichlet import AutoGeneralizedDirichlet
from dirprune.guides.log_normal import AutoLogNormal
from dirprune.guides.logistic_normal import AutoLogisticNormal
from dirprune.guides.low_rank import AutoLowRankLogisticNormal
from dirprune.inference.particles import Particles

F64 = torch.float64
COUNTS = torch.tensor([6.0, 3.0, 1.0], dtype=F64)
ELBOS = [Trace_ELBO, TraceMeanField_ELBO]


def simplex(size: int, dtype: torch.dtype) -> Any:
    return dist.Dirichlet(torch.linspace(0.7, 2.0, size, dtype=dtype))


def half_line(size: int, dtype: torch.dtype) -> Any:
    return dist.Gamma(torch.linspace(1.7, 3.0, size, dtype=dtype), 2.0).to_event(1)


@dataclass(frozen=True)
class Case:
    """A guide with its options and with a prior that it fits."""

    make: Callable[..., SwitchGuide]
    prior: Callable[[int, torch.dtype], Any] = simplex
    options: dict[str, Any] = field(default_factory=dict)
    subsamples: bool = True

    def __call__(self, model: Callable[..., Any], **options: Any) -> SwitchGuide:
        return self.make(model, **self.options, **options)

    def model(self, size: int = 3, dtype: torch.dtype = F64) -> Callable[[], None]:
        """Two sites under one likelihood."""

        def model() -> None:
            s, t = (pyro.sample(name, self.prior(size, dtype)) for name in ("s", "t.0"))
            pyro.factor("x", (COUNTS[:size].to(dtype) * (s * t).log()).sum(-1))

        return model


CASES = {
    "dirichlet": Case(AutoDirichlet),
    "generalized-dirichlet": Case(AutoGeneralizedDirichlet),
    "logistic-normal": Case(AutoLogisticNormal),
    "low-rank": Case(AutoLowRankLogisticNormal, options={"rank": 2}, subsamples=False),
    "log-normal": Case(AutoLogNormal, prior=half_line),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    made = CASES[request.param]
    assert isinstance(made, Case)
    return made


def step(guide: Any, model: Callable[..., Any], *args: Any, steps: int = 3) -> None:
    svi = SVI(model, guide, ClippedAdam({"lr": 0.1}), Trace_ELBO())
    for _ in range(steps):
        svi.step(*args)


def values(guide: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in guide.parameters()])


# -- estimates -------------------------------------------------------------------------------------


def losses_and_gradients(
    guide: SwitchGuide, model: Callable[..., Any], elbo: type[Trace_ELBO], runs: int
) -> Tensor:
    """[runs, 1 + parameters]: each the mean of 100 draws."""
    estimate = elbo(num_particles=100, vectorize_particles=True, max_plate_nesting=0)
    rows = []
    for _ in range(runs):
        guide.zero_grad()
        loss = estimate.differentiable_loss(model, guide)
        loss.backward()
        rows.append(torch.cat([loss.detach().reshape(1), *_gradients(guide)]))
    return torch.stack(rows)


def _gradients(guide: SwitchGuide) -> list[Tensor]:
    return [p.grad.reshape(-1) for p in guide.parameters() if p.grad is not None]


def assert_same_mean(one: Tensor, two: Tensor) -> None:
    se = (one.var(0) / len(one) + two.var(0) / len(two)).sqrt()
    # 5 standard errors, of up to 26 numbers in 10 tests: by chance, 2 in 10,000 are not.
    assert bool(((one.mean(0) - two.mean(0)).abs() < 5 * se + 1e-10).all())


def test_both_elbos_agree_in_loss_and_gradient(case: Case) -> None:
    model = case.model()
    guide = case(model, prototype_args=())
    one, two = (losses_and_gradients(guide, model, elbo, runs=40) for elbo in ELBOS)
    assert one.shape[1] == 1 + sum(p.numel() for p in guide.parameters())
    # Else the test would see nothing: the largest gradients are of the order of the counts.
    assert float((one.std(0) / math.sqrt(40)).max()) < 0.1
    assert_same_mean(one, two)


@pytest.mark.parametrize("elbo", ELBOS)
def test_particles_leave_the_loss_and_the_gradient(case: Case, elbo: type[Trace_ELBO]) -> None:
    size = 16

    def model() -> None:
        s, t = (pyro.sample(name, case.prior(3, F64)) for name in ("s", "t.0"))
        each = (COUNTS * (s * t).log()).sum(-1)
        # As SwitchedNetwork: every draw answers for its share of the data.
        pyro.factor("x", each.mean(-1) if each.dim() else each)

    guide = case(model, prototype_args=())
    plain = losses_and_gradients(guide, model, elbo, runs=40)
    rows = []
    for _ in range(150):
        guide.zero_grad()
        with Particles(size):
            loss = elbo().differentiable_loss(model, guide)
        loss.backward()
        rows.append(torch.cat([loss.detach().reshape(1), *_gradients(guide)]))
    assert_same_mean(plain, torch.stack(rows))


def test_the_guides_density_is_that_of_its_draws(case: Case) -> None:
    # E_q[p / q] = 1 where p is the prior: the densities belong to the draws, and lose no factor.
    def prior() -> None:
        for name in ("s", "t.0"):
            pyro.sample(name, dist.Dirichlet(torch.full((3,), 30.0, dtype=F64)))

    def of_half_line() -> None:
        for name in ("s", "t.0"):
            pyro.sample(name, dist.LogNormal(torch.zeros(3, dtype=F64), 0.2).to_event(1))

    model = of_half_line if case.prior is half_line else prior
    guide = case(model, prototype_args=())
    with pyro.plate("draws", 50_000), torch.no_grad():
        q = poutine.trace(guide).get_trace()
        p = poutine.trace(poutine.replay(model, q)).get_trace()
        for trace in (q, p):
            trace.compute_log_prob()
    total: Any = 0
    for sign, trace in ((1, p), (-1, q)):
        for site in trace.nodes.values():
            if site["type"] == "sample" and site["name"] != "draws":
                total = total + sign * site["log_prob"]
    ratio = total.exp()
    se = float(ratio.std()) / math.sqrt(50_000)
    assert se < 0.03  # the guides start wider than this prior
    assert abs(float(ratio.mean()) - 1) < 4.5 * se


# -- shapes and precisions -------------------------------------------------------------------------


@pytest.mark.parametrize("elbo", ELBOS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_sizes_and_precisions(
    case: Case, size: int, dtype: torch.dtype, elbo: type[Trace_ELBO]
) -> None:
    model = case.model(size, dtype)
    guide = case(model)
    drawn = guide()
    for answers in (drawn, guide.mean(), guide.variance(), guide.median(), guide.marginal_median()):
        assert list(answers) == ["s", "t.0"]
        for value in answers.values():
            assert value.shape == (size,)
            assert value.dtype == dtype
            assert bool(value.isfinite().all())
    assert guide.quantiles([0.1, 0.9])["s"].shape == (2, size)
    elbo().differentiable_loss(model, guide).backward()
    for p in guide.parameters():
        assert p.grad is not None
        assert bool(p.grad.isfinite().all())
    if case.prior is simplex:
        for answers in (drawn, guide.mean(), guide.median()):
            for value in answers.values():
                assert value.detach().sum().item() == pytest.approx(1, abs=1e-6)
        if size == 1:
            assert drawn["s"].item() == pytest.approx(1, abs=1e-7)


def test_draws_under_a_plate(case: Case) -> None:
    model = case.model()
    guide = case(model)
    with pyro.plate("draws", 7):
        drawn = guide()
    assert drawn["s"].shape == drawn["t.0"].shape == (7, 3)
    assert float(drawn["s"].detach().std(0).min()) > 0  # each is another
    predictive = Predictive(model, guide=guide, num_samples=5, parallel=True)
    assert predictive()["t.0"].shape == (5, 3)


def test_plates_of_the_model(case: Case) -> None:
    def model() -> None:
        with pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 2, dim=-1):
            s = pyro.sample("s", case.prior(3, F64).expand((4, 2)))
            pyro.factor("x", (COUNTS * s.log()).sum(-1))
        pyro.sample("t", case.prior(2, F64).expand((2,)).to_event(1))

    guide = case(model)
    drawn = guide()
    assert drawn["s"].shape == (4, 2, 3)
    assert drawn["t"].shape == (2, 2)
    assert guide.mean()["s"].shape == guide.variance()["s"].shape == (4, 2, 3)
    for elbo in ELBOS:
        single = [elbo().loss(model, guide) for _ in range(100)]
        wide = elbo(num_particles=50, vectorize_particles=True, max_plate_nesting=2)
        runs = torch.tensor([[x, wide.loss(model, guide)] for x in single], dtype=F64)
        se = runs.std(0) / math.sqrt(100)
        assert abs(float(runs[:, 0].mean() - runs[:, 1].mean())) < 4.5 * float(se.norm()) + 1e-9


def test_subsamples(case: Case) -> None:
    if not case.subsamples:
        pytest.skip("refuses a plate that sub-samples, by a test of its own")

    def model() -> None:
        with pyro.plate("rows", 6, subsample_size=2):
            pyro.sample("s", case.prior(3, F64))

    guide = case(model)
    assert guide()["s"].shape == (2, 3)
    assert guide.mean()["s"].shape == (6, 3)
    step(guide, model, steps=20)
    assert float(guide.mean()["s"].std(0).min()) > 0  # rows learn apart


# -- copies and files ------------------------------------------------------------------------------


def by_pickle(guide: Any) -> Any:
    return pickle.loads(pickle.dumps(guide))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle])
def test_copies_are_independent(case: Case, duplicate: Callable[..., Any], store: bool) -> None:
    model = case.model()
    guide = case(model)
    step(guide, model)
    before = values(guide)
    other = duplicate(guide)
    assert torch.equal(values(other), before)
    step(guide, model)
    assert not torch.equal(values(guide), before)
    assert torch.equal(values(other), before)
    after = values(guide)
    step(other, model)
    assert not torch.equal(values(other), before)
    assert torch.equal(values(guide), after)
    for method in ("mean", "variance", "median"):
        assert getattr(other, method)()["s"].shape == (3,)


def test_state_dict_round_trip(case: Case, store: bool) -> None:
    model = case.model()
    guide = case(model)
    step(guide, model)
    other = case(model, prototype_args=())
    assert not torch.equal(values(other), values(guide))
    other.load_state_dict(guide.state_dict())
    assert torch.equal(values(other), values(guide))
    torch.testing.assert_close(other.mean(), guide.mean(), rtol=0, atol=0)
    pyro.set_rng_seed(1)
    one = guide()["t.0"]
    pyro.set_rng_seed(1)
    assert torch.equal(other()["t.0"], one)


def test_second_guide_starts_afresh(case: Case, store: bool) -> None:
    model = case.model()
    first = case(model)
    step(first, model)
    after = values(first)
    pyro.set_rng_seed(3)
    second = case(model)
    second()
    pyro.set_rng_seed(3)
    third = case(model)
    third()
    assert torch.equal(values(second), values(third))
    step(second, model)
    assert torch.equal(values(first), after)


def test_two_of_a_kind_in_a_list(case: Case) -> None:
    model = case.model()
    guide = AutoGuideList(model)
    guide.append(case(poutine.block(model, expose=["s"])))
    guide.append(case(poutine.block(model, expose=["t.0"])))
    step(guide, model)
    assert set(guide()) == {"s", "t.0"}
    assert guide.median()["t.0"].shape == (3,)
    other = copy.deepcopy(guide)
    before = values(guide)
    step(other, model)
    assert torch.equal(values(guide), before)


def test_answers_leave_the_generators_alone(case: Case) -> None:
    guide = case(case.model(), prototype_args=())
    pyro.set_rng_seed(1)
    expected = torch.rand(())
    pyro.set_rng_seed(1)
    first = guide.mean(), guide.variance(), guide.quantiles([0.5])
    assert torch.rand(()) == expected
    torch.testing.assert_close(first[0], guide.mean(), rtol=0, atol=0)
