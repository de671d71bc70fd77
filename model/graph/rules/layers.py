"""Layers that read units and produce others: labels go in, fresh labels come out."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx

from ..labels import FIXED, Labels
from ..propagation import Propagation, Result, layer_of
from ..records import Reader, Work
from ..trace import has_examples, shape_of
from .computed import leave_computed
from .registry import register_rule


@dataclass(frozen=True)
class Layer:
    """What a layer's rule needs: its weight, its input with labels (or None), its output labels.

    The outputs lie along ``out_axis`` of the weight, the inputs along the other of the first two;
    None: along none, as in a transposed convolution in groups.
    """

    weight: str
    source: fx.Node
    labels: Labels | None
    out_ids: Tensor
    out_axis: int | None


def open_layer(
    prop: Propagation, node: fx.Node, dim: int, axis: str, out_axis: int | None = 0
) -> Layer | None:
    """Make the labels of a layer's outputs along ``dim``, and find those of its inputs.

    None, and the input frozen, where the weight is computed. No labels, and the input frozen, where
    units or examples do not lie where the layer reads them.
    """
    source, weight_node, *more = node.args[:3]
    assert isinstance(source, fx.Node)
    assert isinstance(weight_node, fx.Node)
    weight, outputs = prop.parameter(weight_node), shape_of(node)[dim]
    if weight is not None:
        out_ids = prop.produce(weight, outputs, out_axis)
    else:
        # A part of a packed weight (queries, keys and values), or one that is transposed.
        found = None if out_axis is None else prop.part(weight_node, out_axis)
        if found is None:
            leave_computed(prop, node, *node.args[1:3])
            return None
        weight, out_axis, entries = found
        out_ids = prop.produce(weight, prop.size(weight, out_axis), out_axis)[entries]
    if more and more[0] is not None and not prop.bind_value(more[0], 0, out_ids):
        leave_computed(prop, node, *node.args[1:3])
        return None
    labels = prop.labels(source)
    if labels is not None and labels.dims != (dim,):
        prop.refuse(node, f"its units do not lie along the {axis} axis")
        prop.freeze(out_ids, "its input has units along another axis")
        labels = None
    if labels is not None and prop.examples(source) is None:
        told = "it is not known which entries of its input are of which example"
        prop.refuse(node, told if has_examples(source) else "it reads the same for all examples")
        labels = None
    return Layer(weight, source, labels, out_ids, out_axis)


def mix(prop: Propagation, node: fx.Node, layer: Layer, dim: int, per_pair: int) -> None:
    """The layer reads all its inputs for each output, ``per_pair`` multiply-adds for a pair."""
    features = shape_of(layer.source)[dim]
    in_ids = layer.labels.ids if layer.labels else torch.full((features,), FIXED)
    axis = 0 if layer.out_axis else 1
    prop.bind(layer.weight, axis, in_ids)
    examples = prop.examples(layer.source)
    if layer.labels is not None and examples is not None:
        prop.readers.append(Reader(node, layer.source, layer.weight, dim, in_ids, axis, examples))
    if has_examples(node):  # a table is made once for all examples
        prop.work.append(Work(layer_of(layer.weight), per_pair, layer.out_ids, in_ids))


def tie_groups(prop: Propagation, layer: Layer, groups: int) -> None:
    """A whole group, its inputs and its outputs, is the smallest thing that can be removed.

    A depthwise convolution is the case of groups of one channel. Nothing mixes across units, so it
    is passed through: the gain acts where its outputs are read.
    """
    labels, out_ids = layer.labels, layer.out_ids
    if labels is None:
        name = layer_of(layer.weight)
        prop.freeze(out_ids, f"the input of the grouped convolution {name} is fixed")
        return
    rows = zip(labels.ids.view(groups, -1), out_ids.view(groups, -1), strict=True)
    for inside, outside in rows:
        members = inside.tolist() + outside.tolist()
        if FIXED in members:
            prop.freeze(inside, "its group has inputs that no layer produces")
            prop.freeze(outside, "its group has inputs that no layer produces")
        else:
            prop.classes.union_all(members)


def positions(node: fx.Node, dim: int) -> int:
    """Where a layer computes its channels, for one example of the two that were traced."""
    return prod(shape_of(node)) // (2 * shape_of(node)[dim])


@register_rule("conv1d", "conv2d", "conv3d")
def _convolution(prop: Propagation, node: fx.Node) -> Result:
    assert isinstance(node.args[1], fx.Node)
    _, per_group, *kernel = shape_of(node.args[1])
    dim = len(shape_of(node)) - len(kernel) - 1
    layer = open_layer(prop, node, dim, "channel")
    if layer is None:
        return None
    out_ids = layer.out_ids
    groups = shape_of(layer.source)[dim] // per_group
    per_pair = positions(node, dim) * prod(kernel)
    if groups == 1:
        mix(prop, node, layer, dim, per_pair)
        return Labels((dim,), out_ids)
    tie_groups(prop, layer, groups)
    prop.work.append(Work(layer_of(layer.weight), per_pair * per_group, out_ids, None))
    return Labels((dim,), out_ids)


@register_rule("linear")
def _linear(prop: Propagation, node: fx.Node) -> Result:
    last = len(shape_of(node)) - 1
    layer = open_layer(prop, node, last, "feature")
    if layer is None:
        return None
    mix(prop, node, layer, last, positions(node, last))
    return Labels((last,), layer.out_ids)
