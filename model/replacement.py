"""Parameters, buffers and numbers of other sizes, in the place of those that a module has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from . import attention  # noqa: F401  (registers its resizers)
from .resizing import resize


def set_padding(network: nn.Module, module: str, before: int, after: int) -> None:
    """Tell a padding shortcut how many channels of zeros are left on each side."""
    owner: Any = network.get_submodule(module)
    owner.set_padding(before, after)


def set_count(network: nn.Module, module: str, attribute: str, number: int) -> None:
    """Tell a module how many units it has left, where none of its parameters shows it.

    The module keeps a note of it, for :func:`~dirprune.model.storage.save`.
    """
    owner: Any = network.get_submodule(module)
    setattr(owner, attribute, number)
    owner.dirprune_counts = {**getattr(owner, "dirprune_counts", {}), attribute: number}


def replace_tensors(network: nn.Module, new: Mapping[str, Tensor]) -> None:
    """Put tensors of other sizes in the place of parameters and buffers, in ``network`` itself.

    A tensor that several modules share stays shared. Sizes that modules note as attributes
    (``out_channels`` and the like) are brought up to date, and the resizers of all modules that
    hold one that shrank are called (:mod:`.resizing`).
    """
    tensor: Tensor
    shrunk: set[str] = set()
    for name, tensor in new.items():
        owner, _, leaf = name.rpartition(".")
        holder = network.get_submodule(owner)
        old = getattr(holder, leaf)
        if leaf in holder._parameters:
            tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
        for module in network.modules():
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for owned in tables:
                for key, value in list(owned.items()):
                    if value is old:
                        owned[key] = tensor
                        _update_sizes(module, key, tensor)
        if tensor.shape != old.shape:
            shrunk.update(name[:i] for i, letter in enumerate(name) if letter == ".")
            shrunk.add("")
    for owner in sorted(shrunk):
        resize(network.get_submodule(owner))


def _update_sizes(module: Any, leaf: str, tensor: Tensor) -> None:
    """Bring a module's own note of its sizes up to date with its new weight."""
    if leaf != "weight":
        if hasattr(module, "num_features") and leaf == "running_mean":
            module.num_features = len(tensor)
        return
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        out_channels, per_group = tensor.shape[:2]
        if module.groups > 1:  # whole groups go: the number of outputs in each stays
            module.groups = module.groups * out_channels // module.out_channels
        module.out_channels, module.in_channels = out_channels, per_group * module.groups
    elif isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        in_channels, per_group = tensor.shape[:2]
        if module.groups > 1:
            module.groups = module.groups * in_channels // module.in_channels
        module.in_channels, module.out_channels = in_channels, per_group * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = tensor.shape
    elif isinstance(module, nn.Embedding | nn.EmbeddingBag):
        module.num_embeddings, module.embedding_dim = tensor.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(tensor)
    elif isinstance(module, nn.GroupNorm):  # whole groups go: the size of each stays
        module.num_groups = module.num_groups * len(tensor) // module.num_channels
        module.num_channels = len(tensor)
    elif hasattr(module, "num_features"):
        module.num_features = len(tensor)
