"""Operations that take an axis of units apart: views, chunks, slices, shuffles.

The code around them holds numbers: two groups, three parts of a ``chunk``, every second channel.
The numbers stay right, and the units in order, if each part loses the same places. Units at one
place of all parts are therefore tied, and go together. Which of the sizes the author wrote down and
which the code computes cannot be seen in a graph; that the number of parts is the fixed one is the
usual case, and :func:`dirprune.model.surgery.find_failures` tries it.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from torch import Tensor, fx

from ..labels import FIXED, Labels
from ..propagation import Propagation, Result, op_name
from ..schema import arguments
from ..trace import as_size, shape_of
from .movement import movement
from .registry import RULES, register_rule

PRODUCTS = frozenset({"matmul", "bmm", "mm", "baddbmm", "einsum", "scaled_dot_product_attention"})


def tie(prop: Propagation, ids: Tensor, axis: int) -> None:
    """Units at one place of all parts go together; ``axis`` of ``ids`` counts the parts."""
    for place in ids.movedim(axis, 0).flatten(1).unique(dim=1).T:
        members = [x for x in place.tolist() if x != FIXED]
        if len(members) == len(place):
            prop.classes.union_all(members)
        else:
            prop.freeze(place, "it is at the same place of a part as values that no layer produces")


def tie_parts(prop: Propagation, ids: Tensor, axis: int, size: int) -> None:
    """:func:`tie` for parts of ``size`` neighbours along ``axis``."""
    tie(prop, ids.unflatten(axis, (-1, size)), axis)


@register_rule("view", "reshape", "_unsafe_view", "flatten", "unflatten")
def _view(prop: Propagation, node: fx.Node) -> Result:
    """An axis of units that becomes several: the first ones count parts, the last one places.

    Heads of attention are the exception. The rules of products tie what belongs to a head, and the
    number of heads shrinks.
    """
    if len(node.args) > 1 and isinstance(node.args[1], torch.dtype):
        prop.refuse(node, "it reads numbers as those of another type")
        return None
    source = node.args[0]
    assert isinstance(source, fx.Node)
    before = prop.labels(source)
    after = before and reshape_labels(before, shape_of(source), shape_of(node))
    if before is None or after is None:
        return None
    if len(after.dims) > len(before.dims) and not _meets_product(node):
        for axis in range(len(after.dims) - 1):
            tie(prop, after.ids, axis)
    return after


def reshape_labels(labels: Labels, old: tuple[int, ...], new: tuple[int, ...]) -> Labels | None:
    """The labels after a row-major reshape, computed on the axes that meet labelled ones alone.

    Axes fall into blocks that the reshape maps onto blocks; in a block without labels one entry
    stands for all.
    """
    full = labels.full(old)
    shape = list(new)
    start, end = 0, 0
    while start < len(old) or end < len(new):
        first, second = start, end
        size, other = 1, 1
        while size != other or (first, second) == (start, end):
            if size <= other and start < len(old):
                size, start = size * old[start], start + 1
            else:
                other, end = other * new[end], end + 1
        if not set(range(first, start)) & set(labels.dims):
            for dim in range(first, start):
                full = full.narrow(dim, 0, 1)
            shape[second:end] = [1] * (end - second)
    return Labels.compress(full.reshape(shape).expand(new))


def _meets_product(node: fx.Node) -> bool:
    """Does the value go, only moved and computed on entry by entry, into a product of matrices?"""
    seen, todo = {node}, [node]
    while todo:
        for user in todo.pop().users:
            name = op_name(user)
            if name in PRODUCTS:
                return True
            pointwise = torch.Tag.pointwise in getattr(user.target, "tags", ())
            if user not in seen and (pointwise or name in MOVES):
                seen.add(user)
                todo.append(user)
    return False


@register_rule("chunk", "split", "split_with_sizes")
def _split(prop: Propagation, node: fx.Node) -> Result:
    labels, dim = _labels_and_dim(prop, node)
    if labels is not None and dim in labels.dims:
        sizes = [as_size(value.shape[dim]) for value in node.meta["val"]]
        if not _tie_between(prop, labels, dim, sizes):
            prop.refuse(
                node, f"it takes units apart into {_listed(sizes)}, sizes that do not shrink alike"
            )
            return None
    return movement(prop, node)


def _listed(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes[:-1])) + f" and {sizes[-1]}"


def _tie_between(prop: Propagation, labels: Labels, dim: int, bounds: list[int]) -> bool:
    """Tie the largest even parts that pieces of these sizes, or between these places, are made of.

    False, and nothing tied, where that would make all units along their only axis one.
    """
    axis = labels.dims.index(dim)
    size = gcd(labels.ids.shape[axis], *bounds)
    if size == 1 and len(labels.dims) == 1:
        return False
    tie_parts(prop, labels.ids, axis, size)
    return True


@register_rule("select", "unbind")
def _select(prop: Propagation, node: fx.Node) -> Result:
    """One entry of a grid of units (queries, keys or values), but never a unit by its number."""
    labels, dim = _labels_and_dim(prop, node)
    if labels is not None and dim in labels.dims:
        if len(labels.dims) == 1:
            prop.refuse(node, "it takes single units by their number")
            return None
        tie(prop, labels.ids, labels.dims.index(dim))
    return movement(prop, node)


@register_rule("slice", "narrow")
def _slice(prop: Propagation, node: fx.Node) -> Result:
    """Some of several even parts, or every n-th entry; other slices would move."""
    labels, dim = _labels_and_dim(prop, node)
    if labels is None or dim not in labels.dims:
        return movement(prop, node)
    named, axis = arguments(node), labels.dims.index(dim)
    size, length, step = labels.ids.shape[axis], shape_of(node)[dim], named.get("step", 1)
    start = slice(named["start"], None).indices(size)[0]
    if length == size:
        return labels
    if step > 1 and size % step == 0 and length == size // step:
        tie(prop, labels.ids.unflatten(axis, (-1, step)), axis + 1)
    elif step > 1 or not _tie_between(prop, labels, dim, [start, start + length]):
        prop.refuse(node, f"it takes units {start} to {start + length * step - 1} by their number")
        return None
    return movement(prop, node)


@register_rule("roll")
def _roll(prop: Propagation, node: fx.Node) -> Result:
    labels, dims = prop.labels(node.args[0]), arguments(node)["dims"]
    rank = len(shape_of(node))
    if labels is not None and (not dims or {d % rank for d in dims} & set(labels.dims)):
        prop.refuse(node, "it rolls units by a number written in the code")
        return None
    return labels


@register_rule("channel_shuffle")
def _channel_shuffle(prop: Propagation, node: fx.Node) -> Result:
    """[B, groups x n, ...]: the groups' channels in turn."""
    labels = prop.labels(node.args[0])
    if labels is not None and labels.dims == (1,):
        tie(prop, labels.ids.view(arguments(node)["groups"], -1), 0)
    return movement(prop, node)


@register_rule("pixel_shuffle")
def _pixel_shuffle(prop: Propagation, node: fx.Node) -> Result:
    """[..., C r^2, H, W] -> [..., C, H r, W r]: the r^2 channels of one output go together."""
    return _fold(prop, node, len(shape_of(node)) - 3, arguments(node)["upscale_factor"] ** 2)


@register_rule("col2im")
def _col2im(prop: Propagation, node: fx.Node) -> Result:
    """[B, C kernel, L] -> [B, C, H, W]: the channels of one output go together."""
    return _fold(prop, node, 1, torch.Size(arguments(node)["kernel_size"]).numel())


def _fold(prop: Propagation, node: fx.Node, dim: int, count: int) -> Result:
    """Each ``count`` neighbours along ``dim`` become one channel."""
    labels = prop.labels(node.args[0])
    if labels is None:
        return None
    if labels.dims != (dim,):
        prop.refuse(node, "its units do not lie along the channel axis")
        return None
    groups = labels.ids.view(-1, count)
    tie(prop, groups, 1)
    return Labels((dim,), groups.amax(1))


@register_rule("im2col")
def _im2col(prop: Propagation, node: fx.Node) -> Result:
    """[B, C, H, W] -> [B, C kernel, L]: each channel's neighbourhood."""
    labels = prop.labels(node.args[0])
    if labels is None:
        return None
    if labels.dims != (1,):
        prop.refuse(node, "its units do not lie along the channel axis")
        return None
    kernel = torch.Size(arguments(node)["kernel_size"]).numel()
    return Labels((1,), labels.ids.repeat_interleave(kernel))


@register_rule("unfold")
def _unfold(prop: Propagation, node: fx.Node) -> Result:
    """Windows along an axis, whose entries become a last axis."""
    labels, named = prop.labels(node.args[0]), arguments(node)
    if labels is not None and named["dimension"] % (len(shape_of(node)) - 1) in labels.dims:
        prop.refuse(node, "its windows lie along the units")
        return None
    return labels


def _labels_and_dim(prop: Propagation, node: fx.Node) -> tuple[Labels | None, int]:
    """The labels of what is taken apart, and the axis along which."""
    source: Any = node.args[0]
    return prop.labels(source), int(arguments(node)["dim"]) % len(shape_of(source))


# What only moves values: the operations above and those of the other file.
MOVES = frozenset(
    name for name, rule in RULES.items() if rule.__module__ in (__name__, movement.__module__)
) | {"clone", "contiguous", "getitem"}
