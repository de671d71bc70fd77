"""Batches: loaders, augmentation and the checks of data."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from dirprune.inference.data import (
    AUGMENTATIONS,
    ImageData,
    MemoryImages,
    check_data,
    load_data,
    loader,
)
from dirprune.inference.data.augment import augmentation
from dirprune.model.errors import DirpruneError


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits")


def images_of(batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([images for images, _ in batches])


def test_batches_cover_the_data_in_order(digits: ImageData) -> None:
    batches = list(loader(digits.test, 100))
    assert [len(labels) for _, labels in batches] == [100] * 5 + [39]
    assert torch.equal(images_of(batches), digits.test[:][0])
    assert len(loader(digits.test, 100)) == 6
    assert len(loader(digits.test, 100, drop_last=True)) == 5


def test_one_gather_per_batch(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    gather = MemoryImages.pixels

    def counted(self: MemoryImages, where: Tensor) -> Tensor:
        asked.append(len(where))
        return gather(self, where)

    monkeypatch.setattr(MemoryImages, "pixels", counted)
    list(loader(digits.test, 256, shuffle=True))
    assert asked == [256, 256, 27]


def test_plain_dataloaders_and_subsets_give_the_same_batches(digits: ImageData) -> None:
    ours = images_of(loader(digits.test, 64))
    assert torch.equal(images_of(DataLoader(digits.test, batch_size=64)), ours)
    subset = Subset(digits.test, range(100))
    assert torch.equal(images_of(loader(subset, 64)), ours[:100])


def test_shuffling_is_a_permutation_and_follows_the_global_seed(digits: ImageData) -> None:
    batches = loader(digits.test, 64, shuffle=True)
    torch.manual_seed(1)
    first, second = images_of(batches), images_of(batches)
    torch.manual_seed(1)
    again = images_of(batches)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    rows = first.flatten(1).unique(dim=0)
    assert torch.equal(rows, digits.test[:][0].flatten(1).unique(dim=0))


def test_shuffling_by_a_seed_ignores_and_keeps_the_global_state(digits: ImageData) -> None:
    def run(seed: Any) -> Tensor:
        batches = loader(digits.test, 64, shuffle=True, seed=seed)
        return torch.cat([images_of(batches), images_of(batches)])

    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = run(7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(run(7), first)
    assert torch.equal(run(torch.Generator().manual_seed(7)), first)
    assert not torch.equal(run(8), first)
    assert not torch.equal(first[:539], first[539:])


def test_reading_in_order_leaves_the_global_state(digits: ImageData) -> None:
    state = torch.get_rng_state()
    list(loader(digits.test, 64))
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_change_nothing(digits: ImageData) -> None:
    def run(workers: int) -> Tensor:
        torch.manual_seed(3)
        batches = loader(digits.test, 200, shuffle=True, augment="shift", num_workers=workers)
        return next(iter(batches))[0]

    assert torch.equal(run(0), run(1))


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_augmentation_follows_the_global_seed(name: str, digits: ImageData) -> None:
    batches = loader(digits.test, 100, augment=name)
    torch.manual_seed(1)
    first, second = images_of(batches), images_of(batches)
    torch.manual_seed(1)
    assert torch.equal(first, images_of(batches))
    assert not torch.equal(first, second)
    plain, labels = digits.test[:]
    assert first.shape == plain.shape
    assert first.dtype == plain.dtype
    assert first.isfinite().all()
    assert torch.equal(torch.cat([y for _, y in batches]), labels)


@pytest.mark.parametrize(("name", "limit"), [("crop-flip", 4), ("shift", 2), ("small-shift", 1)])
def test_every_moved_image_is_the_image_itself_moved(name: str, limit: int) -> None:
    images = torch.randn(200, 2, 16, 16)
    torch.manual_seed(0)
    out = AUGMENTATIONS[name](images)
    seen = set()
    for image, moved in zip(images, out, strict=True):
        darkest = image.amin((1, 2), keepdim=True)
        padded = torch.nn.functional.pad(image - darkest, (limit,) * 4) + darkest
        crops = {
            (y, x): padded[:, y : y + 16, x : x + 16]
            for y in range(2 * limit + 1)
            for x in range(2 * limit + 1)
        }
        found = [(*at, False) for at, crop in crops.items() if torch.allclose(crop, moved)]
        if name == "crop-flip":
            crops = {at: crop.flip(-1) for at, crop in crops.items()}
            found += [(*at, True) for at, crop in crops.items() if torch.allclose(crop, moved)]
        assert len(found) == 1
        seen.add(found[0])
    assert {y for y, _, _ in seen} == {x for _, x, _ in seen} == set(range(2 * limit + 1))
    assert {flip for _, _, flip in seen} == ({False, True} if name == "crop-flip" else {False})


def test_small_images_are_shifted_by_one_pixel_at_most() -> None:
    image = torch.zeros(500, 1, 8, 8)
    image[:, :, 4, 4] = 1
    at = AUGMENTATIONS["shift"](image).flatten(1).argmax(1)
    assert set((at // 8).tolist()) == set((at % 8).tolist()) == {3, 4, 5}


def test_rotation_keeps_background_and_is_small() -> None:
    images = torch.full((50, 1, 28, 28), -0.5)
    images[:, :, 8:20, 13:15] = 2.0
    torch.manual_seed(0)
    out = AUGMENTATIONS["shift-rotate"](images)
    assert torch.allclose(out.amin((1, 2, 3)), torch.tensor(-0.5))
    assert out.max() <= 2.0 + 1e-5
    torch.testing.assert_close(out.mean((1, 2, 3)), images.mean((1, 2, 3)), rtol=0, atol=0.02)


def test_unknown_augmentation(digits: ImageData) -> None:
    with pytest.raises(DirpruneError, match="unknown augmentation 'crop'"):
        loader(digits.train, 8, augment="crop")
    assert augmentation(None) is None


@pytest.mark.parametrize("size", [0, -1, 2.5, True, None])
def test_bad_batch_size(size: Any, digits: ImageData) -> None:
    with pytest.raises(DirpruneError, match="batch_size must be a whole number"):
        loader(digits.train, size)


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter([])


def test_loaders_without_batches_are_refused(digits: ImageData) -> None:
    with pytest.raises(DirpruneError, match="539 images, the batch size is 600, and drop_last"):
        loader(digits.test, 600, drop_last=True)
    with pytest.raises(DirpruneError, match="the data set is empty"):
        loader(TensorDataset(torch.empty(0, 1)), 4)
    with pytest.raises(DirpruneError, match="must know its length"):
        loader(Endless(), 4)
    with pytest.raises(DirpruneError, match="seed must be a whole number"):
        loader(digits.test, 4, shuffle=True, seed=0.5)  # type: ignore[arg-type]


# Checks


def test_check_data_counts_what_it_saw(digits: ImageData) -> None:
    assert check_data(digits) == 1797
    assert check_data(digits.test, num_classes=10, in_channels=1, size=8) == 539
    assert check_data(loader(digits.test, 100), max_batches=2) == 200


@pytest.mark.parametrize("seed", [None, 4])
def test_checking_changes_no_later_batch(seed: int | None, digits: ImageData) -> None:
    def run(check: bool) -> Tensor:
        torch.manual_seed(0)
        batches = loader(digits.test, 64, shuffle=True, seed=seed, augment="shift")
        if check:
            check_data(batches, num_classes=10)
        return images_of(batches)

    assert torch.equal(run(True), run(False))


def test_check_data_against_a_network_of_other_numbers(digits: ImageData) -> None:
    with pytest.raises(DirpruneError, match=r"between 0 and 4 for 5 classes, got 0 to 9"):
        check_data(digits, num_classes=5)
    with pytest.raises(DirpruneError, match=r"takes images \[B, 3, 8, 8\], got \[512, 1, 8, 8\]"):
        check_data(digits, in_channels=3)
    with pytest.raises(DirpruneError, match=r"digits, train images, batch 0: .*\[B, 1, 28, 28\]"):
        check_data(digits, size=28)


def _nan(x: Tensor, y: Tensor) -> Any:
    x[2, 0, 1, 1] = float("nan")
    return x, y


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nan, "1 of 4 images hold NaN or infinite pixels, the first at position 2"),
        (lambda x, y: (x, y - 1), "between 0 and 2 .* got -1"),
        (lambda x, y: (x, y + 1), "between 0 and 2 .* got 1 to 3"),
        (lambda x, y: (x, y.float()), "type int64"),
        (lambda x, y: (x, y.unsqueeze(1)), "one per image"),
        (lambda x, y: (x, y[:3]), r"4 images and labels of \[3\]"),
        (lambda x, y: (x.byte(), y), "must be floating point"),
        (lambda x, y: (x.flatten(1), y), r"takes images \[B, 1, 5, 5\], got \[4, 25\]"),
        (lambda x, y: (x.tolist(), y), "images must be a tensor, got list"),
        (lambda x, y: (x, y, y), "expected a pair .* got tuple of 3"),
        (lambda x, y: x, "expected a pair .* got Tensor"),
    ],
)
def test_bad_batches(spoil: Callable[[Tensor, Tensor], Any], message: str) -> None:
    good = (torch.rand(4, 1, 5, 5), torch.tensor([0, 1, 2, 1]))
    check_data([good], num_classes=3, in_channels=1, size=5)
    bad = spoil(good[0].clone(), good[1].clone())
    with pytest.raises(DirpruneError, match=f"batch 1: .*{message}"):
        check_data([good, bad], num_classes=3, in_channels=1, size=5)


@pytest.mark.parametrize("data", [[], [(torch.rand(0, 1, 5, 5), torch.zeros(0).long())]])
def test_empty_loaders(data: Any) -> None:
    with pytest.raises(DirpruneError, match="gives no batches"):
        check_data(data, num_classes=3)
