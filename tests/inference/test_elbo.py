"""The ELBO of a learned guide, against closed forms and on a batch at a time."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.special import digamma, gammaln
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from dirprune.guides import AutoDirichlet
from dirprune.inference.elbo import estimate_elbo
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

F64 = torch.float64
COUNTS = torch.tensor([10, 3, 1, 0])
LABELS = torch.arange(4).repeat_interleave(COUNTS)


def multinomial(temperature: float = 1.0) -> SwitchedNetwork:
    """y_i ~ Categorical(s), s ~ Dirichlet(1): the network hands its switch through."""
    network = nn.Sequential(nn.Linear(1, 4, bias=False), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[1].weight.copy_(torch.eye(4))
    return SwitchedNetwork(
        network,
        torch.ones(2, 1, dtype=F64),
        num_data=14,
        scaling="simplex",
        temperature=temperature,
        likelihood=lambda out: dist.Categorical(probs=out),
    )


def batches(size: int) -> list[tuple[Tensor, Tensor]]:
    order = torch.randperm(14, generator=torch.Generator().manual_seed(0))
    x = torch.ones(14, 1, dtype=F64)
    return [(x[i], LABELS[i]) for i in order.split(size)]


def with_concentration(model: SwitchedNetwork, phi: Tensor) -> AutoDirichlet:
    guide = AutoDirichlet(model)
    setattr(guide, "concentration/0", phi)
    return guide


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_elbo_is_the_closed_form(temperature: float) -> None:
    """tau sum_k n_k E_q[log s_k] - KL(q || Dirichlet(1)), within four standard errors."""
    model, phi = multinomial(temperature), torch.tensor([6.0, 3.0, 2.0, 1.5], dtype=F64)
    total = phi.sum()
    log_s = digamma(phi) - digamma(total)
    kl = gammaln(total) - gammaln(phi).sum() - math.lgamma(4) + ((phi - 1) * log_s).sum()
    exact = float(temperature * (COUNTS * log_s).sum() - kl)
    value, error = estimate_elbo(
        model, with_concentration(model, phi), batches(7), passes=100, particles=7
    )
    assert abs(value - exact) < 4 * error
    assert error < 0.2


def test_at_the_posterior_it_is_the_evidence() -> None:
    """log p(y) = log B(1 + n) - log B(1)."""
    model, phi = multinomial(), 1.0 + COUNTS.double()
    evidence = float(gammaln(phi).sum() - gammaln(phi.sum()) + math.lgamma(4))
    value, error = estimate_elbo(
        model, with_concentration(model, phi), batches(14), passes=400, particles=14
    )
    assert abs(value - evidence) < 4 * error


def test_batches_of_unequal_size_count_by_their_size() -> None:
    """Without noise (a guide that is nearly a point) every split of the data gives one answer."""
    model = multinomial()
    guide = with_concentration(model, 1e9 * torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=F64))
    whole, _ = estimate_elbo(model, guide, batches(14))
    split, _ = estimate_elbo(model, guide, batches(5))
    # 1e9 leaves a relative sd of 1e-4.5 in s: .001 nats over 14 examples.
    assert split == pytest.approx(whole, abs=0.01)


def test_it_leaves_everything_as_it_was_and_repeats() -> None:
    model = multinomial()
    guide, state = AutoDirichlet(model), torch.get_rng_state()
    first = estimate_elbo(model, guide, batches(5), seed=1)
    assert first == estimate_elbo(model, guide, batches(5), seed=1)
    assert first != estimate_elbo(model, guide, batches(5), seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in guide.parameters())


def test_generators_of_the_loader_are_left_alone() -> None:
    model, own = multinomial(), torch.Generator().manual_seed(3)
    guide, data = AutoDirichlet(model), TensorDataset(torch.ones(14, 1, dtype=F64), LABELS)
    found = []
    for loader in (
        DataLoader(data, 5, shuffle=True, generator=own),
        DataLoader(data, 5, sampler=RandomSampler(data, generator=own)),
    ):
        state = own.get_state()
        found.append(estimate_elbo(model, guide, loader))
        assert torch.equal(own.get_state(), state)
        own.manual_seed(4)
        assert estimate_elbo(model, guide, loader) == found[-1]


def test_one_batch_has_no_standard_error_and_no_batch_is_refused() -> None:
    model = multinomial()
    assert math.isnan(estimate_elbo(model, AutoDirichlet(model), batches(14))[1])
    with pytest.raises(DirpruneError, match="the loader is empty"):
        estimate_elbo(model, AutoDirichlet(model), [])


@pytest.mark.parametrize("what", ["passes", "particles"])
@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_numbers_are_at_least_one(what: str, number: float) -> None:
    model = multinomial()
    with pytest.raises(DirpruneError, match=f"{what}: expected a whole number of at least 1"):
        estimate_elbo(model, AutoDirichlet(model), batches(7), **{what: number})  # type: ignore[arg-type]
