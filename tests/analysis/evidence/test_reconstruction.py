"""The loss that least squares cannot undo: against the regressions themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.decision.decide import decide
from dirprune.analysis.evidence import evidence
from dirprune.analysis.evidence.elimination import Elimination, Regression
from dirprune.analysis.evidence.reconstruction import bootstrap_weights
from dirprune.inference.compensation import compensate
from dirprune.model.errors import DirpruneError
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def refitted(x: Tensor, y: Tensor, kept: Tensor, curvature: Tensor) -> float:
    """Half the weighted mean squared error of the best fit to y from some columns of x."""
    found = torch.linalg.lstsq(x[:, kept], y, driver="gelsd").solution
    return float(((y - x[:, kept] @ found).square() * curvature).sum() / len(x) / 2)


def test_costs_are_those_of_refitted_regressions() -> None:
    """Units of two inputs each and one input that always stays; exact but for rounding."""
    x, weight = normal(80, 9, seed=0) @ normal(9, 9, seed=1), normal(9, 3, seed=2)
    curvature, y = torch.tensor([0.5, 2.0, 0.1], dtype=torch.float64), x @ weight
    units = torch.tensor([0, 0, 1, 1, -1, 2, 2, 3, 3])
    game = Elimination(4, [Regression(units, x.T @ x / 80, weight, curvature)])
    for unit, cost in enumerate(game.costs().tolist()):
        expected = refitted(x, y, units != unit, curvature)
        assert cost == pytest.approx(expected, rel=1e-8)
    # After one has gone, the next one's cost is the further rise of the joint error.
    game.remove(2)
    before = refitted(x, y, units != 2, curvature)
    for unit in (0, 1, 3):
        both = (units != 2) & (units != unit)
        rise = refitted(x, y, both, curvature) - before
        assert float(game.costs()[unit]) == pytest.approx(rise, rel=1e-7)
    assert float(game.costs()[2]) == torch.inf


def test_costs_of_several_readers_add_up() -> None:
    parts = []
    for seed in (0, 10):
        x = normal(50, 3, seed=seed)
        parts.append(
            Regression(torch.arange(3), x.T @ x / 50, normal(3, 2, seed=seed + 1), torch.ones(2))
        )
    alone = [Elimination(3, [part]).costs() for part in parts]
    torch.testing.assert_close(Elimination(3, parts).costs(), alone[0] + alone[1])


def test_the_order_goes_to_the_last_unit() -> None:
    x = normal(40, 5, seed=3)
    game = Elimination(
        5, [Regression(torch.arange(5), x.T @ x / 40, normal(5, 2, seed=4), torch.ones(2))]
    )
    first = int(game.costs().argmin())
    order, paid = game.order()
    assert sorted(order.tolist()) == list(range(5))
    assert int(order[0]) == first
    # All together cost what the outputs are: their whole second moment.
    outputs = x @ normal(5, 2, seed=4)
    assert float(paid.sum()) == pytest.approx(float(outputs.square().sum() / 40 / 2), rel=1e-9)


@pytest.fixture(scope="module")
def twins() -> tuple[SwitchedNetwork, Any]:
    """4-6-3 in float64, whose hidden units 1 and 4 are one function, and matter most."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: Any = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
        inputs, targets = torch.randn(64, 4).double(), torch.randint(3, (64,))
    with torch.no_grad():
        net[0].weight[4], net[0].bias[4] = 2 * net[0].weight[1], 2 * net[0].bias[1]
        net[2].weight[:, 1] *= 6
    model = SwitchedNetwork(net, inputs[:2], num_data=64)
    return model, DataLoader(TensorDataset(inputs, targets), batch_size=16)


def test_of_twins_one_costs_nothing_though_each_alone_is_dear(
    twins: tuple[SwitchedNetwork, Any],
) -> None:
    model, loader = twins
    alone = evidence("leave-one-out", model, None, loader)["0"].scores.abs()
    assert int(alone.argmax()) == 1
    found = evidence("reconstruction", model, None, loader, ridge=1e-9)["0"].scores
    low = found.argsort()
    assert int(low[0]) in (1, 4)
    assert float(found[low[0]]) < 1e-6 * float(found[low[1]])
    # Without its twin the other one is needed most, or nearly so.
    other = 5 - int(low[0])
    assert int((found > found[other]).sum()) <= 1


def test_a_score_is_the_loss_of_the_best_reconstruction(
    twins: tuple[SwitchedNetwork, Any],
) -> None:
    """The first unit to go, by a regression about the means and slopes by hand."""
    model, loader = twins
    net: Any = model.network
    x, targets = loader.dataset.tensors
    hidden = F.relu(net[0](x)).detach()
    logits = net[2](hidden).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, targets, reduction="sum"), logits)
    curvature = slope.square().mean(0)
    centred = hidden - hidden.mean(0)
    y = centred @ net[2].weight.detach().T
    found = evidence("reconstruction", model, None, loader, ridge=1e-12, images=64)["0"].scores
    order = found.argsort()
    kept = torch.ones(6, dtype=torch.bool)
    kept[order[0]] = False
    base = refitted(centred, y, kept, curvature)  # the twin, for nothing
    kept[order[1]] = False
    rise = refitted(centred, y, kept, curvature) - base
    assert float(found[order[1]]) == pytest.approx(rise, rel=1e-5)


def test_convolutions_and_their_positions_are_read(problem: Any) -> None:
    """With all positions it depends on no draw of them."""
    first, second = (
        evidence("reconstruction", problem.model, None, problem.loader, positions=25, seed=seed)
        for seed in (0, 1)
    )
    for site in first:
        torch.testing.assert_close(first[site].scores, second[site].scores)
    assert first.passes.forward == first.passes.backward == 11


def test_it_leaves_the_network_as_it_was(twins: tuple[SwitchedNetwork, Any]) -> None:
    model, loader = twins
    before = {n: p.clone() for n, p in model.network.state_dict().items()}
    model.network.train()
    try:
        evidence("reconstruction", model, None, loader)
        assert model.network.training
    finally:
        model.network.eval()
    assert all(torch.equal(p, before[n]) for n, p in model.network.state_dict().items())
    assert all(p.grad is None for p in model.network.parameters())
    assert not any(m._forward_hooks for m in model.network.modules())


def test_an_activation_in_place_and_a_frozen_network_change_nothing() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        plain: Any = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(5 * 4, 3),
        ).double()  # fmt: skip
        x, y = torch.randn(20, 1, 6, 6).double(), torch.randint(3, (20,))
    inplace = nn.Sequential(
        *(nn.ReLU(inplace=True) if isinstance(m, nn.ReLU) else m for m in plain)
    )
    found = []
    for network in (plain, inplace):
        model = SwitchedNetwork(network, x[:2], num_data=20)
        found.append(evidence("reconstruction", model, None, [(x, y)]))
    for parameter in plain.parameters():
        parameter.requires_grad_(False)
    model = SwitchedNetwork(plain, x[:2], num_data=20)
    found.append(evidence("reconstruction", model, None, [(x, y)]))
    for site in found[0]:
        for other in found[1:]:
            torch.testing.assert_close(other[site].scores, found[0][site].scores)


def test_least_squares_leaves_less_error_than_by_other_criteria() -> None:
    """On the digits, a fifth of 60 hidden units: what the criterion is for."""
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    y = torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: Any = nn.Sequential(nn.Linear(64, 60), nn.ReLU(), nn.Linear(60, 10))
        optimiser = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(100):
            optimiser.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimiser.step()
    model = SwitchedNetwork(net.eval(), x[:2], num_data=len(x))
    train = DataLoader(TensorDataset(x, y), batch_size=200)
    left = {}
    for name in ("reconstruction", "l1-norm", "fisher"):
        decision = decide(model, evidence(name, model, None, train), keep=0.2)
        cut = prune(model, decision)
        ((_, report),) = compensate("least-squares", model, decision, cut, train).reports
        left[name] = report.layers["2"]["after"]
    # Greedy elimination is not optimal, and curvature weighs the outputs: but by far better.
    assert left["reconstruction"] < 0.8 * min(left["l1-norm"], left["fisher"])


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(3, 4), nn.Parameter(torch.ones(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.first(x)), self.weight)


def test_what_it_cannot_reconstruct_is_named() -> None:
    x, y = torch.randn(4, 3), torch.randint(2, (4,))
    model = SwitchedNetwork(Functional(), x[:2], num_data=4)
    with pytest.raises(DirpruneError, match="weight: it is not one convolution or linear module"):
        evidence("reconstruction", model, None, [(x, y)])


@pytest.fixture(scope="module")
def signs() -> tuple[SwitchedNetwork, DataLoader[Any], Tensor]:
    """A unit that is -1 or 1, one that is 0; what each of 30 images adds to the first's score."""
    inputs = torch.where(normal(30, 1, seed=1) > 0, 9.0, -9.0).double()
    targets = (normal(30, seed=2).abs() * 2).long().clamp(max=2)
    net: Any = nn.Sequential(nn.Linear(1, 2), nn.Hardtanh(), nn.Linear(2, 3, bias=False)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        net[0].bias.zero_()
        net[2].weight.copy_(torch.tensor([[0.5, 1.0], [-1.0, 1.0], [2.0, 1.0]]))
    # Its second moment is one whatever the weights of the images: the score is linear in them.
    probs = net(inputs).softmax(1).detach()
    slopes = F.one_hot(targets, 3) - probs
    parts = (slopes.square() * net[2].weight.detach()[:, 0].square()).sum(1) / 2
    model = SwitchedNetwork(net, inputs[:2], num_data=30)
    return model, DataLoader(TensorDataset(inputs, targets), batch_size=7), parts


def test_draws_weigh_the_images(signs: tuple[SwitchedNetwork, DataLoader[Any], Tensor]) -> None:
    model, loader, parts = signs
    found = evidence("reconstruction:draws=4:seed=3:ridge=1e-12", model, None, loader)
    weights = bootstrap_weights(30, 4, 3)
    assert found["0"].draws is not None
    torch.testing.assert_close(found["0"].draws[:, 0], weights @ parts / 30, rtol=1e-9, atol=0)
    assert float(found["0"].scores[0]) == pytest.approx(float(parts.mean()), rel=1e-9)
    assert (found.passes.forward, found.passes.backward) == (150, 150)


def test_draws_have_the_moments_of_the_bayesian_bootstrap(
    signs: tuple[SwitchedNetwork, DataLoader[Any], Tensor],
) -> None:
    """Of a mean of a_i: mean of a_i, and variance (mean square deviation of a_i) / (n + 1)."""
    model, loader, parts = signs
    found = evidence("reconstruction:draws=400:ridge=1e-12", model, None, loader)["0"].draws
    assert found is not None
    found = found[:, 0]
    spread = float(parts.var(correction=0) / 31) ** 0.5
    # four standard errors of a mean and of a standard deviation of 400 draws
    assert float(found.mean()) == pytest.approx(float(parts.mean()), abs=4 * spread / 20)
    assert float(found.std()) == pytest.approx(spread, rel=4 / 800**0.5)


def test_a_decision_by_draws_has_inclusion_probabilities(
    twins: tuple[SwitchedNetwork, Any],
) -> None:
    """Of twins one stays for sure and nothing says which; the others are told by the images."""
    model, loader = twins
    found = evidence("reconstruction:draws=40", model, None, loader)
    decision = decide(model, found, keep=0.5)
    probability = decision.probability["0"]
    assert float(probability.sum()) == pytest.approx(3.0)  # every draw keeps three of six
    assert float(probability[[1, 4]].sum()) == pytest.approx(1.0)
    assert 0 < float(probability.sort().values[3]) < 1


@pytest.mark.parametrize("draws", ["-1", "2.5"])
def test_bad_draws_are_refused(twins: tuple[SwitchedNetwork, Any], draws: str) -> None:
    model, loader = twins
    with pytest.raises(DirpruneError, match="draws"):
        evidence(f"reconstruction:draws={draws}", model, None, loader)


def test_draws_need_outputs_that_lie_example_by_example() -> None:
    """Time comes first here, and weights of examples would go to other rows."""

    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(torch.relu(self.a(x.transpose(0, 1)))).mean(0)
            return out

    inputs, targets = torch.randn(8, 3, 3), torch.randint(2, (8,))
    model = SwitchedNetwork(TimeFirst(), inputs[:2], num_data=8)
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=4)
    assert bool(evidence("reconstruction", model, None, loader)["a"].scores.isfinite().all())
    with pytest.raises(DirpruneError, match="those of b have 3 rows for 8 examples"):
        evidence("reconstruction:draws=2", model, None, loader)


def test_an_output_that_is_not_picked_has_no_slope() -> None:
    """An auxiliary head reads units too, and no loss depends on it."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out, self.side = nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = torch.relu(self.a(x))
            return {"out": self.out(hidden), "side": self.side(hidden)}

    torch.manual_seed(0)
    heads, inputs, targets = Heads(), torch.randn(20, 3), torch.randint(2, (20,))
    model = SwitchedNetwork(heads, inputs[:2], num_data=20, output=lambda out: out["out"])
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=10)
    plain = nn.Sequential(heads.a, nn.ReLU(), heads.out)
    alone = SwitchedNetwork(plain, inputs[:2], num_data=20)
    torch.testing.assert_close(
        evidence("reconstruction", model, None, loader)["a"].scores,
        evidence("reconstruction", alone, None, loader)["0"].scores,
    )
