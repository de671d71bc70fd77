"""A network that trains under masks of its weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...model.errors import DirpruneError


class MaskedNetwork(nn.Module):
    """A network whose weights are multiplied by a mask in each forward pass.

    In train mode every pass draws the mask anew, in eval mode it is the final one. No gradient
    passes through the mask, and a masked weight gets none; weight decay acts on all weights, masked
    or not. A subclass has :meth:`draw` and :meth:`settle`; what it has to remember stands in
    buffers, so that a checkpoint of the training holds it.

    Args:
        network: trained in place.
        options: what makes two trainings different; a checkpoint of others is refused.
    """

    steps: Tensor

    def __init__(self, network: nn.Module, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.options = dict(options)
        self.device = next(network.parameters()).device
        self.register_buffer("steps", torch.zeros((), dtype=torch.long, device=self.device))

    def draw(self) -> dict[str, Tensor]:
        """Parameter -> its mask, for the next step of the training."""
        raise NotImplementedError

    def settle(self) -> dict[str, Tensor]:
        """Parameter -> its mask, for good."""
        raise NotImplementedError

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The network's outputs under a mask."""
        with torch.no_grad():
            masks = self.draw() if self.training else self.settle()
            if self.training:
                self.steps += 1
        weights = {name: self.network.get_parameter(name) * mask for name, mask in masks.items()}
        return functional_call(self.network, weights, inputs, kwargs)

    @torch.no_grad()
    def masked(self) -> nn.Module:
        """A copy of the network with the final mask in its weights, in eval mode."""
        network = copy.deepcopy(self.network).eval()
        for name, mask in self.settle().items():
            network.get_parameter(name).mul_(mask)
        return network

    def get_extra_state(self) -> dict[str, Any]:
        """What a checkpoint tells of this training."""
        return self.options

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Refuse the checkpoint of another training."""
        if state != self.options:
            raise DirpruneError(f"it is of {state}, this is {self.options}")
