"""Seeded splits in which every class keeps its share."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor

from ...model.errors import DirpruneError

# Validation images steer nothing that is learned from many of them: more than these are a waste
# of training images.
LARGEST_DEFAULT = 5000


def validation_count(validation: int | float | None, total: int) -> int:
    """How many of ``total`` training images to hold out: a count, a fraction, or the default.

    >>> validation_count(None, 60000), validation_count(0.25, 1000), validation_count(7, 1000)
    (5000, 250, 7)
    """
    if validation is None:
        count = min(round(0.1 * total), LARGEST_DEFAULT)
    elif isinstance(validation, bool) or not isinstance(validation, numbers.Real):
        count = 0
    elif isinstance(validation, numbers.Integral):
        count = int(validation)
    else:
        count = round(float(validation) * total) if 0 < validation < 1 else 0
    if validation is None and total > 1:
        count = max(count, 1)
    if not 0 < count < total:
        raise DirpruneError(
            f"validation must be a number of images (1 to {total - 1}) or a fraction between 0 "
            f"and 1 that leaves some of the {total} training images on both sides, got "
            f"{validation!r}"
        )
    return count


def stratified_split(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of those that stay, in ascending order, and of ``count`` held out, in random order.

    The first held-out images are then of all classes, also where a folder is read class by class.
    Every class is held out in proportion, to within one image, and keeps one where it can. The same
    seed gives the same split, whatever else draws random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    classes, sizes = labels.unique(return_counts=True)
    ideal = sizes.double() * count / len(labels)
    quotas = ideal.floor().long()
    # The images that rounding down left over go to the classes that lost most by it; those with
    # nothing to spare come last.
    lost = torch.where(quotas < sizes - 1, ideal - quotas, -1.0)
    quotas[lost.argsort(descending=True, stable=True)[: count - int(quotas.sum())]] += 1
    shuffled = labels[order]
    held = torch.cat(
        [order[shuffled == c][:quota] for c, quota in zip(classes, quotas.tolist(), strict=True)]
    )
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[held] = False
    return stays.nonzero().flatten(), order[~stays[order]]
