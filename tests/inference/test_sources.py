"""Where images come from: torchvision's files, folders of images, and their errors."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from dirprune.inference.data import MemoryImages, data_names, load_data
from dirprune.inference.data import folder as folder_module
from dirprune.model.errors import DirpruneError

DATA = os.environ.get("DIRPRUNE_DATA")


def write_idx(path: Path, array: np.ndarray) -> None:
    """The format of MNIST's files: a type, the shape, then the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str = "MNIST") -> np.ndarray:
    """A tiny MNIST with random images; returns the training images."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (40, 28, 28))
    write_idx(root / name / "raw" / "train-images-idx3-ubyte", train)
    write_idx(root / name / "raw" / "train-labels-idx1-ubyte", np.arange(40) % 10)
    write_idx(root / name / "raw" / "t10k-images-idx3-ubyte", rng.integers(0, 256, (20, 28, 28)))
    write_idx(root / name / "raw" / "t10k-labels-idx1-ubyte", np.arange(20) % 10)
    return train


Shape = tuple[int, int]


def write_images(root: Path, shape: Shape = (6, 6), count: int = 5, held: str = "test") -> Path:
    """A folder of random PNGs with two classes, ``count`` images each per part."""
    rng = np.random.default_rng(0)
    for part in ("train", held):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


def test_mnist_reads_torchvisions_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = write_mnist(tmp_path)
    data = load_data("mnist", root=tmp_path, validation=10)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 20)
    assert (data.num_classes, data.in_channels, data.size) == (10, 1, 28)
    assert data.validation.labels.bincount().tolist() == [1] * 10
    known = {image.tobytes() for image in train.astype(np.uint8)}
    assert all(i.numpy().tobytes() in known for i in data.train.pixels(torch.arange(30)))
    monkeypatch.setenv("DIRPRUNE_DATA_ROOT", str(tmp_path))
    assert len(load_data("mnist", download=False).test) == 20


def test_fashion_mnist_has_a_folder_of_its_own(tmp_path: Path) -> None:
    write_mnist(tmp_path, "FashionMNIST")
    assert load_data("fashion-mnist", root=tmp_path).class_names[9] == "Ankle boot"


@pytest.mark.parametrize(
    ("name", "folder"),
    [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("cifar10", "cifar-10-batches-py")],
)
def test_missing_files_without_download(name: str, folder: str, tmp_path: Path) -> None:
    with pytest.raises(DirpruneError, match=f"{tmp_path}/{folder}.*allow the download") as caught:
        load_data(name, root=tmp_path, download=False)
    assert "DIRPRUNE_DATA_ROOT" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_missing_files_without_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    for module in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
    with pytest.raises(DirpruneError, match=r"no route to host.*check the network") as caught:
        load_data(name, root=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_damaged_mnist(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DirpruneError, match="no complete MNIST in"):
        load_data("mnist", root=tmp_path)


def test_unknown_name() -> None:
    with pytest.raises(DirpruneError, match="unknown data set 'cifar-10'; did you mean 'cifar10'"):
        load_data("cifar-10")
    assert data_names() == ["digits", "mnist", "fashion-mnist", "cifar10", "folder:PATH"]


@pytest.mark.parametrize("held", ["test", "val"])
@pytest.mark.parametrize("limit", [folder_module.MEMORY_LIMIT, 0])
def test_folder(held: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # limit 0: every batch is read from the files
    monkeypatch.setattr(folder_module, "MEMORY_LIMIT", limit)
    data = load_data(f"folder:{write_images(tmp_path, held=held)}", validation=2)
    assert isinstance(data.train, MemoryImages) == (limit > 0)
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 2, 10)
    assert (data.class_names, data.in_channels, data.size) == (("cat", "dog"), 3, 6)
    assert data.validation.labels.tolist() == [0, 1]
    images, labels = data.test[[7, 0]]
    assert labels.tolist() == [1, 0]
    assert torch.equal(data.test[7][0], images[0])
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / held / "dog" / "2.png")))
    mean, std = torch.tensor(data.mean).view(3, 1, 1), torch.tensor(data.std).view(3, 1, 1)
    torch.testing.assert_close(images[0], (pixels.permute(2, 0, 1) / 255 - mean) / std)


def test_folder_crops_to_a_square_and_resizes(tmp_path: Path) -> None:
    path = write_images(tmp_path, shape=(8, 12))
    with pytest.raises(DirpruneError, match=r"not square \(12x8 pixels\); give the size"):
        load_data(f"folder:{path}")
    data = load_data(f"folder:{path}", size=8)
    assert data.size == 8
    first = torch.from_numpy(np.array(Image.open(path / "test" / "cat" / "0.png")))
    assert torch.equal(data.test.pixels(torch.tensor(0)), first[:, 2:10].permute(2, 0, 1))
    assert load_data(f"folder:{path}", size=5).train[[0]][0].shape == (1, 3, 5, 5)


def test_folder_of_several_sizes(tmp_path: Path) -> None:
    path = write_images(tmp_path)
    Image.new("L", (9, 9)).save(path / "test" / "dog" / "3.png")
    with pytest.raises(DirpruneError, match=r"dog/3\.png has 9x9 pixels and the first one 6x6"):
        load_data(f"folder:{path}")
    assert load_data(f"folder:{path}", size=6).test[[8]][0].shape == (1, 3, 6, 6)


def _no_test(path: Path) -> None:
    (path / "test").rename(path / "tests")


def _other_class(path: Path) -> None:
    (path / "test" / "dog").rename(path / "test" / "wolf")


def _empty_class(path: Path) -> None:
    (path / "train" / "bird").mkdir()


def _no_class(path: Path) -> None:
    for name in ("cat", "dog"):
        (path / "train" / name).rename(path / name)


def _damaged(path: Path) -> None:
    file = path / "train" / "dog" / "1.png"
    file.write_bytes(file.read_bytes()[:60])


def _text(path: Path) -> None:
    (path / "test" / "cat" / "0.png").write_text("no image")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_no_test, r"needs the subfolders 'train' and 'test' \(or 'val'\).*tests, train"),
        (_other_class, "class folders of .* differ: dog, wolf in one"),
        (_empty_class, "images .*bird"),
        (_no_class, "one folder per class.*holds nothing"),
        (_damaged, r"cannot read the image file .*train/dog/1\.png"),
        (_text, r"cannot read the image file .*test/cat/0\.png"),
    ],
)
def test_spoilt_folders(spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    spoil(write_images(tmp_path))
    with pytest.raises(DirpruneError, match=message):
        load_data(f"folder:{tmp_path}")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DirpruneError, match=r"there is no folder .*nothing-here"):
        load_data(f"folder:{tmp_path}/nothing-here")
    with pytest.raises(DirpruneError, match="needs a path"):
        load_data("folder:")


@pytest.mark.skipif(DATA is None, reason="DIRPRUNE_DATA names no folder with MNIST")
def test_real_mnist_matches_its_constants() -> None:
    data = load_data("mnist", root=DATA, download=False)
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5000, 10_000)
    images, _ = data.train[:]
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01
