"""A network as the folder of :func:`dirprune.save`: safetensors and JSON."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import DirpruneError
from ..storage import load, read_description, save
from .reference import Reference, Run


def write(network: nn.Module, reference: Reference, path: Path, notes: Mapping[str, Any]) -> None:
    """Save the folder."""
    save(path, network, notes=notes)


def read(path: Path, network: nn.Module) -> Run:
    """What the folder's network computes, once its state is that of ``network`` bit for bit.

    Its outputs need not be: arithmetic depends on where in memory the tensors begin.

    Raises:
        DirpruneError: it does not load, or a tensor differs.
    """
    blank = None
    if not isinstance(read_description(path)["architecture"], dict):
        # It loads into the unpruned original, which is not at hand: into a copy without its values.
        blank = copy.deepcopy(network)
        for tensor in blank.state_dict().values():
            tensor.zero_()
    again = load(path, network=blank)
    state = again.state_dict()
    for name, tensor in network.state_dict().items():
        # As bytes: NaN is not equal to itself, and 0 equals -0.
        ours, theirs = (
            x.cpu().contiguous().flatten().view(torch.uint8) for x in (tensor, state[name])
        )
        if tensor.dtype != state[name].dtype or not torch.equal(ours, theirs):
            raise DirpruneError(f"{name} comes back with other values")
    device = next((tensor.device for tensor in network.state_dict().values()), "cpu")
    again.to(device)

    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
        with torch.no_grad():
            leaves = pytree.tree_leaves(again(*args, **kwargs))
        return [value for value in leaves if isinstance(value, Tensor)]

    return run
