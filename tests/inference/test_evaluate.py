"""Accuracy and log likelihood, against the definition."""

import math
import re
from typing import Any

import pytest
import torch
from torch import nn

from dirprune.inference.evaluate import eval_mode, evaluate
from dirprune.model.errors import DirpruneError


@pytest.fixture
def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))


def test_counts_and_log_likelihood_are_the_definitions(network: nn.Sequential) -> None:
    x, y = torch.randn(50, 4), torch.randint(3, (50,))
    with torch.no_grad():
        probability = network.eval()(x).double().softmax(1)
    correct = sum(int(p.argmax()) == int(t) for p, t in zip(probability, y, strict=True))
    log_likelihood = sum(math.log(p[t]) for p, t in zip(probability, y, strict=True))
    network.train()  # dropout must be off all the same
    batches = [(x[:20], y[:20]), (x[20:40], y[20:40]), (x[40:], y[40:])]
    found = evaluate(network, batches)
    assert (found.correct, found.total) == (correct, 50)
    assert found.percent == pytest.approx(2 * correct)
    assert found.log_likelihood == pytest.approx(log_likelihood, rel=1e-5)  # float32 sums


def test_a_uniform_classifier_has_minus_log_classes() -> None:
    network = nn.Linear(4, 10)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    found = evaluate(network, [(torch.randn(30, 4), torch.zeros(30, dtype=torch.long))])
    # all ten tie, and the first wins: label 0
    assert (found.correct, found.total) == (30, 30)
    assert found.log_likelihood == pytest.approx(-30 * math.log(10), rel=1e-6)


def modes_of(network: nn.Module) -> list[bool]:
    return [m.training for m in network.modules()]


def test_modes_weights_and_statistics_come_back(network: nn.Sequential) -> None:
    network.train()
    network[1].eval()  # a frozen batch norm in a network that trains
    before, state = modes_of(network), {k: v.clone() for k, v in network.state_dict().items()}
    batches: list[Any] = [(torch.randn(5, 4), torch.zeros(5, dtype=torch.long))]
    evaluate(network, batches)
    assert modes_of(network) == before
    with pytest.raises(DirpruneError):
        evaluate(network, [*batches, 3])
    assert modes_of(network) == before
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


def test_eval_mode_is_for_the_block_alone(network: nn.Sequential) -> None:
    with eval_mode(network):
        assert not any(modes_of(network))
    assert all(modes_of(network))


def test_no_graph_is_kept(network: nn.Sequential) -> None:
    recorded: list[bool] = []
    network.register_forward_hook(lambda m, i, o: recorded.append(o.requires_grad))
    evaluate(network, [(torch.randn(5, 4), torch.zeros(5, dtype=torch.long))])
    assert recorded == [False]


def test_an_empty_loader(network: nn.Sequential) -> None:
    with pytest.raises(DirpruneError, match="the loader is empty"):
        evaluate(network, [])


def test_inputs_by_position_and_by_name() -> None:
    class Two(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a - b

    a, b, y = torch.eye(3), torch.zeros(3, 3), torch.arange(3)
    for inputs in ((a, b), {"b": b, "a": a}):
        assert evaluate(Two(), [(inputs, y)]).percent == 100


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(4, 1), torch.zeros(4).long(), "at least two"),
        (torch.zeros(4, 3), torch.zeros(4, 1).long(), "expected integers [4]"),
        (torch.zeros(4, 3), torch.zeros(4), "torch.float32"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 3]), "0 to 2 for the network's 3"),
        (torch.zeros(4, 3, 2), torch.zeros(4, 2).long(), "[4, 3, 2]"),
    ],
)
def test_what_is_no_classifier_is_refused(
    logits: torch.Tensor, labels: torch.Tensor, message: str
) -> None:
    with pytest.raises(DirpruneError, match=re.escape(message)):
        evaluate(torch.nn.Identity(), [(logits, labels)])
