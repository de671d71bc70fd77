"""VGG-16 in its common form for 32x32 images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

# Widths of the thirteen convolutions; "M" is a 2x2 max-pool.
VGG16_LAYOUT: tuple[int | str, ...] = (
    *(64, 64, "M"),
    *(128, 128, "M"),
    *(256, 256, 256, "M"),
    *(512, 512, 512, "M"),
    *(512, 512, 512, "M"),
)


class VGG16(nn.Module):
    """Thirteen 3x3 convolutions with batch norm and one linear layer (14,728,266 parameters).

    Source: "Very Deep Convolutional Networks for Large-Scale Image Recognition", Simonyan and
    Zisserman, 2014, arXiv 1409.1556 (configuration D); batch norm and the single linear layer in
    place of 4096-4096 are the usual adaptation to CIFAR (Zagoruyko, "92.45% on CIFAR-10 in
    Torch", 2015). The convolutions keep their biases, which the batch norms make redundant, so
    that the state dicts of the widespread PyTorch version with these keys load.

    Five pools need 32x32 pixels; what is left of larger images is averaged.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = in_channels
        for item in VGG16_LAYOUT:
            if isinstance(item, str):
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(width, item, 3, padding=1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers += [conv, nn.BatchNorm2d(item), nn.ReLU()]
            width = item
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        x = F.adaptive_avg_pool2d(self.features(x), 1)
        return self.classifier(x.flatten(1))
