"""Data movement: the very operation, applied to the labels.

What the smaller network does at such an operation is the same only if every number in its code
still fits. Where units lie along one axis that stays one axis, whole, it does: they are removed and
the others keep their order. Where an axis of units is taken apart, see :mod:`.parts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from ..labels import FIXED, Labels
from ..propagation import Propagation, Result, op_name, tensor_args
from ..records import Padding
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
        return labels.full(shape) if labels else torch.full((1,), FIXED).expand(shape)

    def copied(value: fx.Node) -> Any:
        found = labels_of(value)
        return found.contiguous() if isinstance(found, Tensor) else found

    def run(of: Callable[[fx.Node], Any]) -> Any:
        target = node.target
        assert callable(target)
        return target(*fx.map_arg(node.args, of), **fx.map_arg(node.kwargs, of))

    try:
        result = run(labels_of)  # stride-0 tensors, which take no memory
    except RuntimeError:
        result = run(copied)  # a view that merges units with other axes needs them in full
    if isinstance(result, Tensor):
        return Labels.compress(result)
    return [Labels.compress(part) for part in result]


for _name in (
    "permute transpose t numpy_T mT movedim swapaxes squeeze unsqueeze flip expand repeat tile "
    "repeat_interleave pixel_unshuffle"
).split():
    register_rule(_name)(movement)


@register_rule("cat", "stack")
def _concatenate(prop: Propagation, node: fx.Node) -> Result:
    """Along the units' axis their labels stand one after the other; along another they must agree,
    as the sizes there must, so that units at the same place go together. A parameter among them (a
    class token) shrinks with the units."""
    sources = tensor_args(node)
    found = [labels for labels in map(prop.labels, sources) if labels is not None]
    if not found:
        return None
    dim = int(node.args[1] if len(node.args) > 1 else 0) % len(shape_of(node))  # type: ignore[arg-type]
    stacked = op_name(node) == "stack"
    if not stacked and all(labels.dims == (dim,) for labels in found):
        parts = []
        for source in node.args[0]:  # type: ignore[union-attr]
            assert isinstance(source, fx.Node)
            labels = prop.labels(source)
            missing = torch.full((shape_of(source)[dim],), FIXED)
            parts.append(missing if labels is None else labels.ids)
        return Labels((dim,), torch.cat(parts))
    first, *more = found
    shape = first.ids.shape
    same = all(other.dims == first.dims and other.ids.shape == shape for other in more)
    same = same and (stacked or dim not in first.dims)
    others = [source for source in sources if prop.labels(source) is None]
    if not same or (others and len(first.dims) > 1):
        prop.refuse(node, "its units meet other values at the same place")
        return None
    if not all(prop.bind_value(other, first.dims[0], first.ids) for other in others):
        prop.refuse(node, "its units meet values that no layer produces")
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
