"""Close-ups of single units of a few sites, made while network and images are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...inference.data import ImageData, loader
from ...model.decision import Decision
from ...model.switched import SwitchedNetwork
from ..class_effects import ClassEffects, class_effects
from ..evidence.switches import fixed_images, take
from ..feature_maps import feature_maps, sites_with_maps
from ..plots import SiteView, first_and_last, spread_out

SITES = 3  # of each kind of picture
EACH_END = 10  # units from either end of the ranking whose removal is looked at
IMAGES = 300  # on which: a small part of what the posterior and its diagnostics take
PICTURES = 4  # images with feature maps


@dataclass(frozen=True)
class Closeups:
    """What single units do, on validation images.

    Attributes:
        effects: what removals do to each class.
        pictures: [n, C, H, W], images on the scale from 0 to 1.
        maps: site -> (U units, [n, U, H, W]), the feature maps of these images.
    """

    effects: ClassEffects
    pictures: Tensor
    maps: Mapping[str, tuple[list[int], Tensor]]

    def told(self) -> dict[str, Any]:
        """What the captions say of it."""
        images = self.effects.images
        return {
            "images": f"{int(images.sum()):,}",
            "fewest": int(images.min()),
            "most": int(images.max()),
            "each_end": EACH_END,
            "sites": len(self.effects.units),
            "maps": bool(self.maps),
        }


def make_closeups(
    model: SwitchedNetwork,
    views: Mapping[str, SiteView],
    decision: Decision,
    data: ImageData,
) -> Closeups:
    """Close-ups of at most three sites, from the first to the last, and of the decision as a whole.

    Args:
        model: the switched network.
        views: of its sites, which rank the units.
        decision: the units that stay.
        data: its validation images are looked at, evenly from the first to the last, since they
            may be in the order of their classes; their normalisation is undone.
    """
    last, number = len(data.validation) - 1, min(IMAGES, len(data.validation))
    images = data.validation.subset(torch.linspace(0, last, number).round().long())
    batches = loader(images, number)
    units = {view.name: first_and_last(view, EACH_END) for view in spread_out(views, SITES)}
    effects = class_effects(
        model, batches, decision, images=number, units=units, class_names=data.class_names
    )
    inputs, targets = fixed_images(model, batches, number)
    inputs = take(inputs, _varied(targets.cpu(), PICTURES).to(model.device))
    able = {name: views[name] for name in sites_with_maps(model)}
    maps = {}
    for view in spread_out(able, SITES):
        shown = first_and_last(view)
        maps[view.name] = (shown, feature_maps(model, view.name, inputs)[:, shown])
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.mean, data.std))
    return Closeups(effects, inputs.float().cpu() * std + mean, maps)


def _varied(labels: Tensor, number: int) -> Tensor:
    """The first image of each class, then the others, at most so many; in their order.

    >>> _varied(torch.tensor([3, 3, 1, 3, 0]), 4)
    tensor([0, 1, 2, 4])
    """
    seen: list[int] = []
    for i, label in enumerate(labels.tolist()):
        if label not in labels[seen].tolist():
            seen.append(i)
    others = [i for i in range(len(labels)) if i not in seen]
    return torch.tensor(sorted((seen + others)[:number]))
