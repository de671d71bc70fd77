"""Data that a network cannot be trained on is found before training, and named."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...model.errors import DirpruneError
from .images import ImageData
from .loading import loader


def check_data(
    data: ImageData | Dataset[Any] | Iterable[Any],
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    size: int | None = None,
    max_batches: int | None = None,
) -> int:
    """Look at every batch (or the first ``max_batches``) and return the number of images seen.

    Takes an :class:`ImageData` (all three parts, against its own numbers unless others are
    given), a data set, or a loader of (images, labels) batches. The random state is left as it
    was, so that looking does not change the batches that follow.
    """
    if isinstance(data, ImageData):
        expected = (
            data.num_classes if num_classes is None else num_classes,
            data.in_channels if in_channels is None else in_channels,
            data.size if size is None else size,
        )
        return sum(
            _check(f"{data.name}, {part} images", getattr(data, part), expected, max_batches)
            for part in ("train", "validation", "test")
        )
    return _check("the data", data, (num_classes, in_channels, size), max_batches)


def _check(
    what: str,
    data: Dataset[Any] | Iterable[Any],
    expected: tuple[int | None, int | None, int | None],
    max_batches: int | None,
) -> int:
    if isinstance(data, Dataset):
        data = loader(data, 512)
    own = data.generator if isinstance(data, DataLoader) else None
    state = own.get_state() if isinstance(own, torch.Generator) else None
    seen = 0
    with torch.random.fork_rng(devices=[]):
        for number, batch in enumerate(islice(data, max_batches)):
            seen += _check_batch(f"{what}, batch {number}", batch, *expected)
    if isinstance(own, torch.Generator) and state is not None:
        own.set_state(state)
    if seen == 0:
        raise DirpruneError(
            f"{what}: the loader gives no batches; is the data set empty, or does drop_last leave "
            f"out its only, incomplete batch?"
        )
    return seen


def _check_batch(
    what: str, batch: Any, num_classes: int | None, in_channels: int | None, size: int | None
) -> int:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise DirpruneError(
            f"{what}: expected a pair (images, labels), got {type(batch).__name__}"
            f"{f' of {len(batch)}' if isinstance(batch, tuple | list) else ''}"
        )
    images, labels = batch
    for part, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise DirpruneError(f"{what}: {part} must be a tensor, got {type(value).__name__}")
    _check_images(what, images, in_channels, size)
    if len(labels) != len(images) or labels.dim() == 0:
        raise DirpruneError(f"{what}: {len(images)} images and labels of {list(labels.shape)}")
    if num_classes is not None and len(labels):
        _check_labels(what, labels, num_classes)
    return len(images)


def _check_images(what: str, images: Tensor, in_channels: int | None, size: int | None) -> None:
    if not images.is_floating_point():
        raise DirpruneError(
            f"{what}: images must be floating point, normalised, got {images.dtype}; convert "
            f"them with .float() and divide by their full scale"
        )
    if in_channels is not None or size is not None:
        shape = tuple(images.shape)
        wanted = (in_channels, size, size)
        fits = len(shape) == 4 and all(
            w is None or w == s for w, s in zip(wanted, shape[1:], strict=True)
        )
        if not fits:
            shown = ", ".join("any" if w is None else str(w) for w in wanted)
            raise DirpruneError(
                f"{what}: the network takes images [B, {shown}], got {list(shape)}; choose "
                f"another network or resize the images (--size, or size=...)"
            )
    if not images.isfinite().all():
        bad = (~images.isfinite()).flatten(1).any(1).nonzero().flatten()
        raise DirpruneError(
            f"{what}: {len(bad)} of {len(images)} images hold NaN or infinite pixels, the first "
            f"at position {int(bad[0])} of the batch"
        )


def _check_labels(what: str, labels: Tensor, num_classes: int) -> None:
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise DirpruneError(
            f"{what}: labels must be whole numbers of type int64, one per image, got "
            f"{labels.dtype} {list(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise DirpruneError(
            f"{what}: labels must lie between 0 and {num_classes - 1} for {num_classes} classes, "
            f"got {int(labels.min())} to {int(labels.max())}; is num_classes right?"
        )
