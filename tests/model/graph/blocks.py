"""The blocks that people build networks of; each takes a width and says the one that it gives."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.networks import PadShortcut

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "hardswish": F.hardswish,
    "sigmoid": torch.sigmoid,  # sigmoid(0) is not 0
    "gelu": F.gelu,
    "cos": torch.cos,
}


def divisors(number: int) -> list[int]:
    return [d for d in range(2, number + 1) if number % d == 0]


def norm(kind: str, width: int, dims: int = 2) -> nn.Module:
    """One of the norms of channels; the number of groups is the smallest that divides."""
    batch, instance = {
        1: (nn.BatchNorm1d, nn.InstanceNorm1d),
        2: (nn.BatchNorm2d, nn.InstanceNorm2d),
    }[dims]
    groups = (divisors(width) or [1])[0]
    made: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "batch": lambda: batch(width),
        "instance": lambda: instance(width),
        "instance, affine": lambda: instance(width, affine=True, track_running_stats=True),
        "group": lambda: nn.GroupNorm(groups, width),
        "group, bare": lambda: nn.GroupNorm(groups, width, affine=False),
        "each": lambda: nn.GroupNorm(width, width),
    }
    return made[kind]()


class Act(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x)


class Conv(nn.Sequential):
    """Convolution, norm, activation."""

    def __init__(self, width: int, out: int, kind: str, act: str, kernel: int = 3) -> None:
        super().__init__(
            nn.Conv2d(width, out, kernel, padding=kernel // 2), norm(kind, out), Act(act)
        )
        self.out = out


class Grouped(nn.Sequential):
    """Grouped or depthwise: as many groups as asked for, if they divide."""

    def __init__(self, width: int, groups: int, times: int, kind: str, act: str) -> None:
        groups = max((d for d in divisors(width) if d <= groups), default=1)
        self_out = width * times
        super().__init__(
            nn.Conv2d(width, self_out, 3, padding=1, groups=groups), norm(kind, self_out), Act(act)
        )
        self.out = self_out


class Residual(nn.Module):
    def __init__(self, width: int, inner: int, kind: str, act: str, *, pre: bool) -> None:
        super().__init__()
        self.norm = norm(kind, width) if pre else nn.Identity()
        self.one, self.two = Conv(width, inner, kind, act), nn.Conv2d(inner, width, 1)
        self.act, self.out = Act(act), width

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.two(self.one(self.norm(x))))


class Twice(nn.Module):
    """One layer that is used again and again."""

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        self.conv, self.act, self.out = nn.Conv2d(width, width, 3, padding=1), Act(act), width

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(self.act(self.conv(x))))


class Shared(nn.Module):
    """Two layers with one weight, and each a bias of its own."""

    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.two.weight = self.one.weight
        self.act, self.out = Act(act), width

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.act(self.one(x)))


class Squeeze(nn.Module):
    """Squeeze and excitation: one branch scales the other."""

    def __init__(self, width: int, inner: int, act: str) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)
        self.act, self.out = Act(act), width

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(self.act(self.down(x.mean((2, 3), keepdim=True)))))


class Dense(nn.Module):
    """What comes in, concatenated with a convolution of it."""

    def __init__(self, width: int, growth: int, kind: str, act: str) -> None:
        super().__init__()
        self.conv, self.out = Conv(width, growth, kind, act), width + growth

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], 1)


class Inception(nn.Module):
    """Branches side by side, one of them pooling."""

    def __init__(self, width: int, a: int, b: int, kind: str, act: str) -> None:
        super().__init__()
        self.a, self.b = Conv(width, a, kind, act, 1), Conv(width, b, kind, act)
        self.out = a + b + width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), F.max_pool2d(x, 3, 1, 1), self.b(x)], 1)


class Gated(nn.Module):
    """Two halves, one the gate of the other: by chunk, or by GLU."""

    def __init__(self, width: int, half: int, *, glu: bool) -> None:
        super().__init__()
        self.conv, self.glu, self.out = nn.Conv2d(width, 2 * half, 1), glu, half

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.glu:
            return F.glu(x, 1)
        value, gate = x.chunk(2, 1)
        return value * torch.sigmoid(gate)


class Shuffle(nn.Module):
    """Two halves, one convolved, then their channels one by one (as in ShuffleNet)."""

    def __init__(self, width: int, kind: str, act: str) -> None:
        super().__init__()
        half = width // 2
        self.conv, self.out = Conv(half, half, kind, act), width

    def forward(self, x: Tensor) -> Tensor:
        one, two = x.chunk(2, 1)
        x = torch.cat([one, self.conv(two)], 1)
        batch, width, *size = x.shape
        return x.view(batch, 2, width // 2, *size).transpose(1, 2).reshape(batch, width, *size)


class Up(nn.Module):
    """A transposed convolution that doubles the image, which is then halved again."""

    def __init__(self, width: int, out: int, groups: int, act: str) -> None:
        super().__init__()
        groups = max((d for d in divisors(width) if d <= groups and out % d == 0), default=1)
        self.conv = nn.ConvTranspose2d(width, out, 2, 2, groups=groups)
        self.act, self.out = Act(act), out

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.act(self.conv(x)), 2)


class Padded(nn.Module):
    """A residual block that grows; its shortcut adds channels of zeros (option A)."""

    def __init__(self, width: int, before: int, after: int, kind: str, act: str) -> None:
        super().__init__()
        self.out = width + before + after
        self.one, self.two = Conv(width, 4, kind, act), nn.Conv2d(4, self.out, 1)
        self.shortcut, self.act = PadShortcut(1, before, after), Act(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.shortcut(x) + self.two(self.one(x)))


class Pool(nn.Module):
    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind, self.out = kind, width

    def forward(self, x: Tensor) -> Tensor:
        return (F.max_pool2d if self.kind == "max" else F.avg_pool2d)(x, 3, 1, 1)


class Scale(nn.Module):
    """A scale and a shift for each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(width, 1, 1))
        self.register_buffer("shift", torch.rand(1, width, 1, 1))
        self.out = width

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Tokens(nn.Module):
    """Pixels as tokens through a transformer's blocks: layer norm, attention, MLP."""

    def __init__(self, width: int, heads: int, inner: int, act: str, *, attend: bool) -> None:
        super().__init__()
        heads = max(d for d in [1, *divisors(width)] if d <= heads)
        # By the size of a head: code that fixes their number instead cannot lose any. A single head
        # cannot go, and none of its features either, since the code fixes their number.
        self.size, self.attend, self.out = width // heads, attend and heads > 1, width
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.one, self.two, self.act = nn.Linear(width, inner), nn.Linear(inner, width), Act(act)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        x = x.flatten(2).transpose(1, 2)
        if self.attend:
            y = self.norms[0](x)
            q, k, v = (
                layer(y).unflatten(2, (-1, self.size)).transpose(1, 2)
                for layer in (self.q, self.k, self.v)
            )
            x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + self.two(self.act(self.one(self.norms[1](x))))
        return x.transpose(1, 2).unflatten(2, (height, -1))
