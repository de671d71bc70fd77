"""Random changes to training images, for a whole batch at a time.

All randomness comes from torch's global generator, so that ``torch.manual_seed`` makes a run
repeatable. Each image is shifted by its own minimum first and back afterwards, so that what the
image does not cover is filled with its darkest value: the background of digits, and near black in
photographs, which is what padding does before normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.errors import unknown_name

Augmentation = Callable[[Tensor], Tensor]

CROP_PADDING = 4
LARGEST_SHIFT = 2
LARGEST_ANGLE = 10.0  # degrees


def crop_flip(images: Tensor) -> Tensor:
    """A crop of the image padded by 4 pixels, mirrored half of the time (He et al., 2015)."""
    moved = _move(images, CROP_PADDING)
    flip = torch.rand(len(images)).to(images.device) < 0.5
    return torch.where(flip.view(-1, 1, 1, 1), moved.flip(-1), moved)


def shift(images: Tensor) -> Tensor:
    """A shift by up to 2 pixels; by up to 1 where the image has fewer than 16."""
    return _move(images, _shift_limit(images))


def small_shift(images: Tensor) -> Tensor:
    """A shift by up to 1 pixel: enough for a network too small to learn what larger ones ask."""
    return _move(images, 1)


def shift_rotate(images: Tensor) -> Tensor:
    """A shift as in :func:`shift` and a rotation by up to 10 degrees."""
    angle = torch.empty(len(images)).uniform_(-LARGEST_ANGLE, LARGEST_ANGLE) * (math.pi / 180)
    zero = torch.zeros_like(angle)
    rows = (
        torch.stack([angle.cos(), -angle.sin(), zero], -1),
        torch.stack([angle.sin(), angle.cos(), zero], -1),
    )
    theta = torch.stack(rows, 1).to(images)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    darkest = images.amin((2, 3), keepdim=True)
    turned = F.grid_sample(images - darkest, grid, align_corners=False) + darkest
    return _move(turned, _shift_limit(images))


AUGMENTATIONS: dict[str, Augmentation] = {
    "crop-flip": crop_flip,
    "shift": shift,
    "small-shift": small_shift,
    "shift-rotate": shift_rotate,
}


def augmentation(name: str | None) -> Augmentation | None:
    """The augmentation of this name; None stays None."""
    if name is None:
        return None
    if name not in AUGMENTATIONS:
        raise unknown_name("augmentation", name, AUGMENTATIONS)
    return AUGMENTATIONS[name]


def _shift_limit(images: Tensor) -> int:
    return LARGEST_SHIFT if min(images.shape[-2:]) >= 16 else 1


def _move(images: Tensor, limit: int) -> Tensor:
    """Every image moved by its own whole number of pixels, up to ``limit`` either way."""
    count, _, height, width = images.shape
    darkest = images.amin((2, 3), keepdim=True)
    padded = F.pad(images - darkest, (limit, limit, limit, limit))
    # Drawn on the CPU, so that a run on a GPU sees the same shifts.
    offsets = torch.randint(2 * limit + 1, (2, count, 1)).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    example = torch.arange(count, device=images.device).view(-1, 1, 1)
    # Indices on both sides of the channel slice put the channels last.
    moved = padded[example, :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
    return moved.contiguous() + darkest
