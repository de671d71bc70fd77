"""Layers that read units and produce others: labels go in, fresh labels come out."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx

from ..labels import FIXED, Labels
from ..propagation import Propagation, Reader, Result, Work, layer_of
from ..trace import batch_first, module_of, shape_of
from .registry import register_rule


@dataclass(frozen=True)
class _Layer:
    """What a layer's rule needs: its weight, its input with labels (or None), its output labels."""

    weight: str
    source: fx.Node
    labels: Labels | None
    out_ids: Tensor


def _open(prop: Propagation, node: fx.Node, dim: int, axis: str) -> _Layer | None:
    """Make the labels of a layer's outputs along ``dim``, and find those of its inputs.

    None, and the input frozen, where the weight is computed. No labels, and the input frozen, where
    units or examples do not lie where the layer reads them.
    """
    weight = prop.parameter(node.args[1])
    bias_node = node.args[2] if len(node.args) > 2 else None
    bias = prop.parameter(bias_node)
    if weight is None or (bias_node is not None and bias is None):
        prop.refuse(node, "its weight is computed, not a parameter")
        prop.left_alone[module_of(node)] = "its weight is computed, not a parameter"
        return None
    source = node.args[0]
    assert isinstance(source, fx.Node)
    labels = prop.labels(source)
    out_ids = prop.produce(weight, shape_of(node)[dim])
    if bias is not None:
        prop.bind(bias, 0, out_ids)
    if labels is not None and labels.dims != (dim,):
        prop.refuse(node, f"its units do not lie along the {axis} axis")
        prop.freeze(out_ids, "its input has units along another axis")
        labels = None
    if labels is not None and not batch_first(source):
        prop.refuse(node, "the examples do not lie along its first axis")
        labels = None
    return _Layer(weight, source, labels, out_ids)


def _mix(prop: Propagation, node: fx.Node, layer: _Layer, dim: int, per_pair: int) -> None:
    """The layer reads all its inputs for each output, ``per_pair`` multiply-adds for a pair."""
    features = shape_of(layer.source)[dim]
    in_ids = layer.labels.ids if layer.labels else torch.full((features,), FIXED)
    prop.bind(layer.weight, 1, in_ids)
    if layer.labels is not None:
        prop.readers.append(Reader(node, layer.source, layer.weight, dim, in_ids))
    prop.work.append(Work(layer_of(layer.weight), per_pair, layer.out_ids, in_ids))


def _positions(node: fx.Node, dim: int) -> int:
    """Where a layer computes its channels, for one example of the two that were traced."""
    return prod(shape_of(node)) // (2 * shape_of(node)[dim])


@register_rule("conv1d", "conv2d", "conv3d")
def _convolution(prop: Propagation, node: fx.Node) -> Result:
    assert isinstance(node.args[1], fx.Node)
    _, per_group, *kernel = shape_of(node.args[1])
    dim = len(shape_of(node)) - len(kernel) - 1
    layer = _open(prop, node, dim, "channel")
    if layer is None:
        return None
    out_ids, labels = layer.out_ids, layer.labels
    groups = shape_of(layer.source)[dim] // per_group
    per_pair = _positions(node, dim) * prod(kernel)
    if groups == 1:
        _mix(prop, node, layer, dim, per_pair)
        return Labels((dim,), out_ids)
    # A whole group, its inputs and its outputs, is the smallest thing that can be removed; a
    # depthwise convolution is the case of groups of one channel. Nothing mixes across units, so it
    # is passed through: the gain acts where its outputs are read.
    name = layer_of(layer.weight)
    if labels is None:
        prop.freeze(out_ids, f"the input of the grouped convolution {name} is fixed")
    else:
        rows = zip(labels.ids.view(groups, -1), out_ids.view(groups, -1), strict=True)
        for inside, outside in rows:
            members = inside.tolist() + outside.tolist()
            if FIXED in members:
                prop.freeze(inside, "its group has inputs that no layer produces")
                prop.freeze(outside, "its group has inputs that no layer produces")
            else:
                prop.classes.union_all(members)
    prop.work.append(Work(name, per_pair * per_group, out_ids, None))
    return Labels((dim,), out_ids)


@register_rule("linear")
def _linear(prop: Propagation, node: fx.Node) -> Result:
    last = len(shape_of(node)) - 1
    layer = _open(prop, node, last, "feature")
    if layer is None:
        return None
    _mix(prop, node, layer, last, _positions(node, last))
    return Labels((last,), layer.out_ids)
