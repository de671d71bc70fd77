"""A fully connected network."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class MLP(nn.Module):
    """Linear layers with ReLU on the flattened image, two hidden ones by default.

    Source: the fully connected network of "Gradient-Based Learning Applied to Document
    Recognition", LeCun, Bottou, Bengio and Haffner, 1998, Proc. IEEE 86(11) (no arXiv id), where
    LeNet-300-100 stands for ``hidden=(300, 100)``; the default widths are ours.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        size: int = 8,
        hidden: Sequence[int] = (256, 128),
    ) -> None:
        super().__init__()
        widths = [in_channels * size * size, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x))
        return self.output(x)
