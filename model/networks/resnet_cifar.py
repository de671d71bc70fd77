"""The CIFAR residual networks with shortcuts that have no parameters (option A)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import DirpruneError


class PadShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, with zero channels added before and after.

    The numbers are attributes of a module, not constants in a closure, so that surgery can change
    them when it removes channels of the stream.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = 0
        self.after = 0
        self.set_padding(before, after)

    def set_padding(self, before: int, after: int) -> None:
        """Change how many zero channels stand before and after those of the input."""
        if before < 0 or after < 0:
            raise DirpruneError(
                f"a shortcut cannot add a negative number of channels, got {before} before and "
                f"{after} after"
            )
        self.before = int(before)
        self.after = int(after)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, before + C + after, ceil(H / stride), ceil(W / stride)]."""
        thinned = x[:, :, :: self.stride, :: self.stride]
        return F.pad(thinned, (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """The three numbers, for ``print(network)``."""
        return f"stride={self.stride}, before={self.before}, after={self.after}"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ReLU after the sum."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        added = planes - in_planes
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or added:
            # Half of the new channels on each side, as in the widespread PyTorch version.
            self.shortcut = PadShortcut(stride, added // 2, added - added // 2)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, ``stride`` times smaller."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6n + 2: three stages of n blocks with 16, 32 and 64 channels.

    Source: "Deep Residual Learning for Image Recognition", He, Zhang, Ren and Sun, 2015, arXiv
    1512.03385, section 4.2 (CIFAR-10, option A). Depth 20, 32, 44, 56 and 110 have 269,722,
    464,154, 658,586, 853,018 and 1,727,962 parameters with 10 classes.

    Any image size is accepted: the last stage is averaged over its pixels.
    """

    def __init__(self, depth: int = 20, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise DirpruneError(
                f"the depth of a CIFAR ResNet is 6n + 2 (20, 32, 44, 56, 110, ...), got {depth}"
            )
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.linear(x.flatten(1))


def _stage(in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """``blocks`` residual blocks, the first of which changes the width and the stride."""
    first = BasicBlock(in_planes, planes, stride)
    return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))
