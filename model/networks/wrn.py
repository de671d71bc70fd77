"""Wide residual networks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import DirpruneError


class PreactivationBlock(nn.Module):
    """BN - ReLU - conv, twice; where the shape changes, a 1x1 convolution is the shortcut."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, ``stride`` times smaller."""
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        # As in the authors' code, a projection reads the activated input, an identity the raw one.
        return out + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WRN-depth-width: depth 6n + 4, stages of 16, 32 and 64 channels times ``width``.

    Source: "Wide Residual Networks", Zagoruyko and Komodakis, 2016, arXiv 1605.07146, without
    dropout. WRN-28-10 has 36,479,194 parameters with 10 classes. Any image size is accepted: the
    last stage is averaged over its pixels.
    """

    def __init__(
        self, depth: int = 28, width: int = 10, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 or width < 1:
            raise DirpruneError(
                f"a wide ResNet has depth 6n + 4 (10, 16, 22, 28, 40, ...) and a width factor of "
                f"at least 1, got depth {depth} and width {width}"
            )
        blocks = (depth - 4) // 6
        planes = [16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = _stage(16, planes[0], blocks, stride=1)
        self.layer2 = _stage(planes[0], planes[1], blocks, stride=2)
        self.layer3 = _stage(planes[1], planes[2], blocks, stride=2)
        self.bn = nn.BatchNorm2d(planes[2])
        self.linear = nn.Linear(planes[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1)
        return self.linear(x.flatten(1))


def _stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """``blocks`` residual blocks, the first of which changes the width and the stride."""
    first = PreactivationBlock(in_planes, planes, stride)
    return nn.Sequential(first, *(PreactivationBlock(planes, planes, 1) for _ in range(blocks - 1)))
