"""Folded gains are the model's gains, exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.inference.compensation import compensate
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Cases = Callable[[str], Any]


def at_gains(model: SwitchedNetwork, decision: Decision, gains: Any, inputs: Tensor) -> Tensor:
    """The model's own outputs, with the removed units at zero."""
    rows = {}
    for name, gain in gains.items():
        row = torch.zeros_like(gain)
        kept = decision.kept.get(name, torch.arange(len(gain)))
        row[kept] = gain[kept]
        rows[name] = row[None]
    with torch.no_grad():
        return model.outputs_at_gains(inputs, rows)


# 1e-11: float64 rounds at 2e-16; up to ten layers of hundreds of terms, whose batch norms the model
# folds into the convolutions, hence multiplies in another order.
@pytest.mark.parametrize("name", ["plain", "twice", "tokens", "resnet8"])
@pytest.mark.parametrize("everything_kept", [False, True])
def test_folded_is_the_model_at_these_gains(case: Cases, name: str, everything_kept: bool) -> None:
    c = case(name)
    decision = Decision({}) if everything_kept else c.decision
    pruned, gains = prune(c.model, decision), c.random_gains()
    before = {k: v.clone() for k, v in pruned.state_dict().items()}
    found = compensate("fold-gains", c.model, decision, pruned, gains=gains)
    want = at_gains(c.model, decision, gains, c.inputs)
    with torch.no_grad():
        got, plain = found.network(c.inputs), pruned(c.inputs)
    scale = float(want.abs().max())
    assert float((got - want).abs().max()) <= 1e-11 * scale
    assert float((got - plain).abs().max()) > 1e-3 * scale  # it did something
    assert all(torch.equal(v, before[k]) for k, v in pruned.state_dict().items())
    readers = {name for site in c.model.sites.values() for name in site.consumers}
    assert set(found.reports[0][1].layers) == readers


def test_gains_of_one_change_nothing(case: Cases) -> None:
    c = case("plain")
    pruned = c.pruned
    for gains in ({}, {n: torch.ones(s.size) for n, s in c.model.sites.items()}):
        same = compensate("fold-gains", c.model, c.decision, pruned, gains=gains).network
        for key, value in same.state_dict().items():
            assert torch.equal(value, pruned.state_dict()[key]), key


def test_the_report_says_what_was_folded(case: Cases) -> None:
    c = case("plain")
    gains = c.random_gains()
    ((_, report),) = compensate("fold-gains", c.model, c.decision, c.pruned, gains=gains).reports
    kept = gains["a"][c.decision.kept["a"]]
    assert report.layers["b"] == {
        "least": float(kept.min()),
        "mean": pytest.approx(float(kept.mean()), rel=1e-12),
        "most": float(kept.max()),
    }


class Attention(nn.Module):
    """Products of queries with keys, whose features are units of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 6) for _ in range(3))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
        return self.out(scores @ self.v(x)).mean(1)


def test_gains_of_products_are_refused() -> None:
    inputs = torch.randn(3, 5, 4, dtype=torch.float64)
    model = SwitchedNetwork(Attention().double(), inputs, num_data=3, attention="head-dims")
    assert list(model.sites) == ["q", "v"]
    decision = Decision({"q": torch.tensor([0, 1, 4]), "v": torch.tensor([1, 2])})
    pruned, gains = prune(model, decision), {"v": 0.5 + torch.rand(6, dtype=torch.float64)}
    refused = {**gains, "q": gains["v"]}
    with pytest.raises(DirpruneError, match="site 'q' act on products of queries with keys"):
        compensate("fold-gains", model, decision, pruned, gains=refused)
    folded = compensate("fold-gains", model, decision, pruned, gains=gains).network
    want = at_gains(model, decision, {"q": torch.ones(6).double(), **gains}, inputs)
    torch.testing.assert_close(folded(inputs), want, rtol=1e-12, atol=1e-12)


class Tied(nn.Module):
    """An embedding whose table is the weight of the layer that reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.table(x)).mean(1), self.table.weight)


def test_gains_of_a_tied_weight_are_refused() -> None:
    inputs = torch.randint(7, (3, 4))
    model = SwitchedNetwork(Tied().double(), inputs, num_data=3)
    decision = Decision({"table": torch.tensor([0, 1, 4])})
    gains = {"table": 0.5 + torch.rand(6, dtype=torch.float64)}
    with pytest.raises(DirpruneError, match=r"site 'table' act on table\.weight, which"):
        compensate("fold-gains", model, decision, prune(model, decision), gains=gains)


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        (None, "needs gains="),
        ({"nobody": torch.ones(6)}, "site 'nobody', which this network does not have"),
        ({"a": torch.ones(4)}, r"site 'a': expected 6 finite numbers, got shape \[4\]"),
        ({"a": torch.full((6,), float("nan"))}, "with NaN"),
    ],
)
def test_wrong_gains_are_refused(case: Cases, gains: Any, message: str) -> None:
    c = case("plain")
    with pytest.raises(DirpruneError, match=message):
        compensate("fold-gains", c.model, c.decision, c.pruned, gains=gains)
