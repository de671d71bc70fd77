"""Data sets: splits, indexing, normalisation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dirprune.inference.data import ImageData, MemoryImages, load_data
from dirprune.inference.data.splits import stratified_split, validation_count
from dirprune.model.errors import DirpruneError


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits")


# Splits


def test_digits_parts_are_disjoint_and_complete(digits: ImageData) -> None:
    assert (len(digits.train), len(digits.validation), len(digits.test)) == (1132, 126, 539)
    parts = [digits.train, digits.validation, digits.test]
    # All 1,797 images differ, so that images in common would show as equal rows.
    rows = torch.cat([p.pixels(torch.arange(len(p))).flatten(1) for p in parts])
    assert len(rows.unique(dim=0)) == len(rows) == 1797


def test_seed_moves_the_validation_images_and_never_the_test_images(digits: ImageData) -> None:
    again, other = load_data("digits"), load_data("digits", seed=1)
    for part in ("train", "validation", "test"):
        same = torch.equal(getattr(digits, part)[:][0], getattr(again, part)[:][0])
        assert same
    assert torch.equal(digits.test[:][0], other.test[:][0])
    assert not torch.equal(digits.validation[:][0], other.validation[:][0])


def test_splits_ignore_and_keep_the_global_random_state() -> None:
    torch.manual_seed(5)
    first = load_data("digits").validation[:][0]
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert torch.equal(first, load_data("digits").validation[:][0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.data(), st.integers(0, 99))
def test_stratified_split_properties(sizes: list[int], data: st.DataObject, seed: int) -> None:
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)])
    count = data.draw(st.integers(1, len(labels) - 1))
    stays, held = stratified_split(labels, count, seed)
    assert len(held) == count
    assert torch.cat([stays, held]).sort().values.tolist() == list(range(len(labels)))
    for c, n in enumerate(sizes):
        share = n * count / len(labels)
        assert abs(int((labels[held] == c).sum()) - share) < 1 + 1e-9
    if count <= len(labels) // 2:
        assert set(labels[stays].tolist()) == set(range(len(sizes)))


def test_the_first_held_out_images_are_of_all_classes() -> None:
    """Of a folder that is read class by class; each class is missing with probability 3e-4."""
    labels = torch.arange(10).repeat_interleave(100)
    _, held = stratified_split(labels, 500, seed=0)
    assert set(labels[held[:80]].tolist()) == set(range(10))


def test_validation_count() -> None:
    assert validation_count(None, 50_000) == 5000
    assert validation_count(None, 60_000) == 5000
    assert validation_count(None, 1258) == 126
    assert validation_count(0.5, 10) == 5
    assert validation_count(np.int64(3), 10) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, 1258, 1.0, 0.0, -0.1, float("nan"), True, "10"])
def test_impossible_validation(value: float) -> None:
    with pytest.raises(DirpruneError, match=r"validation must be .*\(1 to 1257\)"):
        load_data("digits", validation=value)


# Indexing and normalisation


def test_batch_indexing_equals_item_indexing(digits: ImageData) -> None:
    where = [5, 0, 700, 5]
    images, labels = digits.train[where]
    assert images.shape == (4, 1, 8, 8)
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    for i, image, label in zip(where, images, labels, strict=True):
        one, its_label = digits.train[i]
        assert torch.equal(one, image)
        assert its_label == label
    for other in (torch.tensor(where), np.array(where)):
        assert torch.equal(digits.train[other][0], images)  # type: ignore[index]
    for (one, its_label), image in zip(digits.train.__getitems__(where), images, strict=True):
        assert torch.equal(one, image)
        assert its_label.shape == ()
    assert torch.equal(digits.train[2:4][1], digits.train[[2, 3]][1])
    assert digits.train[[]][0].shape == (0, 1, 8, 8)
    with pytest.raises(IndexError):
        digits.train[1132]


def test_normalisation_is_pixel_over_full_scale_minus_mean_over_std(digits: ImageData) -> None:
    raw = digits.train.pixels(torch.arange(1132)).double() / 16
    images, _ = digits.train[:]
    torch.testing.assert_close(images.double(), (raw - 0.3060) / 0.3762, rtol=0, atol=1e-6)
    assert raw.max() == 1
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01


def test_mean_and_std_can_be_given() -> None:
    data = load_data("digits", mean=0.5, std=[0.25])
    assert (data.mean, data.std) == ((0.5,), (0.25,))
    assert data.test[:][0].min() == -2
    assert data.test[:][0].max() == 2


@pytest.mark.parametrize("value", [(0.1, 0.2), (), float("nan"), "x"])
def test_bad_mean(value: float) -> None:
    with pytest.raises(DirpruneError, match="mean must be one finite number"):
        load_data("digits", mean=value)


@pytest.mark.parametrize("value", [0.0, -1, float("inf")])
def test_bad_std(value: float) -> None:
    with pytest.raises(DirpruneError, match=r"std must be one finite number.* above zero"):
        load_data("digits", std=value)


def test_resize() -> None:
    data = load_data("digits", size=16)
    assert data.size == 16
    assert data.train[[0, 1]][0].shape == (2, 1, 16, 16)
    plain = load_data("digits")
    before, after = plain.train[:][0].mean(), data.train[:][0].mean()
    assert abs(float(before - after)) < 0.02
    with pytest.raises(DirpruneError, match="size must be a whole number"):
        load_data("digits", size=0)


def test_memory_images_refuse_what_is_not_bytes() -> None:
    with pytest.raises(DirpruneError, match="uint8"):
        MemoryImages(torch.rand(2, 1, 4, 4), torch.zeros(2), [0.0], [1.0])
