"""A small convolutional network for the embedded 8x8 digits."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class DigitsCNN(nn.Module):
    """conv 3x3 (16) - conv 3x3 (32) - pool - linear 64 - linear: trained in seconds on a CPU.

    Source: ours, a plain network in the manner of LeNet for the 8x8 images of
    ``sklearn.datasets.load_digits`` ("Cascading classifiers", Alpaydin and Kaynak, 1998,
    Kybernetika 34(4); no arXiv id). Convolutions are padded, so that no pixel of so small an
    image is lost, and there is no batch normalisation: it is the plainest case of the method.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, size: int = 8) -> None:
        super().__init__()
        side = size // 2
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(32 * side * side, 64)
        self.fc2 = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)
