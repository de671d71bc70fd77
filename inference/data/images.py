"""Image data sets that hand out whole batches and normalise them batch by batch."""

from __future__ import annotations

import math
import numbers
import operator
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ...model.errors import DirpruneError

Index = int | slice | Sequence[int] | Tensor
PerChannel = float | Sequence[float]


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images as bytes and their labels; indexing gives normalised float32 images.

    ``data[3]`` is one image [C, H, W] with its label, ``data[[3, 1, 4]]`` (a list, a tensor or a
    slice) a batch [B, C, H, W] with labels [B], for the price of one gather. A plain
    ``DataLoader(data, batch_size=64)`` works too; :func:`..loading.loader` is faster, since it
    asks for whole batches.
    """

    def __init__(
        self, labels: Tensor, mean: Sequence[float], std: Sequence[float], full_scale: float
    ) -> None:
        self.labels = labels.to(torch.int64)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.full_scale = full_scale
        # (x / full_scale - mean) / std as one product and one sum.
        spread = torch.tensor(self.std).view(-1, 1, 1)
        self._factor = 1 / (full_scale * spread)
        self._offset = -torch.tensor(self.mean).view(-1, 1, 1) / spread

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Index) -> tuple[Tensor, Tensor]:
        if isinstance(index, slice):
            index = range(len(self))[index]
        where = torch.as_tensor(index if isinstance(index, Tensor | int) else list(index))
        if where.numel() == 0:
            where = where.long()
        labels = self.labels[where]  # raises IndexError, which also ends a plain for loop
        return self.normalise(self.pixels(where)), labels

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        # What a DataLoader with a batch size calls; its default collate expects single examples.
        images, labels = self[indices]
        return list(zip(images, labels, strict=True))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Bytes [..., C, H, W] -> float32 with the mean and the deviation of the data set."""
        return pixels.to(torch.float32).mul_(self._factor).add_(self._offset)

    @abstractmethod
    def pixels(self, where: Tensor) -> Tensor:
        """The raw bytes of one image (scalar index) or of a batch (1-D index)."""

    @abstractmethod
    def subset(self, where: Tensor) -> Images:
        """The same kind of data set with only these images."""


class MemoryImages(Images):
    """Images in memory, uint8 [N, C, H, W]."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        full_scale: float = 255.0,
    ) -> None:
        super().__init__(labels, mean, std, full_scale)
        if images.dtype != torch.uint8 or images.dim() != 4 or len(images) != len(labels):
            raise DirpruneError(
                f"expected uint8 images [N, C, H, W] and N labels, got {images.dtype} "
                f"{list(images.shape)} and {len(labels)} labels"
            )
        self.images = images

    def pixels(self, where: Tensor) -> Tensor:
        """A gather."""
        return self.images[where]

    def subset(self, where: Tensor) -> MemoryImages:
        """A copy of these images."""
        return MemoryImages(
            self.images[where], self.labels[where], self.mean, self.std, self.full_scale
        )


@dataclass(frozen=True)
class ImageData:
    """A data set in three parts. The test images are used for nothing but the final accuracy."""

    name: str
    train: Images
    validation: Images
    test: Images
    num_classes: int
    in_channels: int
    size: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def resize(images: Tensor, size: int) -> Tensor:
    """uint8 [N, C, H, W] -> uint8 [N, C, size, size], bilinear with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    # In pieces: as float32, all 60,000 images at once would take four times their memory.
    parts = [
        F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round_().byte()
        for part in images.split(1024)
    ]
    return torch.cat(parts)


def per_channel(what: str, value: PerChannel, channels: int) -> tuple[float, ...]:
    """A mean or a deviation as one finite number per channel; one number serves all channels."""
    given = (value,) if isinstance(value, numbers.Real) else value
    try:
        numbers_ = tuple(float(v) for v in given)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        numbers_ = ()
    if len(numbers_) == 1:
        numbers_ *= channels
    positive = what != "std" or all(v > 0 for v in numbers_)
    if len(numbers_) != channels or not all(map(math.isfinite, numbers_)) or not positive:
        raise DirpruneError(
            f"{what} must be one finite number, or one for each of the {channels} channel(s)"
            f"{', above zero' if what == 'std' else ''}; got {value!r}"
        )
    return numbers_


def whole(argument: str, value: int, least: int) -> int:
    """A whole number (numpy's too, not a bool) of at least ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise DirpruneError(f"{argument} must be a whole number of at least {least}, got {value!r}")
    return number
