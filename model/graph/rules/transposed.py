"""Transposed convolutions, whose weight is [in, out / groups, kernel]."""

from __future__ import annotations

from math import prod

from torch import fx

from ..labels import Labels
from ..propagation import Propagation, Result, layer_of
from ..records import Work
from ..schema import arguments
from ..trace import shape_of
from .layers import mix, open_layer, positions, tie_groups
from .registry import register_rule


@register_rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _transposed_convolution(prop: Propagation, node: fx.Node) -> Result:
    source, weight = node.args[:2]
    assert isinstance(source, fx.Node)
    assert isinstance(weight, fx.Node)
    _, per_group, *kernel = shape_of(weight)
    dim = len(shape_of(node)) - len(kernel) - 1
    groups = int(arguments(node)["groups"])
    layer = open_layer(prop, node, dim, "channel", out_axis=1 if groups == 1 else None)
    if layer is None:
        return None
    # Each input position is spread over a kernel of outputs.
    per_pair = positions(source, dim) * prod(kernel)
    if groups == 1:
        mix(prop, node, layer, dim, per_pair)
    else:
        if layer.labels is not None:
            prop.bind(layer.weight, 0, layer.labels.ids)
        tie_groups(prop, layer, groups)
        in_ids = layer.labels.ids if layer.labels else layer.out_ids
        prop.work.append(Work(layer_of(layer.weight), per_pair * per_group, in_ids, None))
    return Labels((dim,), layer.out_ids)
