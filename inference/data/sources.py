"""Data sets by name: the embedded digits, torchvision's, and folders of images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...model.errors import DirpruneError, unknown_name
from .folder import load_folder
from .images import ImageData, Images, MemoryImages, PerChannel, per_channel, resize, whole
from .splits import stratified_split, validation_count

FOLDER = "folder:"
ROOT_VARIABLE = "DIRPRUNE_DATA_ROOT"
# The folder networks of torchvision and its pretrained weights expect these (ImageNet).
FOLDER_MEAN = (0.485, 0.456, 0.406)
FOLDER_STD = (0.229, 0.224, 0.225)
LARGEST_SIZE = 4096  # a batch of larger images fits no memory
# A constant, so that the test images of the digits are the same for every seed.
DIGITS_TEST_SEED = 0
DIGITS_TEST_SHARE = 0.3

Part = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Source:
    """Where bytes come from, and the constants that go with them."""

    read: Callable[[Path, bool], tuple[Part, Part]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    full_scale: float = 255.0


def data_names() -> list[str]:
    """All names that :func:`load_data` knows; the last one stands for a folder of the user."""
    return [*SOURCES, FOLDER + "PATH"]


def load_data(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = True,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    size: int | None = None,
    validation: int | float | None = None,
    seed: int = 0,
) -> ImageData:
    """Training, validation and test images of a named data set.

    ``name`` is "digits" (inside scikit-learn), "mnist", "fashion-mnist", "cifar10" (torchvision,
    which downloads what is missing into ``root``: by default ``$DIRPRUNE_DATA_ROOT``, else
    ``~/.cache/dirprune``) or "folder:PATH" with ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*``
    (or ``PATH/val``), read as RGB.

    ``validation`` images (a count or a fraction; by default a tenth, at most 5,000) are cut from
    the training images, stratified by class; ``seed`` changes which, and never the test images.
    ``size`` resizes; ``mean`` and ``std``, on the scale from 0 to 1, replace the constants of the
    data set, which for "digits" are those of its training images and for folders ImageNet's.
    """
    size = whole("size", size, least=1) if size is not None else None
    if size is not None and size > LARGEST_SIZE:
        raise DirpruneError(f"size (--size) {size}: expected at most {LARGEST_SIZE} pixels a side")
    seed = whole("seed", seed, least=0)
    if name.startswith(FOLDER):
        means = per_channel("mean", FOLDER_MEAN if mean is None else mean, 3)
        stds = per_channel("std", FOLDER_STD if std is None else std, 3)
        train, test, classes = load_folder(name.removeprefix(FOLDER), size, means, stds)
        return _finish(name, train, test, classes, validation, seed)
    if name not in SOURCES:
        raise unknown_name("data set", name, data_names())
    source = SOURCES[name]
    channels = len(source.mean)
    means = per_channel("mean", source.mean if mean is None else mean, channels)
    stds = per_channel("std", source.std if std is None else std, channels)
    parts = [
        MemoryImages(
            images if size is None else resize(images, size),
            labels,
            means,
            stds,
            source.full_scale,
        )
        for images, labels in source.read(data_root(root), download)
    ]
    return _finish(name, parts[0], parts[1], source.class_names, validation, seed)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Where downloads lie: ``root``, else ``$DIRPRUNE_DATA_ROOT``, else ``~/.cache/dirprune``."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or "~/.cache/dirprune").expanduser()


def _finish(
    name: str,
    train: Images,
    test: Images,
    class_names: tuple[str, ...],
    validation: int | float | None,
    seed: int,
) -> ImageData:
    """Cut the validation images and put the parts together."""
    if len(class_names) < 2:
        raise DirpruneError(
            f"{name} holds one class ({', '.join(class_names)}): a classifier needs at least two"
        )
    count = validation_count(validation, len(train))
    stays, held = stratified_split(train.labels, count, seed)
    shape = train.pixels(torch.tensor(0)).shape
    return ImageData(
        name=name,
        train=train.subset(stays),
        validation=train.subset(held),
        test=test,
        num_classes=len(class_names),
        in_channels=shape[0],
        size=shape[-1],
        class_names=class_names,
        mean=train.mean,
        std=train.std,
    )


def _read_digits(root: Path, download: bool) -> tuple[Part, Part]:
    """The 1,797 digits in a fixed stratified split, 1,258 to train and 539 to test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    count = round(DIGITS_TEST_SHARE * len(labels))
    train, test = stratified_split(labels, count, DIGITS_TEST_SEED)
    return (images[train], labels[train]), (images[test], labels[test])


def _read_torchvision(class_name: str) -> Callable[[Path, bool], tuple[Part, Part]]:
    def read(root: Path, download: bool) -> tuple[Part, Part]:
        from torchvision import datasets

        dataset_class = getattr(datasets, class_name)
        parts: list[Part] = []
        for train in (True, False):
            try:
                dataset = dataset_class(root, train=train, download=download)
            except Exception as error:
                # Missing or damaged files and every way in which a download can fail; torchvision
                # lets all of them through as they come.
                raise _unavailable(class_name, root, download, error) from error
            parts.append((_as_bytes(dataset.data), torch.as_tensor(dataset.targets)))
        return parts[0], parts[1]

    return read


def _as_bytes(data: Any) -> Tensor:
    """torchvision's [N, H, W] or [N, H, W, C] as [N, C, H, W]."""
    images = torch.as_tensor(data)
    return images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2).contiguous()


def _unavailable(class_name: str, root: Path, download: bool, error: Exception) -> DirpruneError:
    folder = root / {"CIFAR10": "cifar-10-batches-py"}.get(class_name, f"{class_name}/raw")
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    mend = (
        "check the network connection, or put the unpacked files there yourself"
        if download
        else "put the unpacked files there, or allow the download"
    )
    return DirpruneError(
        f"no complete {class_name} in {folder} ({reason}); {mend}, or name another folder with "
        f"the data root (--data-root, root=..., or the environment variable {ROOT_VARIABLE})"
    )


_NUMERALS = tuple("0123456789")
# Means and deviations of the training pixels, as usually published; those of the digits were
# computed over the 1,258 training images (pixels from 0 to 16).
SOURCES: dict[str, _Source] = {
    "digits": _Source(_read_digits, (0.3060,), (0.3762,), _NUMERALS, full_scale=16.0),
    "mnist": _Source(_read_torchvision("MNIST"), (0.1307,), (0.3081,), _NUMERALS),
    "fashion-mnist": _Source(
        _read_torchvision("FashionMNIST"),
        (0.2860,),
        (0.3530,),
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    "cifar10": _Source(
        _read_torchvision("CIFAR10"),
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        (
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
}
