"""What networks with some units silenced say of held-out images, one image at a time."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from ..inference.classes import check_classes
from ..inference.loop import Loader, move_batch, same_batches
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork


def masked_gains(model: SwitchedNetwork, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gains site -> [1, K]: one where the unit is kept, as the pruned network has it, else zero."""
    gains = model.unit_gains()
    for name, units in kept.items():
        row = torch.zeros_like(gains[name])
        row[:, units.to(row.device)] = 1
        gains[name] = row
    return gains


def correct(
    model: SwitchedNetwork,
    gains: Mapping[str, Tensor],
    loader: Loader,
    *,
    most: int | None = None,
    label: str = "",
) -> Tensor:
    """Which examples the classifier gets right at each row of the gains, site -> [S, K].

    A loader that shuffles by torch's generators gives the same order at each call. Where results of
    several calls are compared image by image, :func:`classified` gives the labels to be sure by.

    Args:
        model: the switched network.
        gains: site -> [S, K].
        loader: batches of (inputs, targets).
        most: stop after so many examples.
        label: of the progress bar.

    Returns:
        [S, n], booleans on the CPU.

    Raises:
        DirpruneError: no classifier, or an empty loader.
    """
    return classified(model, gains, loader, most=most, label=label)[0]


@torch.no_grad()
def classified(
    model: SwitchedNetwork,
    gains: Mapping[str, Tensor],
    loader: Loader,
    *,
    most: int | None = None,
    label: str = "",
) -> tuple[Tensor, Tensor]:
    """:func:`correct`, and the labels [n] of the examples in that order, both on the CPU."""
    number = len(next(iter(gains.values())))
    rows = [
        {name: g[s : s + 1].to(model.device) for name, g in gains.items()} for s in range(number)
    ]
    parts, labels = [], []
    with same_batches(loader, [0], model.device):
        for batch in tqdm(loader, desc=label, unit="batch", disable=None, leave=False):
            inputs, targets = move_batch(batch, model.device)
            right = []
            for row in rows:
                outputs = model.outputs_at_gains(inputs, row)
                check_classes(outputs, targets)
                right.append(outputs.argmax(1) == targets)
            parts.append(torch.stack(right).cpu())
            labels.append(targets.cpu())
            if most is not None and sum(map(len, labels)) >= most:
                break
    if not parts:
        raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")
    return torch.cat(parts, dim=1)[:, :most], torch.cat(labels)[:most]
