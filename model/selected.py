"""A linear layer that reads some of its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import DirpruneError


class SelectedLinear(nn.Linear):
    """``nn.Linear`` on the inputs that the buffer ``index`` names: y = W x[index] + b.

    Pruning single inputs of a flattened feature map leaves it, where some features of a channel go
    and others stay. Shapes: x [..., features], index [in_features], y [..., out_features].
    """

    index: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return F.linear(self.selected(input), self.weight, self.bias)

    def selected(self, input: Tensor) -> Tensor:
        """The inputs that are read, [..., in_features]."""
        return input.index_select(-1, self.index)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{super().extra_repr()}, selected=True"


def select_inputs(network: nn.Module, layer: str, index: Tensor | None = None) -> None:
    """Turn an ``nn.Linear`` of a network into a :class:`SelectedLinear`, in place.

    Args:
        network: that it is in.
        layer: its name.
        index: of the inputs that its weight, as it stands, has columns for; by default all.

    Raises:
        DirpruneError: there is no such linear layer.
    """
    try:
        module: Any = network.get_submodule(layer)
    except AttributeError as error:
        raise DirpruneError(str(error)) from error
    if type(module) is not nn.Linear:
        raise DirpruneError(f"{layer!r} is a {type(module).__name__}, expected a Linear")
    if index is None:
        index = torch.arange(module.in_features)
    module.__class__ = SelectedLinear
    module.register_buffer("index", index.to(module.weight.device))
