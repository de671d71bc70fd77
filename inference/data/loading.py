"""DataLoaders of (images, labels) batches."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
)

from ...model.errors import DirpruneError
from .augment import Augmentation, augmentation
from .images import Images, whole

Batch = tuple[Tensor, Tensor]


class AugmentingLoader(DataLoader[Any]):
    """A DataLoader that changes every batch in the main process, where the global seed rules."""

    def __init__(self, dataset: Dataset[Any], *, augment: Augmentation, **options: Any) -> None:
        super().__init__(dataset, **options)
        self.augment = augment

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for images, labels in super().__iter__():
            yield self.augment(images), labels


def loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int | torch.Generator | None = None,
    augment: str | None = None,
    drop_last: bool = False,
    num_workers: int = 0,
) -> DataLoader[Any]:
    """Batches (images [B, C, H, W], labels [B]) of a data set.

    Without ``seed`` the order comes from torch's global generator whenever an epoch begins; a
    seed or a generator makes it independent of that. Augmentation ("crop-flip", "shift",
    "small-shift", "shift-rotate") always draws from the global generator. A loader that neither
    shuffles nor augments leaves it as it is: evaluating in between changes no later batch.
    """
    size = whole("batch_size", batch_size, least=1)
    workers = whole("num_workers", num_workers, least=0)
    if not isinstance(dataset, Sized):
        raise DirpruneError(
            f"a data set must know its length and take an index, {type(dataset).__name__} does not"
        )
    total = len(dataset)
    if total == 0:
        raise DirpruneError("the data set is empty: there is nothing to make batches of")
    if drop_last and total < size:
        raise DirpruneError(
            f"no batch is left: the data set has {total} images, the batch size is {size}, and "
            f"drop_last leaves the incomplete batch out; choose a smaller batch size"
        )
    generator = seed if isinstance(seed, torch.Generator) else None
    if seed is not None and not isinstance(seed, torch.Generator):
        generator = torch.Generator().manual_seed(whole("seed", seed, least=0))
    options: dict[str, Any] = {"num_workers": workers}
    # Every DataLoader draws one number per epoch, from the global generator unless it has its
    # own: here it has, so that only shuffling does.
    options["generator"] = generator or (None if shuffle else torch.Generator())
    if isinstance(dataset, Images):
        order = (
            RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        )
        # With batch_size=None the data set is asked for each batch by its list of indices.
        options.update(sampler=BatchSampler(order, size, drop_last), batch_size=None)
    else:
        options.update(batch_size=size, shuffle=shuffle, drop_last=drop_last)
    change = augmentation(augment)
    if change is None:
        return DataLoader(dataset, **options)
    return AugmentingLoader(dataset, augment=change, **options)
