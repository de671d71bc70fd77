"""AutoDirichlet as a module: names, copies, saving, loading, SwitchedNetwork, bad models."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive
from pyro.infer.autoguide import AutoGuideList
from pyro.optim import ClippedAdam
from torch import Tensor, nn

from dirprune.guides import GUIDES, AutoDirichlet
from dirprune.model.switched import SwitchedNetwork

Fixed = Callable[..., AutoDirichlet]

F64 = torch.float64
START = torch.full((4,), 10.0, dtype=F64)  # init_concentration 10, flat prior
COUNTS = torch.tensor([10.0, 3.0, 1.0, 0.0], dtype=F64)


def model(counts: Tensor = COUNTS) -> None:
    s = pyro.sample("s", dist.Dirichlet(torch.ones(4, dtype=F64)))
    pyro.sample("x", dist.Multinomial(int(counts.sum()), s), obs=counts)


def step(guide: Any, of: Callable[..., Any] = model, *args: Any, steps: int = 3) -> None:
    svi = SVI(of, guide, ClippedAdam({"lr": 0.1}), AutoDirichlet.elbo())
    for _ in range(steps):
        svi.step(*args)


def phi(guide: Any) -> Tensor:
    value: Tensor = guide.concentration()["s"]
    return value


def moved(before: Tensor, after: Tensor) -> bool:
    """Adam's steps are near its learning rate, .1, in log(phi): some component moves by 5 %."""
    return bool(((after / before - 1).abs() > 0.05).any())


def assert_start(guide: Any) -> None:
    torch.testing.assert_close(phi(guide), START, rtol=1e-12, atol=0)  # a log and an exp


# -- no inheritance --------------------------------------------------------------------------------


def test_second_guide_starts_afresh(store: bool) -> None:
    first = AutoDirichlet(model)
    step(first)
    after = phi(first)
    assert moved(START, after)
    second = AutoDirichlet(model)
    second()
    assert_start(second)
    step(second)
    assert torch.equal(phi(first), after)
    first()
    assert torch.equal(phi(first), after)


def test_second_list_starts_afresh(store: bool) -> None:
    def make() -> AutoGuideList:
        guide = AutoGuideList(model)
        guide.append(AutoDirichlet(model))
        return guide

    first = make()
    step(first)
    assert moved(START, phi(first[0]))
    second = make()
    second()
    assert_start(second[0])


def test_cleared_store_does_not_change_a_guide(store: bool) -> None:
    guide = AutoDirichlet(model)
    step(guide)
    before = phi(guide)
    pyro.clear_param_store()
    guide()
    assert torch.equal(phi(guide), before)


def test_saved_store_is_read_by_the_moments(tmp_path: Any) -> None:
    guide = AutoDirichlet(model)
    step(guide)
    trained = phi(guide)
    pyro.get_param_store().save(str(tmp_path / "store"))
    step(guide)
    pyro.clear_param_store()
    with torch.serialization.safe_globals([type(torch.distributions.constraints.positive)]):
        pyro.get_param_store().load(str(tmp_path / "store"))
    assert torch.equal(phi(guide), trained)


# -- copies and files ------------------------------------------------------------------------------


def by_pickle(guide: Any) -> Any:
    return pickle.loads(pickle.dumps(guide))


def by_torch(guide: Any) -> Any:
    file = io.BytesIO()
    torch.save({"guide": guide}, file)
    file.seek(0)
    return torch.load(file, weights_only=False)["guide"]


COPIES = pytest.mark.parametrize("duplicate", [copy.deepcopy, by_pickle, by_torch])


@COPIES
def test_copy_is_independent(duplicate: Callable[..., Any], store: bool) -> None:
    guide = AutoDirichlet(model)
    step(guide)
    before = phi(guide)
    other = duplicate(guide)
    assert guide.model is model  # Pyro's own takes it from the live guide
    assert torch.equal(phi(other), before)
    step(guide)
    assert moved(before, phi(guide))
    assert torch.equal(phi(other), before)
    after = phi(guide)
    step(other)
    assert moved(before, phi(other))
    assert torch.equal(phi(guide), after)
    assert other.mean()["s"].sum() == pytest.approx(1, abs=1e-12)


@COPIES
def test_copy_before_the_first_call(duplicate: Callable[..., Any]) -> None:
    other = duplicate(AutoDirichlet(model))
    step(other)  # it still has the model, in which to find its sites
    assert moved(START, phi(other))


@COPIES
def test_copy_of_a_list(duplicate: Callable[..., Any], store: bool) -> None:
    guide = AutoGuideList(model)
    guide.append(AutoDirichlet(model))
    step(guide)
    before = phi(guide[0])
    other = duplicate(guide)
    assert other[0].master() is other
    step(other)
    assert moved(before, phi(other[0]))
    assert torch.equal(phi(guide[0]), before)


def test_copy_of_an_elbo_module_has_its_own_model() -> None:
    module = pyro.nn.PyroModule()
    module.forward = model
    elbo = AutoDirichlet.elbo()(module, AutoDirichlet(module))
    other = copy.deepcopy(elbo)
    assert other.guide.model is other.model
    assert other.model is not module


def test_saved_guide_leaves_the_model_and_the_data_behind() -> None:
    data = torch.ones(4, 100_000, dtype=F64)

    def local(counts: Tensor) -> None:  # cannot be pickled, nor can the weak references of params
        alpha = pyro.param("alpha", torch.ones(4, dtype=F64))
        s = pyro.sample("s", dist.Dirichlet(alpha))
        pyro.factor("x", (counts.sum(-1) * s.log()).sum())

    guide = AutoDirichlet(local)
    step(guide, local, data)
    assert len(pickle.dumps(guide)) < 20_000  # the data take 3,200,000 bytes
    assert torch.equal(phi(by_pickle(guide)), phi(guide))
    assert torch.equal(phi(copy.deepcopy(guide)), phi(guide))


def test_state_dict(store: bool) -> None:
    guide = AutoDirichlet(model)
    step(guide)
    other = AutoDirichlet(model, prototype_args=())
    other.load_state_dict(guide.state_dict())
    assert torch.equal(phi(other), phi(guide))
    other()
    assert torch.equal(phi(other), phi(guide))


def test_predictive() -> None:
    guide = AutoDirichlet(model)
    step(guide, steps=1)
    before = phi(guide)
    draws = Predictive(model, guide=guide, num_samples=2000)()["s"].reshape(2000, 4)
    # sd of a component < .07 (phi > 30), of the mean of 2,000 < .0016; 4.5 of them.
    torch.testing.assert_close(draws.mean(0), before / before.sum(), rtol=0, atol=0.008)


# -- SwitchedNetwork -------------------------------------------------------------------------------


@pytest.fixture
def switched(monkeypatch: pytest.MonkeyPatch) -> SwitchedNetwork:
    """A network whose forward pass is an error."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    made = SwitchedNetwork(network, torch.zeros(2, 1, 8, 8), num_data=10)

    def no_forward(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr(made.body, "forward", no_forward)
    with pytest.raises(AssertionError, match="the network was run"):
        made(torch.zeros(2, 1, 8, 8))
    return made


def test_guide_of_a_network_needs_no_forward_pass(switched: SwitchedNetwork, store: bool) -> None:
    guide = AutoDirichlet(switched)
    assert list(guide.concentration()) == list(switched.sites)
    assert sum(p.numel() for p in guide.parameters()) == 4
    with torch.no_grad():
        for p in guide.parameters():
            p.add_(torch.arange(4))
    other = AutoDirichlet(switched)
    other.load_state_dict(guide.state_dict())
    for name, site in switched.sites.items():
        assert torch.equal(other.concentration()[name], guide.concentration()[name])
        assert guide(torch.zeros(2, 1, 8, 8))[name].shape == (site.size,)
    assert guide.model is switched


def test_saved_guide_goes_without_the_network(switched: SwitchedNetwork) -> None:
    guide = AutoDirichlet(switched)
    other = by_torch(guide)
    assert other.model is None
    name = next(iter(switched.sites))
    assert other(torch.zeros(2, 1, 8, 8))[name].sum().item() == pytest.approx(1, abs=1e-12)
    assert copy.deepcopy(guide).model is switched


# -- what cannot be fitted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (dist.Normal(0, 1), "'z' is a Normal with support Real"),
        (dist.Bernoulli(0.5), "'z' is a Bernoulli with support Boolean"),
        (dist.OneHotCategorical(torch.ones(3)), "'z' is a OneHotCategorical"),
    ],
)
def test_other_sites_are_refused_with_the_way_out(other: Any, words: str) -> None:
    def mixed() -> None:
        pyro.sample("s", dist.Dirichlet(torch.ones(3)))
        pyro.sample("z", other)

    guide = AutoDirichlet(mixed)
    for _ in range(2):  # a failed call leaves the guide as it was
        with pytest.raises(ValueError, match="on the simplex only") as error:
            guide()
        assert words in str(error.value)
        assert "AutoDirichlet(poutine.block(model, hide=['z']))" in str(error.value)
    assert list(AutoDirichlet(poutine.block(mixed, hide=["z"]))()) == ["s"]  # as it says


def test_a_model_without_sites_is_refused() -> None:
    with pytest.raises(ValueError, match="no latent site"):
        AutoDirichlet(poutine.block(model, hide=["s"]), prototype_args=())


def test_sequential_plate_is_refused() -> None:
    def sequential() -> None:
        for i in pyro.plate("rows", 2):
            pyro.sample(f"s{i}", dist.Dirichlet(torch.ones(3)))

    with pytest.raises(NotImplementedError, match="sequential"):
        AutoDirichlet(sequential, prototype_args=())


@pytest.mark.parametrize("method", ["concentration", "mean", "variance", "covariance", "median"])
def test_answers_before_the_first_call_are_refused(method: str) -> None:
    with pytest.raises(RuntimeError, match="call it once on the model's arguments, or give"):
        getattr(AutoDirichlet(model), method)()


def test_name() -> None:
    assert GUIDES["dirichlet"].make is AutoDirichlet
