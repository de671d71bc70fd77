"""So many steps over a loader."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dirprune.inference.loop import same_batches
from dirprune.inference.steps import Steps
from dirprune.model.errors import DirpruneError


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(10), torch.arange(10)), batch_size=4, **options)


@pytest.mark.parametrize("steps", [1, 3, 4, 8])
def test_just_so_many_batches_from_the_start_again_at_the_end(steps: int) -> None:
    some = Steps(loader(), steps)
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]] * 3
    for _ in range(2):
        assert [x.tolist() for x, _ in some] == batches[:steps]
    assert len(some) == steps


def test_each_pass_has_an_order_of_its_own_and_a_seed_sets_them_all() -> None:
    own = torch.Generator().manual_seed(3)
    state = own.get_state()
    some = Steps(loader(shuffle=True, generator=own), 6)
    found = []
    for seed in (1, 1, 2):
        with same_batches(some, [seed], torch.device("cpu")):
            found.append(torch.cat([x for x, _ in some]).tolist())
    assert found[0] == found[1] != found[2]
    assert sorted(found[0][:10]) == sorted(found[0][10:]) == list(range(10))
    assert found[0][:10] != found[0][10:]
    assert torch.equal(own.get_state(), state)


def test_bad_arguments() -> None:
    for steps in (0, -1, 2.0, True):
        with pytest.raises(DirpruneError, match="steps: expected a whole number of at least 1"):
            Steps(loader(), steps)  # type: ignore[arg-type]
    with pytest.raises(DirpruneError, match="the loader is empty"):
        Steps([], 3)
