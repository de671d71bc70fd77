"""Taylor and Fisher against autograd through another forward pass, and against each other."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from dirprune.analysis.evidence import Passes, evidence, removal_cost
from dirprune.analysis.evidence.switches import fixed_batches, fixed_images
from dirprune.model.errors import DirpruneError
from dirprune.model.switched import SwitchedNetwork

Problem = Any  # of conftest.py


def slopes_of_batches(problem: Problem, batches: list[Tensor]) -> dict[str, Tensor]:
    """d (mean loss of each batch) / d gates: site -> [batches, K]."""
    found: dict[str, list[Tensor]] = {site: [] for site in problem.model.sites}
    for batch in batches:
        gates = {site: g.requires_grad_() for site, g in problem.gates().items()}
        loss = problem.losses(gates)[batch].mean()
        for site, slope in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
            found[site].append(slope)
    return {site: torch.stack(parts) for site, parts in found.items()}


def test_fisher_is_the_mean_squared_slope_of_single_examples(problem: Problem) -> None:
    slopes = slopes_of_batches(problem, list(torch.arange(11)[:, None]))
    found = evidence("fisher", problem.model, None, problem.loader)
    assert list(found) == list(slopes)
    for site, scores in found.items():
        torch.testing.assert_close(scores.scores, slopes[site].square().mean(0), rtol=1e-9, atol=0)
        assert scores.unit == "nats"
        assert scores.across_sites
    assert found.passes == Passes(11, 11)


def test_taylor_is_the_mean_squared_slope_of_batches(problem: Problem) -> None:
    # 11 images in batches of at most 4: as even as can be, those are 4, 4 and 3.
    slopes = slopes_of_batches(problem, list(torch.arange(11).split([4, 4, 3])))
    found = evidence("taylor:batch=4", problem.model, None, problem.loader)
    for site, scores in found.items():
        torch.testing.assert_close(scores.scores, slopes[site].square().mean(0), rtol=1e-9, atol=0)
        assert scores.across_sites
    assert found.passes == Passes(11, 11)
    # with fewer images than a batch there is one batch
    (whole,) = (
        evidence("taylor:batch=32", problem.model, None, problem.loader)[site].scores
        for site in list(slopes)[:1]
    )
    once = slopes_of_batches(problem, [torch.arange(11)])
    torch.testing.assert_close(whole, next(iter(once.values()))[0].square(), rtol=1e-9, atol=0)


def test_taylor_of_single_images_is_fisher(problem: Problem) -> None:
    taylor = evidence("taylor:batch=1", problem.model, None, problem.loader)
    fisher = evidence("fisher", problem.model, None, problem.loader)
    for site, scores in fisher.items():
        torch.testing.assert_close(taylor[site].scores, scores.scores, rtol=1e-12, atol=0)


def test_fisher_is_the_removal_cost_at_gains_of_one(problem: Problem) -> None:
    model = problem.model
    uniform = {
        name: torch.full((1, site.size), 1 / site.size, dtype=torch.float64)
        for name, site in model.sites.items()
    }
    costs = removal_cost(model, uniform, problem.inputs, problem.targets)
    for site, scores in evidence("fisher", model, None, problem.loader).items():
        torch.testing.assert_close(scores.scores, costs[site][0], rtol=1e-9, atol=0)


def test_images_are_the_first_of_the_loader(problem: Problem) -> None:
    slopes = slopes_of_batches(problem, list(torch.arange(6)[:, None]))
    found = evidence("fisher", problem.model, None, problem.loader, images=6)
    site = next(iter(slopes))
    torch.testing.assert_close(found[site].scores, slopes[site].square().mean(0))
    assert found.passes == Passes(6, 6)


@pytest.mark.parametrize("name", ["fisher", "taylor"])
def test_no_gradient_is_left_behind(problem: Problem, name: str) -> None:
    evidence(name, problem.model, None, problem.loader)
    assert all(p.grad is None for p in problem.model.network.parameters())


class Read:
    """The examples in batches of three; ``log`` has what happened."""

    def __init__(self, problem: Problem, log: list[str]) -> None:
        self.problem, self.log = problem, log

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(0, 11, 3):
            self.log.append("read")
            yield self.problem.inputs[i : i + 3], self.problem.targets[i : i + 3]


@pytest.mark.parametrize("name", ["fisher", "taylor:batch=4"])
def test_one_batch_is_held_at_a_time(
    problem: Problem, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    log: list[str] = []
    outputs = SwitchedNetwork.outputs_at_gains

    def logged(self: SwitchedNetwork, inputs: Any, gains: Any) -> Tensor:
        log.append("pass")
        return outputs(self, inputs, gains)

    wanted = evidence(name, problem.model, None, problem.loader, images=8)
    monkeypatch.setattr(SwitchedNetwork, "outputs_at_gains", logged)
    found = evidence(name, problem.model, None, Read(problem, log), images=8)
    assert log == ["read", "pass"] * 3
    assert found.passes == Passes(8, 8)
    for site, scores in wanted.items():
        torch.testing.assert_close(found[site].scores, scores.scores, rtol=1e-12, atol=0)


def test_large_images_are_passed_in_parts_of_the_loaders_batch(problem: Problem) -> None:
    images = torch.zeros(1).expand(7, 2**21)  # usual_batch: two of them
    with fixed_batches(problem.model, [(images, torch.arange(7))], 5) as batches:
        targets = [t.tolist() for _, t in batches]
    assert targets == [[0, 1], [2, 3], [4]]


def test_images_are_fixed_and_generators_put_back(problem: Problem) -> None:
    data = TensorDataset(problem.inputs, problem.targets)
    found = []
    for seed in (3, 4):
        own = torch.Generator().manual_seed(seed)
        shuffling = DataLoader(data, 4, sampler=RandomSampler(data, generator=own))
        state = own.get_state()
        inputs, targets = fixed_images(problem.model, shuffling, 6)
        assert torch.equal(own.get_state(), state)
        alone = evidence("fisher", problem.model, None, [(inputs, targets)])
        streamed = evidence("fisher", problem.model, None, shuffling, images=6)
        assert torch.equal(own.get_state(), state)
        for site, scores in alone.items():
            torch.testing.assert_close(streamed[site].scores, scores.scores, rtol=1e-12, atol=0)
        found.append(inputs)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], problem.inputs[:6])


def test_generators_are_put_back_after_an_error(problem: Problem) -> None:
    own = torch.Generator().manual_seed(3)
    # Triples, which are refused at the first batch.
    data = TensorDataset(problem.inputs, problem.targets, problem.targets)
    loader = DataLoader(data, 4, shuffle=True, generator=own)
    state, general = own.get_state(), torch.get_rng_state()
    with pytest.raises(DirpruneError, match="expected batches of"):
        fixed_images(problem.model, loader, 6)
    assert torch.equal(own.get_state(), state)
    assert torch.equal(torch.get_rng_state(), general)


@pytest.mark.parametrize("name", ["fisher", "taylor"])
def test_images_that_are_not_finite_are_refused(problem: Problem, name: str) -> None:
    inputs, targets = next(iter(problem.loader))
    bad = [(inputs * torch.nan, targets)]
    with pytest.raises(DirpruneError, match="outputs are not finite"):
        evidence(name, problem.model, None, bad)
