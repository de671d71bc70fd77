"""Shapley values against the sum over all subsets, efficiency, and the spread over examples."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dirprune.analysis.evidence import Passes, evidence
from dirprune.analysis.evidence.masked_losses import unmasked_losses
from dirprune.analysis.evidence.shapley import shapley_values

Problem = Any  # of conftest.py


def exact_values(problem: Problem, site: str) -> Tensor:
    """phi_k = sum over S without k of |S|! (K - |S| - 1)! / K! [v(S + k) - v(S)]: [K, n].

    v(S) are the losses with the units of S removed.
    """
    size = problem.model.sites[site].size

    def losses(removed: tuple[int, ...]) -> Tensor:
        gates = problem.gates()
        gates[site][list(removed)] = 0
        return problem.losses(gates)

    subsets = [s for n in range(size + 1) for s in itertools.combinations(range(size), n)]
    v = {subset: losses(subset) for subset in subsets}
    values = torch.zeros(size, 11, dtype=torch.float64)
    for subset, without in v.items():
        for unit in set(range(size)) - set(subset):
            weight = math.factorial(len(subset)) * math.factorial(size - len(subset) - 1)
            rise = v[tuple(sorted((*subset, unit)))] - without
            values[unit] += weight / math.factorial(size) * rise
    return values


def by_orders(problem: Problem, site: str, orders: list[tuple[int, ...]]) -> Tensor:
    before = unmasked_losses(problem.model, problem.inputs, problem.targets)
    given = [torch.tensor(order) for order in orders]
    return shapley_values(problem.model, site, given, problem.inputs, problem.targets, before)


def small_site(problem: Problem) -> str:
    """The stream of 4 units, or the second layer of 5."""
    return min(problem.model.sites, key=lambda site: problem.model.sites[site].size)


def test_all_permutations_give_the_exact_values(problem: Problem) -> None:
    site = small_site(problem)
    size = problem.model.sites[site].size
    found = by_orders(problem, site, list(itertools.permutations(range(size))))
    # differences of losses of order 1 in float64, 120 of them
    torch.testing.assert_close(found, exact_values(problem, site), rtol=0, atol=1e-12)


def test_credits_of_a_permutation_sum_to_the_loss_of_the_site(problem: Problem) -> None:
    for name, site in problem.model.sites.items():
        empty = problem.gates() | {name: torch.zeros(site.size, dtype=torch.float64)}
        loss = problem.losses(empty) - problem.losses(problem.gates())  # of each example
        order = tuple(torch.randperm(site.size).tolist())
        credits = by_orders(problem, name, [order])
        torch.testing.assert_close(credits.sum(0), loss, rtol=0, atol=1e-12)
        # the first to go has its leave-one-out, the last what the site is worth with it alone
        gates = problem.gates()
        gates[name][order[0]] = 0
        first = problem.losses(gates) - problem.losses(problem.gates())
        torch.testing.assert_close(credits[order[0]], first, rtol=0, atol=1e-12)


def test_permutations_sample_the_exact_values(problem: Problem) -> None:
    # std ~ 0 leaves the mean over examples. 400 permutations: five standard errors of each unit.
    site = small_site(problem)
    found = evidence("shapley:permutations=400:std=1e-12", problem.model, None, problem.loader)
    orders = list(itertools.permutations(range(problem.model.sites[site].size)))
    spread = torch.stack([by_orders(problem, site, [o]).mean(1) for o in orders]).std(0)
    error = (found[site].scores - exact_values(problem, site).mean(1)).abs()
    assert bool((error <= 5 * spread / 400**0.5 + 1e-11).all())
    assert float(spread.max()) > 1e-3  # so that the order matters here


def test_the_score_is_mean_and_spread_over_examples(problem: Problem) -> None:
    one, two, three = (
        evidence("shapley", problem.model, None, problem.loader, std=std, permutations=2)
        for std in (1.0, 2.0, 3.0)
    )
    for name, site in problem.model.sites.items():
        scores = [found[name].scores for found in (one, two, three)]
        torch.testing.assert_close(scores[2] - scores[1], scores[1] - scores[0])
        mean, std = 2 * scores[0] - scores[1], scores[1] - scores[0]
        empty = problem.gates() | {name: torch.zeros(site.size, dtype=torch.float64)}
        loss = (problem.losses(empty) - problem.losses(problem.gates())).mean()
        torch.testing.assert_close(mean.sum(), loss, rtol=0, atol=1e-12)  # efficiency again
        assert bool((std >= 0).all())
    # the spread itself, of the permutation that the seed gives, for a single one
    site_name = next(iter(problem.model.sites))
    order = tuple(_first_permutation(problem, site_name))
    values = by_orders(problem, site_name, [order])
    found = evidence("shapley:permutations=1", problem.model, None, problem.loader)
    expected = values.mean(1) + 2 * (values - values.mean(1, keepdim=True)).square().mean(1).sqrt()
    torch.testing.assert_close(found[site_name].scores, expected, rtol=0, atol=1e-12)


def _first_permutation(problem: Problem, site: str) -> list[int]:
    from dirprune.inference.loop import seed_of

    generator = torch.Generator().manual_seed(seed_of([0]))
    return torch.randperm(problem.model.sites[site].size, generator=generator).tolist()


def test_the_seed_gives_the_permutations(problem: Problem) -> None:
    state = torch.get_rng_state()
    site = next(iter(problem.model.sites))
    first, again, other = (
        evidence(f"shapley:seed={seed}:permutations=1", problem.model, None, problem.loader)[site]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.scores, again.scores)
    assert not torch.allclose(first.scores, other.scores)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_it_takes(problem: Problem) -> None:
    units = sum(site.size for site in problem.model.sites.values())
    found = evidence("shapley:images=7:permutations=3", problem.model, None, problem.loader)
    assert found.passes == Passes(7 * (3 * units + 1), 0)
    assert all(scores.unit == "nats" and scores.across_sites for scores in found.values())


def test_a_unit_that_nobody_reads_has_no_credit(problem: Problem) -> None:
    for site, unit in problem.unread.items():
        size = problem.model.sites[site].size
        values = by_orders(problem, site, [tuple(torch.randperm(size).tolist())])
        assert float(values[unit].abs().max()) < 1e-14
    found = evidence("shapley", problem.model, None, problem.loader)
    for site, unit in problem.unread.items():
        assert int(found[site].scores.argmin()) == unit
        assert float(found[site].scores[unit]) == pytest.approx(0, abs=1e-14)
