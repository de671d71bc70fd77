"""Leave-one-out against the network with the unit masked by hand, and against the pruned one."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import nn
from torch.nn import functional as F

from dirprune.analysis.evidence import Passes, evidence
from dirprune.model.decision import Decision
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Problem = Any  # of conftest.py


def test_it_is_the_rise_of_the_loss(problem: Problem) -> None:
    before = problem.losses(problem.gates()).mean()
    found = evidence("leave-one-out", problem.model, None, problem.loader)
    for name, site in problem.model.sites.items():
        for unit in range(site.size):
            gates = problem.gates()
            gates[name][unit] = 0
            rise = problem.losses(gates).mean() - before
            # losses of order 1 in float64
            torch.testing.assert_close(found[name].scores[unit], rise, rtol=0, atol=1e-13)
        assert found[name].unit == "nats"
        assert found[name].across_sites
    units = sum(site.size for site in problem.model.sites.values())
    assert found.passes == Passes(11 * (units + 1), 0)


def test_it_is_the_rise_of_the_loss_of_the_pruned_network(problem: Problem) -> None:
    found = evidence("leave-one-out", problem.model, None, problem.loader)
    everything = {n: torch.arange(s.size) for n, s in problem.model.sites.items()}
    with torch.no_grad():
        before = F.cross_entropy(problem.network(problem.inputs), problem.targets)
        for site, units in everything.items():
            pruned = prune(problem.model, Decision(everything | {site: units[1:]}))
            rise = F.cross_entropy(pruned(problem.inputs), problem.targets) - before
            torch.testing.assert_close(found[site].scores[0], rise, rtol=0, atol=1e-13)


def test_a_unit_that_nobody_reads_is_worth_exactly_nothing(problem: Problem) -> None:
    found = evidence("leave-one-out", problem.model, None, problem.loader)
    for site, unit in problem.unread.items():
        assert abs(float(found[site].scores[unit])) < 1e-15  # sums in other orders
        assert int((found[site].scores.abs() < 1e-9).sum()) == 1


def test_linear_gaussian_closed_form() -> None:
    # l = r^2 / (2 sigma^2) with r = y - sum_k v_k h_k; without unit k the residual is r + v_k h_k.
    net: Any = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double()
    x, y = torch.randn(20, 3).double(), torch.randn(20, 1).double()
    model = SwitchedNetwork(
        net, x[:2], num_data=20, likelihood=lambda out: dist.Normal(out, 0.7).to_event(1)
    )
    with torch.no_grad():
        terms = net[1].weight[0] * net[0](x)
        residual = y - net(x)
        expected = (((residual + terms) ** 2 - residual**2) / (2 * 0.49)).mean(0)
    found = evidence("leave-one-out", model, None, [(x, y)])["0"].scores
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
