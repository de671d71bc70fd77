"""NUTS: exact posteriors, repeatable, resumable, and clear about what is wrong."""

import math
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn
from torch.distributions.transforms import StickBreakingTransform
from torch.utils.data import DataLoader

from dirprune.inference.fit import Fit
from dirprune.inference.loop import NonFiniteError
from dirprune.inference.sample import LogStickBreaking, sample
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

Classifier = Callable[..., SwitchedNetwork]
Batches = Callable[..., DataLoader[Any]]
COUNTS = [10, 3, 1, 0]
# For check_moments, whose last lines say whether it is enough.
ENOUGH: dict[str, Any] = {"draws": 150, "warmup": 100}


def categorical(outputs: Tensor) -> dist.TorchDistribution:
    return dist.Categorical(probs=outputs)


def multinomial(counts: list[int], **options: Any) -> tuple[SwitchedNetwork, list[Any]]:
    """y_i ~ Categorical(s): a network whose hidden units are one, and its outputs their gains."""
    k = len(counts)
    network: Any = nn.Sequential(nn.Linear(1, k, bias=False), nn.Linear(k, k, bias=False)).double()
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[1].weight.copy_(torch.eye(k))
    y = torch.repeat_interleave(torch.arange(k), torch.tensor(counts))
    x = torch.ones(len(y), 1, dtype=torch.float64)
    model = SwitchedNetwork(
        network, x[:2], num_data=len(y), scaling="simplex", likelihood=categorical, **options
    )
    assert list(model.sites) == ["0"]
    return model, [(x, y)]


def chains_of(fitted: Fit, name: str) -> np.ndarray:
    """All draws of a site, [chain, draw, ...]."""
    return np.stack([draws[name].numpy() for draws in fitted.draws])


def check_moments(values: np.ndarray, mean: Any, sd: Any) -> None:
    """Means and sds [...] of draws [chain, draw, ...] are right to 4 Monte Carlo errors."""
    tree = az.from_dict({"posterior": {"v": values}})
    mean_error = az.mcse(tree, method="mean")["v"].values
    sd_error = az.mcse(tree, method="sd")["v"].values
    np.testing.assert_array_less(np.abs(values.mean((0, 1)) - mean), 4 * mean_error)
    np.testing.assert_array_less(np.abs(values.std((0, 1)) - sd), 4 * sd_error)
    # The chains agree, and the errors are small enough to tell posteriors apart.
    assert (az.rhat(tree)["v"].values < 1.05).all()
    assert (mean_error < 0.1 * np.asarray(sd)).all()


# -- the posterior ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "temperature"), [(0.5, 0.5), pytest.param(1.0, 1.0, marks=pytest.mark.slow)]
)
def test_the_conjugate_posterior(alpha: float, temperature: float) -> None:
    model, data = multinomial(COUNTS, prior=alpha, temperature=temperature)
    fitted = sample(model, data, **ENOUGH)
    a = alpha + temperature * np.array(COUNTS)
    mean = a / a.sum()
    check_moments(chains_of(fitted, "0"), mean, np.sqrt(mean * (1 - mean) / (a.sum() + 1)))
    assert fitted.draws[0]["0"].shape == (150, 4)
    assert fitted.draws[0]["0"].dtype == torch.float64
    assert not torch.equal(fitted.draws[0]["0"], fitted.draws[1]["0"])
    assert [s["diverging"].sum().item() for s in fitted.stats] == [0, 0]


def test_energies_and_tree_depths() -> None:
    model, data = multinomial(COUNTS, prior=2.0, temperature=0.5)
    fitted = sample(model, data, draws=150, warmup=50, chains=1)
    (stats_,), s = fitted.stats, fitted.draws[0]["0"]
    assert set(stats_) == {"diverging", "energy", "tree_depth", "n_steps"}
    assert all(x.shape == (150,) for x in stats_.values())
    depth, steps = stats_["tree_depth"], stats_["n_steps"]
    # All doublings but the last, which may have been left on the way, are whole: 1 + 2 + 4 + ...
    assert bool((2**depth - 1 <= steps).all())
    assert bool((steps <= 2 ** (depth + 1) - 1).all())
    assert 1 <= int(steps.min()) < int(steps.max())
    # The Hamiltonian: the potential of the draw before, written out, and the kinetic energy of
    # three standard normal momenta.
    log_p = torch.distributions.Dirichlet(torch.full((4,), 2.0, dtype=torch.float64)).log_prob(s)
    log_p = log_p + 0.5 * (torch.tensor(COUNTS) * s.log()).sum(1)
    to_simplex = LogStickBreaking()
    potential = -log_p - to_simplex.log_abs_det_jacobian(to_simplex.inv(s), s)
    kinetic = (stats_["energy"][1:] - potential[:-1]).numpy()
    assert (kinetic > 0).all()
    assert stats.kstest(kinetic, stats.gamma(1.5).cdf).pvalue > 0.01
    short = sample(model, data, draws=5, warmup=5, chains=1, max_tree_depth=1)
    assert short.stats[0]["n_steps"].tolist() == [1] * 5


def test_two_sites_that_trade_off() -> None:
    # f(x) = x g_1 h_1, two units in each layer: the posterior of the first shares on a grid.
    network: Any = nn.Sequential(
        nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
    ).double()
    with torch.no_grad():
        for layer in network:
            layer.weight.zero_()[0, 0] = 1.0
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    y = x + 0.3 * torch.randn_like(x)
    model = SwitchedNetwork(
        network, x[:2], num_data=12, prior=5.0,
        likelihood=lambda out: dist.Normal(out, 0.3).to_event(1),
    )  # fmt: skip
    side = torch.arange(1, 400, dtype=torch.float64) / 400
    a, b = (grid.flatten() for grid in torch.meshgrid(side, side, indexing="ij"))
    log_p = torch.distributions.Normal(4 * a * b * x, 0.3).log_prob(y).sum(0)
    log_p += torch.distributions.Beta(5.0, 5.0).log_prob(torch.stack([a, b])).sum(0)
    p = log_p.softmax(0)

    def moments(values: Tensor) -> tuple[float, float]:
        mean = (p * values).sum()
        return float(mean), float((p * (values - mean) ** 2).sum().sqrt())

    fitted = sample(model, [(x, y)], **ENOUGH)
    s, t = chains_of(fitted, "0")[..., 0], chains_of(fitted, "1")[..., 0]
    truths = [moments(v) for v in (a, b, a * b)]
    for values, (mean, sd) in zip((s, t, s * t), truths, strict=True):
        check_moments(values, mean, sd)
    # Were the sites independent, the product would vary more than 1.5 times as much.
    (m, u), (n, v), (_, sd) = truths
    assert math.hypot(m * v, n * u, u * v) > 1.5 * sd


def test_a_hierarchical_prior() -> None:
    # alpha ~ Gamma(2, 1), s ~ Dirichlet(alpha, ..., alpha): alpha's posterior by quadrature.
    model, data = multinomial(COUNTS, prior="hierarchical:2:1")
    assert model.hyper_sites == ("0_concentration",)
    fitted = sample(model, data, draws=250, warmup=150)
    alpha = (np.arange(40_000) + 0.5) / 1000  # midpoints, to 40: Gamma(2, 1) has 2e-16 beyond
    counts, n, k = np.array(COUNTS), sum(COUNTS), len(COUNTS)
    log_p = stats.gamma(2).logpdf(alpha) + special.gammaln(k * alpha)
    log_p -= special.gammaln(k * alpha + n) + k * special.gammaln(alpha)
    log_p += special.gammaln(alpha[:, None] + counts).sum(1)
    p = special.softmax(log_p)
    mean = p @ alpha
    check_moments(chains_of(fitted, "0_concentration"), mean, math.sqrt(p @ (alpha - mean) ** 2))
    total = k * alpha + n
    first = p @ ((alpha[:, None] + counts) / total[:, None])
    a = alpha[:, None] + counts
    second = p @ (a * (a + 1) / (total * (total + 1))[:, None])
    check_moments(chains_of(fitted, "0"), first, np.sqrt(second - first**2))
    assert set(fitted.draws[0]) == {"0", "0_concentration"}
    assert fitted.draws[0]["0_concentration"].shape == (250,)


def test_the_noise_of_a_gaussian_is_held_where_it_is() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x, y = torch.randn(20, 2, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    options: dict[str, Any] = {"draws": 5, "warmup": 5, "chains": 2}
    model: Any = SwitchedNetwork(network, x[:2], num_data=20, likelihood="gaussian")
    with torch.no_grad():
        model.likelihood.log_scale.fill_(-1.0)
    fitted = sample(model, [(x, y)], **options)
    fixed = SwitchedNetwork(
        network, x[:2], num_data=20,
        likelihood=lambda out: dist.Normal(out, torch.tensor(-1.0).exp().double()).to_event(1),
    )  # fmt: skip
    assert same(sample(fixed, [(x, y)], **options), fitted)
    assert [float(part["likelihood.log_scale"]) for part in fitted.learned] == [-1.0, -1.0]
    assert float(model.likelihood.log_scale.detach()) == -1.0
    assert model.likelihood.log_scale.requires_grad
    assert model.likelihood.log_scale.grad is None


# -- from the reals to the simplex -----------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_stick_breaking_is_torchs_where_that_is_exact(size: int) -> None:
    ours, torchs = LogStickBreaking(), StickBreakingTransform()
    x = 2 * torch.randn(20, size - 1, dtype=torch.float64)
    y = ours(x)
    torch.testing.assert_close(y, torchs(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.inv(y), x, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        ours.log_abs_det_jacobian(x, y), torchs.log_abs_det_jacobian(x, y), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(y.sum(-1), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("first", [3.02, 0.02])
def test_stick_breaking_keeps_the_mass_of_small_concentrations(first: float) -> None:
    # The density of x at K = 2, integrated: Beta(a, b) has mass 1 and its own mean and tail.
    a, b = torch.tensor([first, 3.04 - first], dtype=torch.float64)
    prior = torch.distributions.Dirichlet(torch.stack([a, b]), validate_args=False)
    x = torch.arange(-1500.0, 1500.0, 0.01, dtype=torch.float64)[:, None]

    def mass(transform: StickBreakingTransform) -> tuple[Tensor, Tensor]:
        y = transform(x)
        return y, 0.01 * (prior.log_prob(y) + transform.log_abs_det_jacobian(x, y)).exp()

    y, p = mass(LogStickBreaking())
    # What lies beyond the smallest float counts for 2e-308**.02 = 7e-7 of the mass.
    assert float(p.sum()) == pytest.approx(1, abs=1e-4)
    assert float(p @ y[:, 0]) == pytest.approx(float(a / (a + b)), abs=1e-6)
    small = int(b < a)
    tail = stats.beta(min(float(a), float(b)), max(float(a), float(b))).cdf(1e-20)
    assert tail > 0.3
    assert float(p[y[:, small] < 1e-20].sum()) == pytest.approx(tail, abs=1e-4)
    # torch's own loses it where the last unit is the small one.
    if small == 1:
        assert float(mass(StickBreakingTransform())[1].sum()) < 0.6


@pytest.mark.slow
def test_small_concentrations_are_drawn() -> None:
    # Beta(3.02, .02). With torch's transform no draw has s_2 < 1e-17, where half of the mass is.
    model, data = multinomial([3, 0], prior=0.02)
    fitted = sample(model, data, draws=400, warmup=300, target_accept=0.9)
    tail = (chains_of(fitted, "0")[..., 1] < 1e-17).astype(float)
    tree = az.from_dict({"posterior": {"v": tail}})
    error = float(az.mcse(tree, method="mean")["v"])
    assert error < 0.1
    assert abs(tail.mean() - stats.beta(0.02, 3.02).cdf(1e-17)) < 4 * error


# -- repeatable ------------------------------------------------------------------------------------


def same(a: Fit, b: Fit) -> bool:
    return (
        [list(draws) for draws in a.draws] == [list(draws) for draws in b.draws]
        and all(
            torch.equal(x[name], y[name])
            for x, y in zip(a.draws, b.draws, strict=True)
            for name in x
        )
        and all(
            torch.equal(x[name], y[name])
            for x, y in zip(a.stats, b.stats, strict=True)
            for name in x
        )
    )


FEW: dict[str, Any] = {"draws": 6, "warmup": 6}


def test_same_seed_same_bits(classifier: Classifier, batches: Batches) -> None:
    model = classifier()
    first = sample(model, batches(), seed=4, **FEW)
    torch.rand(17)  # whatever happens in between
    assert same(sample(model, batches(), seed=4, **FEW), first)
    assert not same(sample(model, batches(), seed=5, **FEW), first)
    assert first.seconds > 0


def test_no_chain_depends_on_their_number(classifier: Classifier, batches: Batches) -> None:
    one = sample(classifier(), batches(), chains=1, **FEW)
    three = sample(classifier(), batches(), chains=3, **FEW)
    assert same(Fit([], [], 0.0, draws=three.draws[:1], stats=three.stats[:1]), one)
    assert len({float(draws["0"][0, 0]) for draws in three.draws}) == 3


def test_the_batches_of_the_loader_are_one(classifier: Classifier, batches: Batches) -> None:
    ordered = [
        sample(classifier(), batches(shuffle=False, size=size), chains=1, **FEW)
        for size in (8, 7, 40)
    ]
    assert same(ordered[0], ordered[1])
    assert same(ordered[0], ordered[2])


def test_what_comes_back(classifier: Classifier, batches: Batches) -> None:
    fitted = sample(classifier(temperature=0.25), batches(), **FEW)
    assert fitted.guides == []
    assert fitted.history == []
    assert fitted.learned == [{}, {}]
    assert [list(draws) for draws in fitted.draws] == [["0", "2"]] * 2
    for draws, of_draws in zip(fitted.draws, fitted.stats, strict=True):
        assert {name: tuple(x.shape) for name, x in draws.items()} == {"0": (6, 6), "2": (6, 5)}
        assert all(x.dtype == torch.float64 and not x.requires_grad for x in draws.values())
        assert all(bool((x > 0).all()) for x in draws.values())
        assert of_draws["diverging"].dtype == torch.bool
        assert {name: tuple(x.shape) for name, x in of_draws.items()} == dict.fromkeys(
            ("diverging", "energy", "tree_depth", "n_steps"), (6,)
        )
    expected = {"guide": "NUTS", "draws": 6, "warmup": 6, "chains": 2, "seed": 0,
                "target_accept": 0.8, "max_tree_depth": 8, "temperature": 0.25, "num_data": 40,
                "scaling": "mean-one", "likelihood": "Categorical"}  # fmt: skip
    assert expected.items() <= fitted.settings.items()


def test_the_callers_random_states_store_and_model_are_untouched(
    classifier: Classifier, batches: Batches
) -> None:
    model = classifier()
    mine = pyro.param("mine", torch.ones(2))
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    state, numpy_state, python_state = (
        torch.get_rng_state(),
        np.random.get_state(),
        random.getstate(),
    )
    own = torch.Generator().manual_seed(3)
    sample(model, DataLoader(batches().dataset, 20, shuffle=True, generator=own), **FEW)
    assert torch.equal(own.get_state(), torch.Generator().manual_seed(3).get_state())
    assert torch.equal(torch.get_rng_state(), state)
    assert str(np.random.get_state()) == str(numpy_state)
    assert random.getstate() == python_state
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert torch.equal(pyro.param("mine"), mine)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_divergences_are_told() -> None:
    # Six steps of warm-up are too few for this posterior, whose slope goes from .02 to 3.
    model, data = multinomial([30, 0], prior=0.02)
    fitted = sample(model, data, draws=30, warmup=6)
    assert any(bool(part["diverging"].any()) for part in fitted.stats)


def test_draws_are_float64_also_under_a_prior_in_float32() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    x, y = torch.randn(9, 2), torch.arange(9) % 2
    model = SwitchedNetwork(
        network, x[:2], num_data=9, prior=lambda site: dist.Dirichlet(torch.ones(site.size))
    )
    fitted = sample(model, [(x, y)], **FEW)
    for draws in fitted.draws:
        assert draws["0"].dtype == torch.float64
        torch.testing.assert_close(draws["0"].sum(1), torch.ones(6).double())


def test_mapped_inputs_are_gathered_by_name(batches: Batches) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).tanh())

    network, pairs = Named(), list(batches(shuffle=False))
    by_name = SwitchedNetwork(network, (), example_kwargs={"x": torch.zeros(2, 4)}, num_data=40)
    plain = SwitchedNetwork(network, torch.zeros(2, 4), num_data=40)
    named = sample(by_name, [({"x": x}, y) for x, y in pairs], chains=1, **FEW)
    assert same(named, sample(plain, pairs, chains=1, **FEW))


# -- interrupted and resumed -----------------------------------------------------------------------


class Watched(nn.Module):
    """The categorical likelihood; Ctrl-C is pressed in the n-th call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.press_at = 0, -1

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        self.calls += 1
        if self.calls == self.press_at:
            os.kill(os.getpid(), signal.SIGINT)
        return dist.Categorical(logits=outputs)


@pytest.mark.parametrize("chain", [0, 1])
def test_interrupted_and_resumed_is_the_undisturbed_run(
    classifier: Classifier, batches: Batches, tmp_path: Path, chain: int
) -> None:
    path, calls = tmp_path / "nuts", []

    def run(chains: int = 2, press_at: int = -1, **options: Any) -> Fit:
        likelihood = Watched()
        likelihood.press_at = press_at
        model = SwitchedNetwork(
            classifier().network, torch.zeros(2, 4), num_data=40, likelihood=likelihood
        )
        try:
            return sample(model, batches(), chains=chains, **FEW, **options)
        finally:
            calls.append(likelihood.calls)

    undisturbed = run()
    if chain:
        run(chains=chain)
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        run(press_at=(calls[-1] if chain else 5) + 20, checkpoint=path)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"nuts.{i}" for i in range(chain)]
    assert same(run(checkpoint=path, resume=True), undisturbed)
    # Finished chains were not drawn again: and from the finished state none is.
    assert (calls[-1] < calls[0]) == (chain > 0)
    assert same(run(checkpoint=path, resume=True), undisturbed)
    assert calls[-1] < 10
    # Without resume the old files are overwritten.
    assert same(run(checkpoint=path), undisturbed)
    assert calls[-1] == calls[0]


def test_a_checkpoint_of_another_run_is_refused(
    classifier: Classifier, batches: Batches, tmp_path: Path
) -> None:
    path = tmp_path / "nuts"

    def run(model: SwitchedNetwork, data: Any = None, **options: Any) -> Fit:
        return sample(
            model, batches() if data is None else data, checkpoint=path, **{**FEW, **options}
        )

    first = run(classifier())
    assert same(run(classifier(), resume=True), first)
    assert len(run(classifier(), chains=3, resume=True).draws) == 3
    others = {"draws": 7, "warmup": 7, "seed": 1, "target_accept": 0.9, "max_tree_depth": 7}
    for name, value in others.items():
        with pytest.raises(DirpruneError, match=rf"of another run \(differs in {name}"):
            run(classifier(), resume=True, **{name: value})
    with pytest.raises(DirpruneError, match="differs in temperature"):
        run(classifier(temperature=0.5), resume=True)
    with pytest.raises(DirpruneError, match="differs in prior"):
        run(classifier(prior=0.5), resume=True)
    x, y = (torch.cat(parts) for parts in zip(*batches(shuffle=False), strict=True))
    with pytest.raises(DirpruneError, match=r"differs in data\)"):
        run(classifier(), [(x + 1, y)], resume=True)


def test_a_checkpoint_at_another_noise_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    data = [(torch.randn(9, 2), torch.randn(9, 1))]
    model: Any = SwitchedNetwork(network, data[0][0][:2], num_data=9, likelihood="gaussian")
    sample(model, data, checkpoint=tmp_path / "nuts", **FEW)
    with torch.no_grad():
        model.likelihood.log_scale.fill_(-1.0)
    with pytest.raises(DirpruneError, match=r"differs in noise\)"):
        sample(model, data, checkpoint=tmp_path / "nuts", resume=True, **FEW)


# -- bad arguments and bad data --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["draws", "warmup", "chains", "max_tree_depth"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_counts_are_whole_and_positive(
    classifier: Classifier, batches: Batches, name: str, value: Any
) -> None:
    with pytest.raises(DirpruneError, match=f"{name}: expected a whole number of at least 1"):
        sample(classifier(), batches(), **{name: value})


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, math.nan, math.inf])
def test_the_acceptance_is_a_probability(
    classifier: Classifier, batches: Batches, value: float
) -> None:
    with pytest.raises(DirpruneError, match=r"target_accept: expected a number in \(0, 1\)"):
        sample(classifier(), batches(), target_accept=value)


def test_a_model_that_is_no_switched_network(batches: Batches) -> None:
    with pytest.raises(DirpruneError, match="expected a SwitchedNetwork to sample from, got Lin"):
        sample(nn.Linear(4, 3), batches())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "NUTS: the loader is empty"),
        ([(torch.zeros(39, 4), torch.zeros(39).long())], "has 39 examples, but num_data is 40"),
        ([(torch.zeros(30, 4), torch.zeros(30).long())] * 2, "60 examples, but num_data is 40"),
        ([(torch.zeros(40, 5), torch.zeros(40).long())], r"expected shape \[B, 4\]"),
        ([(torch.zeros(40, 4), torch.full((40,), 3))], "labels from 0 to 2"),
        ([torch.zeros(40, 4)], r"expected batches of \(inputs, targets\)"),
    ],
)
def test_data_that_do_not_fit_are_named(
    classifier: Classifier, data: list[Any], message: str
) -> None:
    with pytest.raises(DirpruneError, match=message) as caught:
        sample(classifier(), data)
    assert "\n" not in str(caught.value)


def test_data_that_are_not_finite_are_named(classifier: Classifier) -> None:
    good = (torch.zeros(20, 4), torch.zeros(20).long())
    bad = (torch.full((20, 4), math.nan), good[1])
    with pytest.raises(NonFiniteError, match="batch 2: not finite: the input images"):
        sample(classifier(), [good, bad])


def test_no_start_of_finite_density() -> None:
    # Targets have probability zero at any gains but one.
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)).double()
    x = torch.randn(5, 2, dtype=torch.float64)
    model = SwitchedNetwork(
        network, x, num_data=5,
        likelihood=lambda out: dist.Uniform(out - 1e-6, out + 1e-6).to_event(1),
    )  # fmt: skip
    with pytest.raises(DirpruneError, match="no start of finite density in 100 tries"):
        sample(model, [(x, network(x).detach())], **FEW)


@pytest.mark.parametrize(("progress", "shown"), [(None, False), (False, False), (True, True)])
def test_the_bar_is_silent_off_a_terminal(
    classifier: Classifier, batches: Batches, capsys: pytest.CaptureFixture[str],
    progress: bool | None, shown: bool,
) -> None:  # fmt: skip
    sample(classifier(), batches(), progress=progress, **FEW)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("NUTS 2/2" in err) == shown
    assert (err != "") == shown
