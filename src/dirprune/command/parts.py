"""What ``run`` and ``compare`` share: the data and the trained network that settings ask for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..inference.data import ImageData, check_data, load_data, loader
from ..inference.evaluate import eval_mode
from ..inference.loop import seed_of
from ..inference.training import train
from ..model.errors import DirpruneError
from ..model.networks import build_network, is_own
from ..model.storage import read_description
from .settings import Settings, recipe

SVI_STEPS = 400


def read_data(s: Settings) -> ImageData:
    """The data set, with validation images cut from the training images under the seed."""
    data = load_data(
        s.data, root=s.data_root, download=s.download, mean=s.mean, std=s.std, size=s.size,
        seed=s.seed,
    )  # fmt: skip
    check_data(data, max_batches=4)
    return data


def batches_of(
    s: Settings, data: ImageData, part: str, *, shuffle: bool = False, augment: bool = False
) -> Any:
    """A loader of "train", "validation" or "test"; augmented as is usual for the data set."""
    return loader(
        getattr(data, part), s.batch_size, shuffle=shuffle,
        augment=recipe(s.data).augment if augment else None,
    )  # fmt: skip


def new_network(s: Settings, data: ImageData) -> nn.Module:
    """The network that fits the data, with the seed's initial weights."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed_of([s.seed, 0]))
        network = build_network(
            s.network, num_classes=data.num_classes, in_channels=data.in_channels, size=data.size
        )
    if is_own(s.network):
        _check_own(s.network, network, data)
    return network


def _check_own(name: str, network: nn.Module, data: ImageData) -> None:
    """Refuse a network of the user's own that does not classify these images."""
    images = data.train[[0, 1]][0]
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        with torch.no_grad(), eval_mode(network):
            logits = network(images.to(device))
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DirpruneError(
            f"{name} fails on images {list(images.shape)} of {data.name}: {line[:200]}. Its "
            "factory may take in_channels and size; --size resizes the images"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, data.num_classes):
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise DirpruneError(
            f"{name} gives {came} for two images: expected logits [2, {data.num_classes}], one for "
            f"each class of {data.name}. Its factory may take num_classes"
        )


def load_line(folder: Path, network: str) -> str:
    """The Python that loads the pruned network of a run, whose architecture is the user's own."""
    notes = read_description(folder)["notes"]
    arguments = f"num_classes={len(notes['classes'])}, in_channels={len(notes['mean'])}"
    built = f"dirprune.build_network({network!r}, {arguments}, size={notes['size']})"
    return f"dirprune.load({str(folder)!r}, network={built})"


def train_network(
    s: Settings, data: ImageData, network: nn.Module, epochs: int, checkpoint: Path
) -> list[float]:
    """Train it; the losses of all steps. An interrupted training goes on from the checkpoint."""
    if not epochs:
        return []
    return train(
        network, batches_of(s, data, "train", shuffle=True, augment=True), epochs=epochs,
        seed=seed_of([s.seed, 1]), checkpoint=checkpoint, resume=True,
    )  # fmt: skip


def usual_svi_epochs(steps: int) -> int:
    """The epochs of SVI that make 400 steps, where one has so many."""
    return math.ceil(SVI_STEPS / steps)


def data_notes(data: ImageData) -> dict[str, Any]:
    """What is kept beside a network's weights."""
    return {
        "data": data.name, "mean": list(data.mean), "std": list(data.std),
        "size": data.size, "classes": list(data.class_names),
    }  # fmt: skip
