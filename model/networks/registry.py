"""Networks by name: ours, every classification network of torchvision, and the user's own."""

from __future__ import annotations

import difflib
import operator
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from ..errors import DirpruneError
from .digits import DigitsCNN
from .lenet import LeNet5
from .mlp import MLP
from .own import PREFIX, build_own, defaults_of, is_own, own_defaults
from .resnet_cifar import CifarResNet
from .vgg import VGG16
from .wrn import WideResNet

# (num_classes, in_channels, size) -> network
Factory = Callable[[int, int, int], nn.Module]


def _any_size(build: Callable[..., nn.Module], **fixed: Any) -> Factory:
    """A factory for a network whose constructor does not need the size of the images."""
    return lambda num_classes, in_channels, size: build(
        num_classes=num_classes, in_channels=in_channels, **fixed
    )


NETWORKS: dict[str, Factory] = {
    "lenet5": LeNet5,
    "digits-cnn": DigitsCNN,
    "mlp": MLP,
    "vgg16": _any_size(VGG16),
    **{f"resnet{d}": _any_size(CifarResNet, depth=d) for d in (20, 32, 44, 56, 110)},
    "wrn28_10": _any_size(WideResNet, depth=28, width=10),
}


def network_names() -> list[str]:
    """All names that :func:`build_network` knows: ours, then ``torchvision:...``."""
    return [*NETWORKS, *(PREFIX + name for name in _torchvision_names())]


def build_network(name: str, *, num_classes: int, in_channels: int, size: int) -> nn.Module:
    """An untrained network for images [B, in_channels, size, size].

    Args:
        name: one of :func:`network_names`, or ``file.py:factory`` or ``module:factory``: a function
            or a class of one's own, called with those of the other three that it names. That
            imports its file or module.
        num_classes: outputs of the network.
        in_channels: channels of the images.
        size: their height and width.

    Raises:
        DirpruneError: an unknown name, images that the network cannot take, or a factory that fails
            or gives no network.

    >>> network = build_network("lenet5", num_classes=10, in_channels=1, size=28)
    >>> sum(p.numel() for p in network.parameters())
    431080
    """
    if not is_own(name):
        return build_known(name, num_classes=num_classes, in_channels=in_channels, size=size)
    arguments = {"num_classes": num_classes, "in_channels": in_channels, "size": size}
    return build_own(name, {key: _positive(key, value) for key, value in arguments.items()})


def build_known(name: str, *, num_classes: int, in_channels: int, size: int) -> nn.Module:
    """:func:`build_network` for the names that import nothing; all that ``load`` ever follows."""
    num_classes = _positive("num_classes", num_classes)
    in_channels = _positive("in_channels", in_channels)
    size = _positive("size", size)
    factory = _factory(name)
    if name.startswith(PREFIX) and in_channels != 3:
        raise DirpruneError(
            f"{name} takes images of 3 channels, got in_channels={in_channels}; "
            f"for such images choose one of {', '.join(NETWORKS)}"
        )
    _check_size(name, factory, num_classes, in_channels, size)
    network = factory(num_classes, in_channels, size)
    # What `dirprune.load` rebuilds the network from. A plain dict is no part of the state.
    network.architecture = {  # type: ignore[assignment]
        "name": name,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "size": size,
    }
    return network


def usual_arguments(name: str) -> dict[str, int]:
    """The num_classes, in_channels and size of a network where nothing says them.

    They are the defaults of its factory where it has some, ImageNet's for torchvision, and
    CIFAR-10's for the rest.
    """
    if name.startswith(PREFIX):
        return {"num_classes": 1000, "in_channels": 3, "size": 224}
    found = own_defaults(name) if is_own(name) else defaults_of(_factory(name))
    usual = {"num_classes": 10, "in_channels": 3, "size": 32}
    return {key: found[key] if isinstance(found.get(key), int) else usual[key] for key in usual}


def _positive(argument: str, value: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise DirpruneError(f"{argument} must be a whole number of at least 1, got {value!r}")
    return number


def _factory(name: str) -> Factory:
    if name in NETWORKS:
        return NETWORKS[name]
    names = _torchvision_names()
    bare = name.removeprefix(PREFIX)
    if name.startswith(PREFIX) and bare in names:
        return partial(_build_torchvision, bare)
    # Compared without the prefix, or 'resnet18' would be nearer to 'resnet110' than to
    # 'torchvision:resnet18'.
    full = [*NETWORKS, *(PREFIX + n for n in names)]
    near = difflib.get_close_matches(bare.lower(), [*NETWORKS, *names], n=3)
    meant = [n for m in dict.fromkeys(near) for n in full if n.removeprefix(PREFIX) == m]
    hint = f"; did you mean {' or '.join(map(repr, meant))}?" if meant else "."
    raise DirpruneError(
        f"unknown network {name!r}{hint} Known: {', '.join(NETWORKS)}, and {PREFIX}NAME for each "
        f"of torchvision's {len(names)} classification networks"
    )


def _torchvision_names() -> list[str]:
    # Imported here: torchvision costs a second, and our own networks do not need it.
    from torchvision import models

    return list(models.list_models(module=models))


def _build_torchvision(name: str, num_classes: int, in_channels: int, size: int) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {}
    if name.startswith("vit_"):
        options["image_size"] = size
    elif name.startswith("maxvit"):
        options["input_size"] = (size, size)
    elif name in ("googlenet", "inception_v3"):
        # Without auxiliary heads: with them the training output is not a tensor of logits.
        options.update(aux_logits=False, init_weights=True)
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return network


def _check_size(name: str, factory: Factory, classes: int, channels: int, size: int) -> None:
    """Refuse images that the network cannot take, naming the smallest ones that it can."""
    problem = _problem(factory, classes, channels, size)
    if problem is None:
        return
    smallest = next(
        (s for s in range(size + 1, 513) if _problem(factory, classes, channels, s) is None), None
    )
    if smallest is None:
        raise DirpruneError(
            f"{name} cannot take images of {size}x{size} pixels ({problem}); "
            f"choose another size or another network"
        )
    raise DirpruneError(
        f"{name} cannot take images of {size}x{size} pixels: the next larger size that it takes "
        f"is {smallest}x{smallest}; resize the images (--size {smallest}) or choose another network"
    )


def _problem(factory: Factory, classes: int, channels: int, size: int) -> str | None:
    """Why a forward pass fails, or None. Tried on the meta device: shapes only, no arithmetic."""
    with (
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
        torch.device("meta"),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")  # about empty tensors, in the sizes that are too small
        try:
            factory(classes, channels, size).eval()(torch.empty(2, channels, size, size))
        except NotImplementedError:
            return None  # an operation without shape rules says nothing about the size
        except (RuntimeError, ValueError, AssertionError, ZeroDivisionError) as error:
            return str(error).strip().split("\n")[0]
    return None
