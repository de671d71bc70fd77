"""The Pyro model: its sites, its density, its priors and likelihoods, and its errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network
from dirprune.model.sites import Site
from dirprune.model.switched import SwitchedNetwork

N = 1000


class Small(nn.Module):
    """A network of two sites."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


@pytest.fixture
def network() -> Small:
    return Small().double()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(8, 5, dtype=torch.float64)


@pytest.fixture
def targets() -> Tensor:
    return torch.arange(8) % 3


def manual(network: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The network with gains, written out."""
    return network.c(b * torch.tanh(network.b(a * torch.tanh(network.a(x)))))


def test_sites(network: Small, inputs: Tensor) -> None:
    model = SwitchedNetwork(network, inputs, num_data=N)
    assert list(model.sites.items()) == [
        ("a", Site("a", 6, ("a",), ("b",))),
        ("b", Site("b", 4, ("b",), ("c",))),
    ]
    assert model.unprunable == {"c": "it is the network's output"}
    assert str(model.sites["a"]) == "a (6 units)"


@pytest.mark.parametrize("temperature", [1.0, 0.01, 3.0])
@pytest.mark.parametrize("scaling", ["mean-one", "simplex"])
@pytest.mark.parametrize("prior", ["symmetric:0.7", "alpha/K:2"])
def test_the_log_density_is_the_sum_it_should_be(
    network: Small, inputs: Tensor, targets: Tensor, temperature: float, scaling: str, prior: str
) -> None:
    model = SwitchedNetwork(
        network, inputs, num_data=N, temperature=temperature, scaling=scaling, prior=prior
    )
    trace = poutine.util.prune_subsample_sites(poutine.trace(model).get_trace(inputs, targets))
    latent = [n for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]]
    assert latent == ["a", "b"]
    switches: dict[str, Any] = {name: trace.nodes[name]["value"] for name in latent}
    assert {name: tuple(s.shape) for name, s in switches.items()} == {"a": (6,), "b": (4,)}
    site: Any = trace.nodes["targets"]
    assert [(f.name, f.size, f.dim) for f in site["cond_indep_stack"]] == [("data", 8, -1)]
    assert site["scale"] == pytest.approx(temperature * N / 8, rel=1e-15)

    sizes = {"a": 6, "b": 4}
    gains: dict[str, Tensor] = {
        k: (sizes[k] if scaling == "mean-one" else 1) * s for k, s in switches.items()
    }
    alpha = {k: 0.7 if prior.startswith("sym") else 2 / n for k, n in sizes.items()}
    terms: list[float] = [
        math.lgamma(n * alpha[k])
        - n * math.lgamma(alpha[k])
        + float(((alpha[k] - 1) * switches[k].log()).sum())
        for k, n in sizes.items()
    ]
    with torch.no_grad():
        logits = manual(network, inputs, gains["a"], gains["b"])
    log_likelihood = -float(F.cross_entropy(logits, targets, reduction="sum"))
    want = sum(terms) + temperature * N / 8 * log_likelihood
    # float64 rounding of a sum of terms of up to a few thousands.
    assert float(trace.log_prob_sum()) == pytest.approx(want, rel=1e-11)


def test_uniform_switches_are_the_trained_network(network: Small, inputs: Tensor) -> None:
    model = SwitchedNetwork(network, inputs, num_data=N)
    switches = {n: torch.full((s.size,), 1 / s.size).double() for n, s in model.sites.items()}
    # 1/6 is rounded to float32 above, so the gain is one to 1e-7.
    torch.testing.assert_close(
        model.outputs(inputs, switches), network(inputs).detach(), rtol=1e-6, atol=1e-6
    )


def test_rows_of_switches_serve_the_examples_in_turn(network: Small, inputs: Tensor) -> None:
    model = SwitchedNetwork(network, inputs, num_data=N)
    rows = {
        n: dist.Dirichlet(torch.ones(s.size).double()).sample(torch.Size((3,)))
        for n, s in model.sites.items()
    }
    together = model.outputs(inputs, rows)
    for i in range(8):
        own = {name: s[i % 3] for name, s in rows.items()}
        # The same numbers, but in a matrix product of another shape: float64 rounding.
        torch.testing.assert_close(
            together[i], model.outputs(inputs[i : i + 1], own)[0], rtol=1e-12, atol=1e-12
        )


def test_targets_are_sampled_when_not_given(network: Small, inputs: Tensor) -> None:
    model = SwitchedNetwork(network, inputs, num_data=4, temperature=0.1)
    with torch.no_grad():  # a batch larger than num_data is fine: nothing is scaled
        drawn = torch.stack([model(inputs) for _ in range(20)])
    assert drawn.shape == (20, 8)
    assert set(drawn.unique().tolist()) <= {0, 1, 2}


def test_targets_observed_by_a_handler_are_scaled_too(
    network: Small, inputs: Tensor, targets: Tensor
) -> None:
    model = SwitchedNetwork(network, inputs, num_data=N, temperature=0.3)
    switches = {n: torch.full((s.size,), 1 / s.size).double() for n, s in model.sites.items()}
    given = poutine.condition(model, data=switches)
    handled = poutine.condition(model, data={**switches, "targets": targets})
    expected = poutine.trace(given).get_trace(inputs, targets).log_prob_sum()
    assert float(poutine.trace(handled).get_trace(inputs).log_prob_sum()) == float(expected)


def test_predictive(network: Small, inputs: Tensor) -> None:
    model = SwitchedNetwork(network, inputs, num_data=N)
    draws = Predictive(model, num_samples=5, parallel=False)(inputs)
    assert {n: tuple(d.shape) for n, d in draws.items()} == {
        "a": (5, 1, 6),  # the plate's axis, as Pyro adds it
        "b": (5, 1, 4),
        "targets": (5, 8),
    }
    # Draws lie on the simplex to float64 rounding.
    assert float((draws["a"].sum(-1) - 1).abs().max()) < 1e-12
    with pytest.raises(DirpruneError, match="With Predictive use parallel=False"):
        Predictive(model, num_samples=5, parallel=True)(inputs)


class Scale(nn.Module):
    """y = w2 relu(w1 x) with two hidden units, of which one does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.a.weight.fill_(1.0)
            self.b.weight.copy_(torch.tensor([[2.0, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def test_nuts_finds_the_posterior_by_quadrature() -> None:
    x = torch.rand(20, 1, dtype=torch.float64) + 0.5
    y = 3.0 * x  # gain 1.5 on unit 0, hence the switch (.75, .25)

    def likelihood(outputs: Tensor) -> dist.TorchDistribution:
        return dist.Normal(outputs, 0.5).to_event(1)

    model = SwitchedNetwork(Scale().double(), x, num_data=20, likelihood=likelihood)
    # On K = 2 the posterior is a density of one number, s_0, with a flat prior.
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)[1:-1]
    log_p = dist.Normal(2 * 2 * grid * x, 0.5).log_prob(y).sum(0)
    weight = (log_p - log_p.max()).exp()
    mean = float((weight * grid).sum() / weight.sum())
    sd = math.sqrt(float((weight * (grid - mean) ** 2).sum() / weight.sum()))
    with pyro.validation_enabled(False):
        mcmc = MCMC(
            NUTS(model, jit_compile=False), num_samples=300, warmup_steps=100,
            disable_progbar=True,
        )  # fmt: skip
        mcmc.run(x, y)
    draws = mcmc.get_samples()["a"][:, 0]
    # With at least 60 effective draws of 300 the mean is within 4 sd / sqrt(60).
    assert float(draws.mean()) == pytest.approx(mean, abs=4 * sd / math.sqrt(60))
    # The relative error of an sd from 60 draws is 9 %; four of these.
    assert float(draws.std()) == pytest.approx(sd, rel=0.4)


# -- priors and likelihoods -----------------------------------------------------------------------


def test_a_prior_may_be_any_callable(network: Small, inputs: Tensor, targets: Tensor) -> None:
    seen = []

    def informed(site: Site) -> dist.TorchDistribution:
        seen.append(site.name)
        return dist.Dirichlet(torch.arange(1, site.size + 1, dtype=torch.float64))

    model = SwitchedNetwork(network, inputs, num_data=N, prior=informed)
    assert seen == ["a", "b"]
    trace = poutine.trace(model).get_trace(inputs, targets)
    prior: Any = trace.nodes["b"]["fn"]
    assert prior.concentration.tolist() == [1, 2, 3, 4]
    with pytest.raises(DirpruneError, match="prior of site 'a': expected a distribution on the si"):
        SwitchedNetwork(
            network, inputs, num_data=N, prior=lambda site: dist.Dirichlet(torch.ones(3))
        )


def test_the_gaussian_likelihood(inputs: Tensor) -> None:
    network = Small(outputs=2).double()
    model = SwitchedNetwork(network, inputs, num_data=N, likelihood="gaussian")
    targets = torch.randn(8, 2, dtype=torch.float64)
    trace = poutine.trace(model).get_trace(inputs, targets)
    nodes: dict[str, Any] = trace.nodes
    gains = model.gains({n: nodes[n]["value"] for n in model.sites})
    mean = manual(network, inputs, gains["a"][0], gains["b"][0]).detach()
    want = N / 8 * float(dist.Normal(mean, 1.0).log_prob(targets).sum())
    trace.compute_log_prob()
    assert float(nodes["targets"]["log_prob_sum"].detach()) == pytest.approx(want, rel=1e-12)


def test_the_gaussian_noise_is_learned_to_its_known_value() -> None:
    torch.manual_seed(1)
    network = Small(outputs=2).double()
    x = torch.randn(500, 5, dtype=torch.float64)
    model = SwitchedNetwork(network, x, num_data=500, likelihood="gaussian")
    noise = 0.3 * torch.randn(500, 2, dtype=torch.float64)
    y = network(x).detach() + noise

    def guide(*_: Any) -> None:
        # The switches at uniform (to 1e-4): the means are then the network's outputs.
        for name, site in model.sites.items():
            pyro.sample(name, dist.Dirichlet(torch.full((site.size,), 1e6, dtype=torch.float64)))

    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    elbo = Trace_ELBO()
    for _ in range(150):
        optimiser.zero_grad()
        elbo.differentiable_loss(model, guide, x, y).backward()
        optimiser.step()
    likelihood: Any = model.likelihood
    # The optimum is the noise's own root mean square; Adam at .1 settles within 2 % of it.
    rms = float((noise**2).mean().sqrt())
    assert float(likelihood.log_scale.exp().detach()) == pytest.approx(rms, rel=0.02)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["likelihood.log_scale"]


def test_one_output_without_an_axis() -> None:
    class Flat(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, 0]

    x = torch.randn(4, 5)
    model = SwitchedNetwork(Flat(), x, num_data=N, likelihood="gaussian")
    assert model(x).shape == (4,)


# -- what networks take and return ----------------------------------------------------------------


class Mapped(nn.Module):
    """Two inputs, one by keyword, and a mapping of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 6), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, *, other: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.a(x)) + torch.relu(self.b(other))
        return {"hidden": hidden.sum(1) * 0, "out": self.c(hidden)}


class Pair(Small):
    """Two positional inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x * y)


def test_several_inputs() -> None:
    x, y = torch.randn(4, 5), torch.randn(4, 5)
    network = Pair()
    model = SwitchedNetwork(network, (x, y), num_data=N)
    ones = {n: torch.ones(1, s.size) for n, s in model.sites.items()}
    # float32 rounding (1e-7) through three layers.
    torch.testing.assert_close(
        model.outputs_at_gains((x, y), ones), network(x, y).detach(), rtol=1e-5, atol=1e-6
    )


def test_keyword_inputs_and_a_choice_of_output() -> None:
    x, other = torch.randn(4, 5), torch.randn(4, 4)
    network = Mapped()

    class Plain(Mapped):
        def forward(self, x: Tensor, *, other: Tensor) -> Any:
            return {"out": self.c(torch.relu(self.a(x)) + torch.relu(self.b(other)))}

    plain = Plain()
    plain.load_state_dict(network.state_dict())
    model = SwitchedNetwork(
        plain, x, num_data=N, example_kwargs={"other": other}, output=lambda out: out["out"]
    )
    assert model.sites["a"].producers == ("a", "b")
    out = model.outputs_at_gains({"x": x, "other": other}, {"a": torch.ones(1, 6)})
    # float32 rounding, as above.
    torch.testing.assert_close(out, network(x, other=other)["out"].detach(), rtol=1e-5, atol=1e-6)
    no_choice = SwitchedNetwork(plain, x, num_data=N, example_kwargs={"other": other})
    with pytest.raises(DirpruneError, match=r"Plain returns a dict, not a tensor: .* by output="):
        no_choice({"x": x, "other": other})


def test_a_flag_among_the_keywords_is_that_of_the_example() -> None:
    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, *, double: bool = False) -> Tensor:
            return self.b(torch.relu(self.a(x)) * (2 if double else 1))

    network, x = Flagged(), torch.randn(4, 5)
    ones = {"a": torch.ones(1, 6)}
    for flag in (True, False):
        model = SwitchedNetwork(network, x, num_data=N, example_kwargs={"double": flag})
        # float32 rounding, as above.
        torch.testing.assert_close(
            model.outputs_at_gains(x, ones),
            network(x, double=flag).detach(),
            rtol=1e-5,
            atol=1e-6,
        )


def test_one_positional_input_may_be_a_mapping() -> None:
    class Batch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.b(torch.relu(self.a(batch["x"])))

    network, x = Batch(), torch.randn(4, 5)
    model = SwitchedNetwork(network, ({"x": x},), num_data=N)
    for inputs in ({"x": x}, ({"x": x},)):
        # float32 rounding, as above.
        torch.testing.assert_close(
            model.outputs_at_gains(inputs, {"a": torch.ones(1, 6)}),
            network({"x": x}).detach(),
            rtol=1e-5,
            atol=1e-6,
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_body_runs_in_the_networks_precision(dtype: torch.dtype) -> None:
    network = Small().to(dtype)
    x = torch.randn(4, 5, dtype=dtype)
    model = SwitchedNetwork(network, x, num_data=N)
    assert model.body_dtype == dtype
    switches = model.sample_switches()
    assert {s.dtype for s in switches.values()} == {torch.float64}
    assert model.outputs(x, switches).dtype == dtype


def test_include_and_exclude(network: Small, inputs: Tensor) -> None:
    assert list(SwitchedNetwork(network, inputs, num_data=N, include=["b"]).sites) == ["b"]
    assert list(SwitchedNetwork(network, inputs, num_data=N, exclude=["b"]).sites) == ["a"]


# -- the user's network ---------------------------------------------------------------------------


def test_the_users_network_is_left_as_it_was(inputs: Tensor) -> None:
    network = build_network("digits-cnn", num_classes=3, in_channels=1, size=8).train()
    network.get_parameter("conv1.bias").requires_grad_(False)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    flags = [p.requires_grad for p in network.parameters()]
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 3
    model = SwitchedNetwork(network, images, num_data=N)

    def guide(*_: Any) -> None:
        for name, site in model.sites.items():
            phi = pyro.param(
                f"phi.{name}",
                torch.ones(site.size).double(),
                constraint=dist.constraints.positive,
            )
            pyro.sample(name, dist.Dirichlet(phi))

    svi = SVI(model, guide, pyro.optim.PyroOptim(torch.optim.Adam, {"lr": 0.05}), Trace_ELBO())
    for _ in range(3):
        svi.step(images, labels)
    assert network.training
    assert flags == [p.requires_grad for p in network.parameters()]
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    assert model.network is network
    assert not set(map(id, network.parameters())) & set(map(id, model.parameters()))
    assert not any(p.requires_grad for p in model.parameters())


def test_train_mode_does_not_reach_the_body() -> None:
    class Noisy(Small):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x), 0.5, self.training)

    x = torch.randn(4, 5)
    model = SwitchedNetwork(Noisy(), x, num_data=N).train()
    ones = {n: torch.ones(1, s.size) for n, s in model.sites.items()}
    assert torch.equal(model.outputs_at_gains(x, ones), model.outputs_at_gains(x, ones))


def test_a_copy_is_the_same_model(network: Small, inputs: Tensor, targets: Tensor) -> None:
    model = SwitchedNetwork(network, inputs, num_data=N)
    densities = []
    for each in (model, copy.deepcopy(model)):
        pyro.set_rng_seed(3)
        densities.append(float(poutine.trace(each).get_trace(inputs, targets).log_prob_sum()))
    assert densities[0] == densities[1]


# -- bad arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_data": 0}, "num_data: expected the number of training images, got 0"),
        ({"num_data": 10.5}, "num_data: .* got 10.5"),
        ({"num_data": True}, "num_data: .* got True"),
        ({"temperature": 0.0}, "temperature: expected a positive number, got 0"),
        ({"temperature": -1.0}, "temperature: .* got -1"),
        ({"temperature": math.nan}, "temperature: .* got nan"),
        ({"temperature": math.inf}, "temperature: .* got inf"),
        ({"scaling": "meanone"}, "unknown scaling 'meanone'; did you mean 'mean-one'"),
        ({"prior": "symetric"}, "unknown prior 'symetric'; did you mean 'symmetric'"),
        ({"prior": -1.0}, "a concentration must be positive and finite, got -1"),
        ({"likelihood": "catgorical"}, "unknown likelihood 'catgorical'; did you mean 'categ"),
        ({"likelihood": 3}, "likelihood: expected a name or a callable outputs"),
        ({"include": ["d"]}, "unknown layer 'd'"),
        ({"include": ["c"]}, "layer 'c' cannot be pruned: it is the network's output"),
        ({"exclude": ["a", "b"]}, r"Small has nothing to prune \(c: it is the .*include/exclude"),
        ({"example_inputs": torch.randn(2, 7)}, r"Small fails on the example inputs \(float32\[2,"),
        ({"example_inputs": ()}, "Small fails on the example inputs"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"example_inputs": torch.randn(2, 5), "num_data": N, **options}
    with pytest.raises(DirpruneError, match=message):
        SwitchedNetwork(Small(), **arguments)


def test_a_network_with_nothing_to_prune() -> None:
    with pytest.raises(DirpruneError, match=r"Linear has nothing to prune .*the network's output"):
        SwitchedNetwork(nn.Linear(5, 2), torch.randn(2, 5), num_data=N)
    with pytest.raises(DirpruneError, match=r"Identity has nothing to prune \(no layer with units"):
        SwitchedNetwork(nn.Identity(), torch.randn(2, 5), num_data=N)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, x: m(x, torch.zeros(7, dtype=torch.long)),
            r"8 outputs but targets of shape \[7\]",
        ),
        (
            lambda m, x: m(x, torch.zeros((), dtype=torch.long)),
            r"8 outputs but targets of shape \[\]",
        ),
        (
            lambda m, x: m(torch.cat([x, x]), torch.zeros(16, dtype=torch.long)),
            "a batch of 16 examples, but num_data is 10",
        ),
        (
            lambda m, x: m.outputs(x, {"a": torch.ones(5), "b": torch.ones(4)}),
            r"switch of site 'a': expected shape \[6\] or \[draws, 6\], got \[5\]",
        ),
    ],
)
def test_bad_batches(
    network: Small, inputs: Tensor, call: Callable[[Any, Tensor], object], message: str
) -> None:
    model = SwitchedNetwork(network, inputs, num_data=10)
    with pytest.raises(DirpruneError, match=message):
        call(model, inputs)
