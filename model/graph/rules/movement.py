"""Data movement: the very operation, applied to the labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from ..labels import FIXED, Labels
from ..propagation import Padding, Propagation, Result, op_name, tensor_args
from ..trace import is_tensor, module_of, shape_of
from .registry import register_rule


def movement(prop: Propagation, node: fx.Node) -> Result:
    """Data movement: apply the operation itself to a tensor of labels, then compress."""
    sources = tensor_args(node)
    if all(prop.labels(source) is None for source in sources):
        return None

    def labels_of(value: fx.Node) -> Any:
        if not is_tensor(value):
            return int(value.meta["val"].node.hint)  # a symbolic size
        labels, shape = prop.labels(value), shape_of(value)
        full = labels.full(shape) if labels else torch.full((1,), FIXED).expand(shape)
        return full.contiguous()  # a view of a stride-0 tensor may not exist

    target = node.target
    assert callable(target)
    result = target(*fx.map_arg(node.args, labels_of), **fx.map_arg(node.kwargs, labels_of))
    if isinstance(result, Tensor):
        return Labels.compress(result)
    return [Labels.compress(part) for part in result]


for _name in (
    "view reshape _unsafe_view flatten unflatten permute transpose t squeeze unsqueeze select "
    "slice split split_with_sizes chunk unbind flip roll pixel_shuffle pixel_unshuffle "
    "channel_shuffle movedim swapaxes expand narrow"
).split():
    register_rule(_name)(movement)


@register_rule("cat", "stack")
def _concatenate(prop: Propagation, node: fx.Node) -> Result:
    """Along the units' axis their labels stand one after the other; along another they must agree,
    as the sizes there must, so that units at the same place go together."""
    sources = tensor_args(node)
    found = [labels for labels in map(prop.labels, sources) if labels is not None]
    if not found:
        return None
    dim = int(node.args[1] if len(node.args) > 1 else 0) % len(shape_of(node))  # type: ignore[arg-type]
    stacked = op_name(node) == "stack"
    if not stacked and all(labels.dims == (dim,) for labels in found):
        return movement(prop, node)
    first, *more = found
    shape = first.ids.shape
    same = all(other.dims == first.dims and other.ids.shape == shape for other in more)
    if not same or len(found) < len(sources) or (not stacked and dim in first.dims):
        prop.refuse(node, "its units meet other values at the same place")
        return None
    for other in more:
        prop.couple(first.ids, other.ids)
    return Labels(tuple(d + (stacked and d >= dim) for d in first.dims), first.ids)


@register_rule("pad", "constant_pad_nd")
def _pad(prop: Propagation, node: fx.Node) -> Result:
    """Padding along the units' axis adds channels of zeros, which get labels of their own.

    An addition then couples them with real channels, one by one: that is how the shortcuts of
    CIFAR's residual networks (option A) tie a unit of one stage to some units of the next. The
    widths of the padding shrink with them, which the module that pads must allow.
    """
    source = node.args[0]
    assert isinstance(source, fx.Node)
    labels, shape = prop.labels(source), shape_of(source)
    if labels is None:
        return None
    widths = [int(w) for w in node.args[1]]  # type: ignore[union-attr,arg-type]
    mode = node.args[2] if op_name(node) == "pad" and len(node.args) > 2 else "constant"
    dims = {len(shape) - 1 - i // 2 for i, width in enumerate(widths) if width}
    if not dims & set(labels.dims):
        return labels
    if len(labels.dims) > 1 or mode != "constant":
        prop.refuse(node, "it pads along the units")
        return None
    (dim,) = labels.dims
    before, after = widths[2 * (len(shape) - 1 - dim) :][:2]
    if before < 0 or after < 0:
        prop.refuse(node, "it crops along the units")
        return None
    zeros = prop.classes.new(before + after)
    ids = torch.cat([zeros[:before], labels.ids, zeros[before:]])
    prop.paddings.append(Padding(module_of(node), before, after, ids))
    return Labels((dim,), ids)
