"""Embeddings: features go, the rows of the vocabulary stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.decision import Decision
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

from .networks import TOKENS, Case, Net, check_case, reasons


class Language(nn.Module):
    """Tokens and positions, a block, and the transposed table of tokens as the last layer."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(10, 6, padding_idx=0), nn.Embedding(4, 6)
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 6)
        self.out = nn.Linear(6, 10)
        if tied:
            self.out.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        return self.out(x + self.two(F.gelu(self.one(x))))[:, -1]


ONE = {"e": (6, ("e",), ("b",))}
CASES = {
    "mean of tokens": Case(
        lambda: Net(
            lambda s, x: s.b(s.e(x).mean(1)), e=nn.Embedding(10, 6), b=nn.Linear(6, 2)
        ),
        (TOKENS,), ONE,
    ),
    "convolved": Case(
        lambda: Net(
            lambda s, x: s.b(s.e(x).transpose(1, 2)).amax(2),
            e=nn.Embedding(10, 6), b=nn.Conv1d(6, 2, 3),
        ),
        (TOKENS,), ONE,
    ),
    "a bag": Case(
        lambda: Net(lambda s, x: s.b(s.e(x)), e=nn.EmbeddingBag(10, 6), b=nn.Linear(6, 2)),
        (TOKENS,), ONE,
    ),
    "a bag of maxima": Case(
        lambda: Net(
            lambda s, x: s.b(s.e(x)), e=nn.EmbeddingBag(10, 6, mode="max"), b=nn.Linear(6, 2)
        ),
        (TOKENS,), ONE,
    ),
    "tokens and positions": Case(
        lambda: Language(tied=False),
        (TOKENS,),
        {
            "tokens": (6, ("tokens", "two", "places"), ("one", "out")),
            "one": (8, ("one",), ("two",)),
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_features_of_embeddings_are_pruned_exactly(case: str) -> None:
    check_case(CASES[case])


def test_a_table_that_is_also_the_last_layer_stays_one() -> None:
    model = SwitchedNetwork(Language(tied=True), TOKENS, num_data=10)
    assert model.sites["tokens"].size == 6
    kept = {"tokens": torch.tensor([0, 4]), "one": torch.arange(8)}
    pruned: Any = prune(model, Decision(kept))
    assert pruned.out.weight is pruned.tokens.weight
    assert pruned.tokens.weight.shape == (10, 2)
    assert (pruned.tokens.num_embeddings, pruned.tokens.embedding_dim) == (10, 2)
    assert (pruned.out.out_features, pruned.out.in_features) == (10, 2)
    assert pruned(TOKENS).shape == (3, 10)


def test_rows_that_are_rescaled_as_a_whole_are_left_alone() -> None:
    network = Net(
        lambda s, x: s.b(s.e(x).mean(1)), e=nn.Embedding(10, 6, max_norm=1.0), b=nn.Linear(6, 2)
    )
    assert reasons(network, TOKENS)["e"] == "its weight is computed from the examples"
