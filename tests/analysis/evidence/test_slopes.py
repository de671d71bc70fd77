"""Taylor and Fisher against autograd through another forward pass, and against each other."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dirprune.analysis.evidence import Passes, evidence, removal_cost

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
