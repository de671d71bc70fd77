"""Normalisations: batch norm, and those whose statistics are of each example.

Batch and instance norm look at each channel by itself, group norm at a group of channels, which
becomes a unit, layer and RMS norm at all: these freeze what they read.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ..labels import FIXED, Labels
from ..propagation import Propagation, Result, layer_of
from ..schema import arguments
from ..trace import module_of, shape_of
from .registry import register_rule


def _name(prop: Propagation, node: fx.Node) -> str:
    """The norm by its layer: that of its scales, else the module in which it is called."""
    scales = prop.parameter(arguments(node)["weight"])
    name = layer_of(scales) if scales else module_of(node)
    return repr(name) if name else "in the network's own forward"


def _freeze_statistics(prop: Propagation, node: fx.Node, kind: str) -> None:
    """One reason for each layer, in the same words everywhere, so that reports can group them.

    The labels go on, so that what is added to the norm's output is left alone for the same reason.
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    prop.freeze_node(
        source,
        f"{kind} {_name(prop, node)} takes its statistics over these units, "
        "so that removing one changes all others",
    )


def _bind_channels(prop: Propagation, node: fx.Node, labels: Labels) -> bool:
    """Let the parameters and buffers with one value per channel shrink with the channels."""
    values = arguments(node)
    names = ("weight", "bias", "running_mean", "running_var")
    found = [values[name] for name in names if values.get(name) is not None]
    parameters = [prop.parameter(value) for value in found]
    if labels.dims != (1,):
        prop.refuse(node, "its units do not lie along the channel axis")
        return False
    if None in parameters:
        prop.refuse(node, "its scales are computed, not parameters")
        return False
    for parameter in filter(None, parameters):
        prop.bind(parameter, 0, labels.ids)
    return True


@register_rule("batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
def _batch_norm(prop: Propagation, node: fx.Node) -> Result:
    """Its results but the first are statistics that nothing in eval mode reads."""
    labels = prop.labels(node.args[0])
    passed = labels if labels is not None and _bind_channels(prop, node, labels) else None
    return passed if isinstance(node.meta["val"], Tensor) else [passed, None, None]


@register_rule("group_norm")
def _group_norm(prop: Propagation, node: fx.Node) -> Result:
    """The channels of one group share their statistics: whole groups are units."""
    source, groups = node.args[0], arguments(node)["num_groups"]
    assert isinstance(source, fx.Node)
    labels = prop.labels(source)
    if labels is not None and (groups == 1 or any(d > 1 for d in labels.dims)):
        _freeze_statistics(prop, node, "group norm")
        return labels
    if labels is None or not _bind_channels(prop, node, labels):
        prop.count(node, "num_groups", torch.full((groups,), FIXED))
        return None
    rows = labels.ids.view(groups, -1)
    for group in rows:
        if FIXED in group.tolist():
            prop.freeze(group, "its group of a group norm has channels that no layer produces")
        else:
            prop.classes.union_all(group.tolist())
    prop.count(node, "num_groups", rows.amin(1))
    prop.count(node, "num_channels", labels.ids)
    return labels


@register_rule("instance_norm")
def _instance_norm(prop: Propagation, node: fx.Node) -> Result:
    """Each channel of each example has statistics of its own."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    labels = prop.labels(source)
    if labels is None or not _bind_channels(prop, node, labels):
        prop.count(node, "num_features", torch.full((shape_of(source)[1],), FIXED))
        return None
    prop.count(node, "num_features", labels.ids)
    return labels


@register_rule("layer_norm", "rms_norm")
def _layer_norm(prop: Propagation, node: fx.Node) -> Result:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    labels = prop.labels(source)
    if labels is None:
        return None
    first = len(shape_of(source)) - len(arguments(node)["normalized_shape"])
    if any(d >= first for d in labels.dims):
        kind = "layer norm" if "layer_norm" in str(node.target) else "RMS norm"
        _freeze_statistics(prop, node, kind)
    return labels
