"""Layers that read units, where a regression can say what they read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...inference.compensation.least_squares import LARGEST
from ...inference.compensation.rows import features_of, holder
from ...model.errors import DirpruneError
from ...model.graph.propagation import layer_of
from ...model.switched import SwitchedNetwork


def of_site(model: SwitchedNetwork, site: str, units: Tensor) -> Tensor:
    """Which unit of the site each of these unit numbers is; -1 for those of none."""
    start = model.graph.offsets[site]
    inside = (units >= start) & (units < start + model.sites[site].size)
    return torch.where(inside, units - start, -1)


def reading_layers(model: SwitchedNetwork, what: str) -> dict[str, list[Tensor]]:
    """Module that reads units -> the unit number of each of its input features, -1 for none.

    In the order of the graph. Twice where they are of two kinds, the channels of a flattened map
    and their features.

    Args:
        model: the switched network.
        what: asks; the message begins with it.

    Raises:
        DirpruneError: a site is read by anything but modules of one convolution or linear layer, of
            at most 8,192 inputs.
    """
    layers: dict[str, list[Tensor]] = {}
    flattened = {flat.weight for flat in model.graph.flattened}
    refused = {layer_of(p.node.name): "it is a product" for p in model.graph.products}
    at = {node: i for i, node in enumerate(model.graph.module.graph.nodes)}
    for consumer in sorted(model.graph.consumers, key=lambda c: at[c.node]):
        name = holder(model.network, consumer.weight)
        if name is None:
            refused[layer_of(consumer.weight)] = "it is not one convolution or linear module"
            continue
        layer: Any = model.network.get_submodule(name)
        if features_of(layer) > LARGEST:
            refused[name] = f"it has {features_of(layer):,} inputs, more than {LARGEST:,}"
            continue
        units = consumer.units.repeat_interleave(features_of(layer) // len(consumer.units))
        kinds = layers.setdefault(name, [])
        if any(torch.equal(known, units) for known in kinds):
            continue
        if kinds and consumer.weight not in flattened:
            refused[name] = "it reads different units in different calls"
        kinds.append(units)
    if refused:
        reasons = "; ".join(f"{layer}: {why}" for layer, why in refused.items())
        raise DirpruneError(
            f"{what} needs sites that are read by modules of one convolution or linear layer alone "
            f"({reasons}): leave such sites out by exclude, or take another criterion"
        )
    return layers
