"""Linear layers that read a flattened feature map: each of their inputs as a unit of its own.

By default the inputs that come of one channel are one unit, the channel, which is kept or removed
with all of them. Here each gets a label of its own, and a site (``fc1.inputs``) holds them all.
The channels stay units, too: the gain of an input is that of its channel times its own.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ..selected import SelectedLinear
from .labels import FIXED
from .propagation import Propagation, layer_of, op_name
from .records import FlatInputs, Reader
from .trace import shape_of


def single_features(prop: Propagation, network: nn.Module) -> None:
    """Make a unit of every input feature of each flattened linear layer.

    A layer to which that does not apply is noted with the reason, as ``fc1.inputs``.
    """
    for reader in [reader for reader in prop.readers if _is_flattened(reader)]:
        layer = layer_of(reader.weight)
        reason = _obstacle(prop, network, reader)
        if reason is not None:
            prop.left_alone[inputs_of(layer)] = reason
            continue
        own = reader.ids != FIXED
        features = torch.full_like(reader.ids, FIXED)
        features[own] = prop.classes.new(int(own.sum()))
        prop.axes[reader.weight, reader.axis] = features
        if isinstance(network.get_submodule(layer), SelectedLinear):
            prop.axes[f"{layer}.index", 0] = features
        prop.readers.append(replace(reader, ids=features))
        prop.work = [
            replace(w, columns=features) if w.layer == layer and w.columns is reader.ids else w
            for w in prop.work
        ]
        prop.flat_inputs.append(FlatInputs(layer, reader.weight, features, reader.ids))


def inputs_of(layer: str) -> str:
    """What the inputs of a layer are called."""
    return f"{layer}.inputs"


def _is_flattened(reader: Reader) -> bool:
    """Does a linear layer read several features of one channel, in one row for each example?"""
    ids = reader.ids[reader.ids != FIXED]
    flat = op_name(reader.node) == "linear" and len(shape_of(reader.source)) == 2
    return flat and len(ids.unique()) < len(ids)


def _obstacle(prop: Propagation, network: nn.Module, reader: Reader) -> str | None:
    """Why the layer cannot be made to read some of its inputs alone."""
    layer, weight = layer_of(reader.weight), reader.weight
    named = network.named_modules(remove_duplicate=False)
    module = dict(named).get(layer)
    if type(module) not in (nn.Linear, SelectedLinear) or weight != f"{layer}.weight":
        return f"{weight} is not the weight of a Linear module, which could select its inputs"
    uses = [
        user for n in prop.module.graph.nodes if prop.parameter(n) == weight for user in n.users
    ]
    if len(uses) > 1:
        return f"the network uses {weight} in several places"
    return None
