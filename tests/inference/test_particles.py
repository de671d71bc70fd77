"""P switches for a batch: the same expected ELBO and gradient as with one, and less variance."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn
from torch.distributions import kl_divergence

from dirprune.guides import AutoDirichlet
from dirprune.inference.data import load_data
from dirprune.inference.particles import Particles
from dirprune.model.switched import SwitchedNetwork

Classifier = Callable[..., SwitchedNetwork]
BATCH = 12


class Unscaled(Particles):
    """Draws P times as Particles does, and forgets to divide."""

    def _pyro_sample(self, msg: Any) -> None:
        scale = msg["scale"]
        super()._pyro_sample(msg)
        msg["scale"] = scale


def silent(outputs: Tensor) -> dist.TorchDistribution:
    """A likelihood that says nothing: its log probability is 0 whatever the outputs."""
    return dist.Unit(outputs.new_zeros(len(outputs)))


def uneven_guide(model: SwitchedNetwork) -> AutoDirichlet:
    """A guide away from the prior, of unequal concentrations."""
    guide = AutoDirichlet(model)
    for i, site in enumerate(model.sites.values()):
        values = 0.5 + torch.arange(site.size, dtype=torch.float64) * (1 + i)
        setattr(guide, f"concentration/{site.name}", values)
    return guide


def closed_form_kl(model: SwitchedNetwork, guide: AutoDirichlet) -> tuple[float, dict[str, Tensor]]:
    """sum_l KL(q_l || p_l) and its gradient in the concentrations, by autograd through torch's."""
    total, gradients = 0.0, {}
    for name, value in guide.concentration().items():
        phi = value.requires_grad_()
        prior = torch.distributions.Dirichlet(torch.ones_like(phi))
        kl = kl_divergence(torch.distributions.Dirichlet(phi), prior)
        total += kl.item()
        gradients[name] = torch.autograd.grad(kl, phi)[0]
    return total, gradients


def samples(
    loss: Callable[..., Tensor], particles: int, number: int, inputs: Tensor, targets: Tensor
) -> Tensor:
    """``number`` draws of (loss, its whole gradient), as rows."""
    parameters = [p for p in loss.parameters() if p.requires_grad]  # type: ignore[attr-defined]
    rows = []
    for _ in range(number):
        with Particles(particles):
            value = loss(inputs, targets)
        gradients = torch.autograd.grad(value, parameters)
        rows.append(torch.cat([value.detach().view(1), *[g.flatten() for g in gradients]]))
    return torch.stack(rows)


def assert_same_mean(a: Tensor, b: Tensor) -> None:
    """Every column's means within five standard errors of their difference."""
    error = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    assert bool(((a.mean(0) - b.mean(0)).abs() <= 5 * error).all()), (
        ((a.mean(0) - b.mean(0)) / error).abs().max()
    )
    # and so precisely that half a gradient, or half a loss, more would be seen
    assert bool((10 * error[0] < a.mean(0)[0].abs()).all())
    assert float(5 * error[1:].norm()) < 0.5 * float(a.mean(0)[1:].norm())


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    inputs = torch.randn(BATCH, 4, dtype=torch.float64)
    return inputs, torch.randint(3, (BATCH,))


@pytest.mark.parametrize("particles", [1, 4, 5, BATCH, 20])
def test_kl_counts_once(classifier: Classifier, particles: int) -> None:
    # Without a likelihood the loss is the KL, which TraceMeanField_ELBO has in closed form: equal
    # to rounding (P terms of 1/P: a few ulp of 2e-16), and so is its gradient.
    model = classifier(double=True, likelihood=silent)
    guide = uneven_guide(model)
    loss = guide.elbo()(model, guide)
    with Particles(particles):
        value = loss(torch.zeros(BATCH, 4, dtype=torch.float64), torch.zeros(BATCH, 0))
    value.backward()
    kl, gradients = closed_form_kl(model, guide)
    assert value.item() == pytest.approx(kl, rel=1e-12)
    for name, phi in guide.concentration().items():
        # d/d(unconstrained) = (phi - floor) d/d(phi): greater_than is lower + exp(x).
        parameter = guide.get_parameter(f"concentration/{name}_unconstrained")
        assert parameter.grad is not None
        slope = parameter.detach().exp() * gradients[name]
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-10, atol=1e-12)
        assert parameter.shape == phi.shape


def test_a_model_scaled_alone_counts_the_kl_p_times(classifier: Classifier) -> None:
    # Why the handler is around both: the KL takes the guide's scale.
    model = classifier(double=True, likelihood=silent)
    guide = uneven_guide(model)
    lonely = TraceMeanField_ELBO()
    value = lonely.loss(
        Particles(4)(model),
        Unscaled(4)(guide),
        torch.zeros(BATCH, 4, dtype=torch.float64),
        torch.zeros(BATCH, 0),
    )
    assert value == pytest.approx(4 * closed_form_kl(model, guide)[0], rel=1e-12)


def test_expected_loss_and_gradient_do_not_depend_on_p(
    classifier: Classifier, data: tuple[Tensor, Tensor]
) -> None:
    # P = 5 does not divide the batch of 12, and P = 20 exceeds it.
    model = classifier(double=True)
    guide = uneven_guide(model)
    loss = guide.elbo()(model, guide)
    one = samples(loss, 1, 1200, *data)
    for particles in (4, 5, BATCH, 20):
        assert_same_mean(one, samples(loss, particles, 500, *data))


def test_one_switch_per_example_lowers_the_gradients_variance(trained: nn.Module) -> None:
    # On a trained network the examples of a batch agree about a switch (all lose by a bad one).
    # Measured on digits-cnn at the guide's start, batch 64, 150 draws: .50 (P = 4), .22 (P = 64) of
    # the variance at P = 1; 100 draws know such a ratio to about 15 %.
    images, labels = load_data("digits").train[list(range(64))]
    model = SwitchedNetwork(trained, images[:2], num_data=1000)
    guide = AutoDirichlet(model)
    loss = guide.elbo()(model, guide)
    variance = {
        p: float(samples(loss, p, 100, images, labels)[:, 1:].double().var(0).sum())
        for p in (1, 4, 64)
    }
    assert variance[4] < 0.75 * variance[1]
    assert variance[64] < 0.45 * variance[1]


def test_independent_switches_vary_as_the_examples_do(classifier: Classifier) -> None:
    # A batch of one example repeated: P draws average P independent copies of the same gradient,
    # so that the variance is 1/P of one draw's, exactly; 700 draws know it to about 15 %.
    model = classifier(double=True)
    guide = uneven_guide(model)
    loss = guide.elbo()(model, guide)
    inputs = torch.randn(1, 4, dtype=torch.float64).expand(BATCH, 4)
    targets = torch.ones(BATCH, dtype=torch.long)
    variance = {
        p: float(samples(loss, p, 700, inputs, targets)[:, 1:].var(0).sum()) for p in (1, BATCH)
    }
    assert variance[BATCH] * BATCH / variance[1] == pytest.approx(1, abs=0.35)


def test_a_guide_of_pyros_has_the_same_expectation_too(
    classifier: Classifier, data: tuple[Tensor, Tensor]
) -> None:
    # AutoNormal ends in a Delta that already has the particles' shape; its ELBO is Trace_ELBO.
    model = classifier(double=True)
    guide = AutoNormal(model, init_scale=0.5)
    guide(*data)
    loss = Trace_ELBO()(model, guide)
    one = samples(loss, 1, 900, *data)
    for particles in (4, BATCH):
        assert_same_mean(one, samples(loss, particles, 300, *data))


def test_sites_in_a_plate_of_their_own_and_observations_are_left_alone(
    classifier: Classifier, data: tuple[Tensor, Tensor]
) -> None:
    model = classifier(double=True)
    with Particles(4):
        trace = poutine.trace(model).get_trace(*data)
    trace.compute_log_prob()
    nodes: dict[str, Any] = dict(trace.nodes)
    for name, site in model.sites.items():
        assert nodes[name]["value"].shape == (4, site.size)
        assert nodes[name]["scale"] == 0.25
    assert nodes["targets"]["log_prob"].shape == (BATCH,)
    assert float(nodes["targets"]["scale"]) == pytest.approx(40 / BATCH)
