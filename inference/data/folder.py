"""A user's own images: one folder per class under ``train`` and under ``test`` or ``val``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...model.errors import DirpruneError
from .images import Images, MemoryImages

# Up to here a folder is read into memory once (all of CIFAR-10 takes 0.2 GB); above, every batch
# is read from the disk.
MEMORY_LIMIT = 2 * 1024**3


class FileImages(Images):
    """Images that stay in their files and are decoded batch by batch."""

    def __init__(
        self,
        files: Sequence[str],
        labels: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        size: int | None,
    ) -> None:
        super().__init__(labels, mean, std, full_scale=255.0)
        self.files = list(files)
        # Without a size the first image sets it, and every other one must agree.
        self.resized = size is not None
        self.size = size if size is not None else _side(self.files[0])

    def pixels(self, where: Tensor) -> Tensor:
        """Decode the files at these indices."""
        if where.dim() == 0:
            return self._decode(self.files[int(where)])
        files = [self.files[i] for i in where.tolist()]
        batch = torch.empty(len(files), 3, self.size, self.size, dtype=torch.uint8)
        for image, file in zip(batch, files, strict=True):
            image.copy_(self._decode(file))
        return batch

    def subset(self, where: Tensor) -> FileImages:
        """The same files, fewer of them."""
        part = FileImages(
            [self.files[i] for i in where.tolist()],
            self.labels[where],
            self.mean,
            self.std,
            self.size,
        )
        part.resized = self.resized
        return part

    def in_memory(self) -> MemoryImages:
        """All images decoded; threads help, since decoding releases the interpreter lock."""
        images = torch.empty(len(self), 3, self.size, self.size, dtype=torch.uint8)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for image, decoded in zip(images, pool.map(self._decode, self.files), strict=True):
                image.copy_(decoded)
        return MemoryImages(images, self.labels, self.mean, self.std)

    def _decode(self, file: str) -> Tensor:
        """One file as uint8 [3, size, size]: the central square, resized with antialiasing."""
        from PIL import Image

        try:
            with Image.open(file) as opened:
                image = opened.convert("RGB")
        except Exception as error:
            # PIL raises OSError, SyntaxError, ValueError and others of its own for bad files.
            raise _damaged(file, error) from error
        width, height = image.size
        if (width, height) != (self.size, self.size):
            if not self.resized:
                raise DirpruneError(
                    f"image {file} has {width}x{height} pixels and the first one "
                    f"{self.size}x{self.size}; give the size that all are resized to (--size)"
                )
            side = min(width, height)
            left, top = (width - side) // 2, (height - side) // 2
            image = image.resize(
                (self.size, self.size),
                Image.Resampling.BILINEAR,
                box=(left, top, left + side, top + side),
            )
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def load_folder(
    path: str, size: int | None, mean: Sequence[float], std: Sequence[float]
) -> tuple[Images, Images, tuple[str, ...]]:
    """Training images, test images and the names of the classes."""
    if not path:
        raise DirpruneError("'folder:' needs a path, such as folder:data/flowers")
    root = Path(path).expanduser()
    if not root.is_dir():
        raise DirpruneError(f"there is no folder {root} (given as folder:{path})")
    held = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if held is None or not (root / "train").is_dir():
        raise DirpruneError(
            f"{root} needs the subfolders 'train' and 'test' (or 'val'), each with one folder of "
            f"images per class; it holds {_listing(root)}"
        )
    train_files, train_labels, classes = _scan(root / "train")
    test_files, test_labels, test_classes = _scan(held)
    if classes != test_classes:
        raise DirpruneError(
            f"the class folders of {root / 'train'} and {held} differ: "
            f"{_some(set(classes) ^ set(test_classes))} in one of them only"
        )
    train = FileImages(train_files, train_labels, mean, std, size)
    test = FileImages(test_files, test_labels, mean, std, train.size)
    test.resized = size is not None
    if (len(train) + len(test)) * 3 * train.size**2 > MEMORY_LIMIT:
        return train, test, classes
    return train.in_memory(), test.in_memory(), classes


def _scan(folder: Path) -> tuple[list[str], Tensor, tuple[str, ...]]:
    """The files, labels and class names that torchvision's ImageFolder finds."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(folder, allow_empty=True)
    except FileNotFoundError as error:
        raise DirpruneError(
            f"{folder} must hold one folder per class, each with images; it holds "
            f"{_listing(folder)}"
        ) from error
    empty = set(found.classes) - {found.classes[label] for label in found.targets}
    if empty:
        raise DirpruneError(
            f"{folder} must hold one folder per class, each with images "
            f"({', '.join(found.extensions or ())}); without any: {_some(empty)}"
        )
    files = [file for file, _ in found.samples]
    return files, torch.tensor(found.targets), tuple(found.classes)


def _side(file: str) -> int:
    """The side of a square image, read from its header."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            width, height = image.size
    except Exception as error:
        raise _damaged(file, error) from error
    if width != height:
        raise DirpruneError(
            f"image {file} is not square ({width}x{height} pixels); give the size that all are "
            f"cropped and resized to (--size, or size=...)"
        )
    return width


def _damaged(file: str, error: Exception) -> DirpruneError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return DirpruneError(f"cannot read the image file {file} ({reason}); mend or remove it")


def _listing(folder: Path) -> str:
    return _some(p.name for p in folder.iterdir())


def _some(names: Iterable[str]) -> str:
    """Up to five names in order, and how many more."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 5} more" if len(ordered) > 5 else ""
    return ", ".join(ordered[:5]) + more if ordered else "nothing"
