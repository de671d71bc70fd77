"""LeNet-5 in the form that the pruning literature means by the name."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import DirpruneError


class LeNet5(nn.Module):
    """LeNet-5 with Caffe's widths 20-50-500 (431,080 parameters on 28x28x1, 10 classes).

    Source: "Gradient-Based Learning Applied to Document Recognition", LeCun, Bottou, Bengio and
    Haffner, 1998, Proc. IEEE 86(11) (no arXiv id); widths of Caffe's ``lenet.prototxt`` (Jia et
    al., 2014, arXiv 1408.5093).

    Caffe's own network has a ReLU after the first linear layer only. Here, as in the pruning
    literature, both convolutions are followed by one as well. Convolutions are 5x5 without
    padding, pools 2x2; the first linear layer adapts to ``in_channels`` and ``size``.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, size: int = 28) -> None:
        super().__init__()
        if size < 16:
            raise DirpruneError(
                f"LeNet-5 needs images of at least 16x16 pixels (two 5x5 convolutions without "
                f"padding, two 2x2 pools), got {size}x{size}"
            )
        side = ((size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)
