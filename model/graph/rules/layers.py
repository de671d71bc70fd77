"""Layers that read units and produce others: labels go in, fresh labels come out."""

from __future__ import annotations

from math import prod

import torch
from torch import fx

from ..labels import FIXED, Labels
from ..propagation import Propagation, Reader, Result, Work, layer_of
from ..trace import batch_first, module_of, shape_of
from .registry import register_rule


def _weight_and_bias(prop: Propagation, node: fx.Node) -> tuple[str, str | None] | None:
    """Names of a layer's weight and bias; None, and the input frozen, where they are computed."""
    weight = prop.parameter(node.args[1])
    bias_node = node.args[2] if len(node.args) > 2 else None
    bias = prop.parameter(bias_node)
    if weight is None or (bias_node is not None and bias is None):
        prop.refuse(node, "its weight is computed, not a parameter")
        prop.left_alone[module_of(node)] = "its weight is computed, not a parameter"
        return None
    return weight, bias


def _positions(shape: tuple[int, ...], channels: int) -> int:
    """Where a layer computes its channels, for one example of the two that were traced."""
    return prod(shape) // (2 * channels)


@register_rule("conv1d", "conv2d", "conv3d")
def _convolution(prop: Propagation, node: fx.Node) -> Result:
    names = _weight_and_bias(prop, node)
    if names is None:
        return None
    weight, bias = names
    source = node.args[0]
    assert isinstance(source, fx.Node)
    assert isinstance(node.args[1], fx.Node)
    labels, out_shape = prop.labels(source), shape_of(node)
    out_channels, per_group, *kernel = shape_of(node.args[1])
    groups = shape_of(source)[-len(kernel) - 1] // per_group
    channel_dim = len(out_shape) - len(kernel) - 1
    out_ids = prop.produce(weight, out_channels)
    if bias is not None:
        prop.bind(bias, 0, out_ids)
    if labels is not None and labels.dims != (channel_dim,):
        prop.refuse(node, "its units do not lie along the channel axis")
        labels = None
    if labels is not None and not batch_first(source):
        prop.refuse(node, "the examples do not lie along its first axis")
        labels = None
    per_pair = _positions(out_shape, out_channels) * prod(kernel)
    if groups == 1:
        in_ids = labels.ids if labels else torch.full((per_group,), FIXED)
        prop.bind(weight, 1, in_ids)
        if labels is not None:
            prop.readers.append(Reader(node, source, weight, channel_dim, in_ids))
        prop.work.append(Work(layer_of(weight), per_pair, out_ids, in_ids))
    else:
        # A whole group, its inputs and its outputs, is the smallest thing that can be removed; a
        # depthwise convolution is the case of groups of one channel. Nothing mixes across units,
        # so it is passed through: the gain acts where its outputs are read.
        if labels is None:
            prop.freeze(
                out_ids, f"the input of the grouped convolution {layer_of(weight)} is fixed"
            )
        else:
            rows = zip(labels.ids.view(groups, -1), out_ids.view(groups, -1), strict=True)
            for inside, outside in rows:
                members = inside.tolist() + outside.tolist()
                if FIXED in members:
                    prop.freeze(inside, "its group has inputs that no layer produces")
                    prop.freeze(outside, "its group has inputs that no layer produces")
                else:
                    prop.classes.union_all(members)
        prop.work.append(Work(layer_of(weight), per_pair * per_group, out_ids, None))
    return Labels((channel_dim,), out_ids)


@register_rule("linear")
def _linear(prop: Propagation, node: fx.Node) -> Result:
    names = _weight_and_bias(prop, node)
    if names is None:
        return None
    weight, bias = names
    source = node.args[0]
    assert isinstance(source, fx.Node)
    labels, out_shape = prop.labels(source), shape_of(node)
    last = len(out_shape) - 1
    out_ids = prop.produce(weight, out_shape[-1])
    if bias is not None:
        prop.bind(bias, 0, out_ids)
    if labels is not None and labels.dims != (last,):
        prop.refuse(node, "its units do not lie along the feature axis")
        prop.freeze(out_ids, "its input has units along another axis")
        labels = None
    if labels is not None and not batch_first(source):
        prop.refuse(node, "the examples do not lie along its first axis")
        labels = None
    in_ids = labels.ids if labels else torch.full((shape_of(source)[-1],), FIXED)
    prop.bind(weight, 1, in_ids)
    if labels is not None:
        prop.readers.append(Reader(node, source, weight, last, in_ids))
    positions = _positions(out_shape, out_shape[-1])
    prop.work.append(Work(layer_of(weight), positions, out_ids, in_ids))
    return Labels((last,), out_ids)
