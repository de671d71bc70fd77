"""One rule per operation: what it does to channel labels.

A rule takes the :class:`~.propagation.Propagation` and the node, and returns the labels of the
node's value (None: no element has a label; a list for an operation with several results). Its four
kinds:

- *producers and readers* (convolution, linear): labels go in, fresh labels come out;
- *element-wise* operations of any number of operands: labels meet and are coupled;
- *per channel* operations (pooling, batch norm): labels pass if they lie along other axes;
- *movements* (view, permute, cat, pad, slice ...): the very operation, applied to the labels.

To add one, for an operation of your own or one that is missing::

    @register_rule("my_scale")
    def _my_scale(prop, node):
        return pointwise(prop, node)
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from .labels import FIXED, Labels
from .propagation import (
    Padding,
    Propagation,
    Reader,
    Result,
    Rule,
    Work,
    layer_of,
    op_name,
    tensor_args,
)
from .trace import batch_first, is_tensor, module_of, shape_of

RULES: dict[str, Rule] = {}


def register_rule(*operations: str) -> Callable[[Rule], Rule]:
    """Make a function the rule of these operations (names as in ``torch.ops.aten``)."""

    def decorate(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(operations, rule))
        return rule

    return decorate


# -- producers and readers ------------------------------------------------------------------------


def _weight_and_bias(prop: Propagation, node: fx.Node) -> tuple[str, str | None] | None:
    """Names of a layer's weight and bias; None, and the input frozen, where they are computed."""
    weight = prop.parameter(node.args[1])
    bias_node = node.args[2] if len(node.args) > 2 else None
    bias = prop.parameter(bias_node)
    if weight is None or (bias_node is not None and bias is None):
        prop.refuse(node, "its weight is computed, not a parameter")
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


# -- element-wise ---------------------------------------------------------------------------------


def pointwise(prop: Propagation, node: fx.Node) -> Result:
    """Any operation whose result at an index depends on its operands at that index alone."""
    shape = shape_of(node)
    operands = tensor_args(node)
    lifted: list[tuple[Labels, fx.Node]] = []
    for operand in operands:
        labels = prop.labels(operand)
        if labels is not None:
            shift = len(shape) - len(shape_of(operand))
            dims = tuple(d + shift for d in labels.dims)
            if any(shape[d] != n for d, n in zip(dims, labels.ids.shape, strict=True)):
                prop.refuse(node, "one channel is spread over many")
                return None
            lifted.append((Labels(dims, labels.ids), operand))
    if not lifted:
        return None
    dims = tuple(sorted({d for labels, _ in lifted for d in labels.dims}))
    sizes = tuple(shape[d] for d in dims)
    grid = [_on(labels, dims, sizes) for labels, _ in lifted]
    for other in grid[1:]:
        prop.couple(grid[0], other)
    result = grid[0].clone()
    for other in grid[1:]:
        result = torch.maximum(result, other)
    for operand in operands:
        if prop.labels(operand) is None and not _fits(prop, operand, shape, dims, result):
            prop.refuse(node, "its channels meet values that no layer produces")
            return None
    return Labels(dims, result)


def _on(labels: Labels, dims: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """Labels spread over a larger set of axes."""
    view = [n if d in labels.dims else 1 for d, n in zip(dims, sizes, strict=True)]
    return labels.ids.reshape(view).expand(sizes)


def _fits(
    prop: Propagation, operand: fx.Node, shape: tuple[int, ...], dims: tuple[int, ...], ids: Tensor
) -> bool:
    """Can an operand without labels stand beside channels that may go?

    Yes if it is the same for all of them, or a parameter with one axis along them, which then
    shrinks with them.
    """
    own = shape_of(operand)
    shift = len(shape) - len(own)
    wide = [d for d in dims if d - shift >= 0 and own[d - shift] > 1]
    if not wide:
        return True
    name = prop.parameter(operand)
    if name is None or len(dims) != 1:
        return False
    prop.bind(name, wide[0] - shift, ids)
    return True


for _name in (
    "relu relu6 hardtanh leaky_relu elu selu celu gelu silu mish sigmoid hardsigmoid "
    "hardswish tanh tanhshrink softplus softsign softshrink hardshrink log_sigmoid threshold clamp "
    "clamp_min clamp_max add sub rsub mul div neg abs exp log sqrt rsqrt pow square reciprocal "
    "minimum maximum sin cos erf sign gt ge lt le eq ne where dropout feature_dropout "
    "alpha_dropout native_dropout clone alias detach contiguous _to_copy to lift_fresh_copy"
).split():
    register_rule(_name)(pointwise)


@register_rule("prelu", "_prelu_kernel")
def _prelu(prop: Propagation, node: fx.Node) -> Result:
    labels, slope = prop.labels(node.args[0]), node.args[1]
    assert isinstance(slope, fx.Node)
    if labels is None or prod(shape_of(slope)) == 1:
        return labels
    name = prop.parameter(slope)
    if name is None or labels.dims != (1,) or len(shape_of(slope)) != 1:
        prop.refuse(node, "its slopes are not one parameter for each channel")
        return None
    prop.bind(name, 0, labels.ids)
    return labels


# -- per channel ----------------------------------------------------------------------------------


@register_rule("_native_batch_norm_legit_no_training", "batch_norm")
def _batch_norm(prop: Propagation, node: fx.Node) -> Result:
    labels = prop.labels(node.args[0])
    if labels is not None and labels.dims != (1,):
        prop.refuse(node, "its units do not lie along the channel axis")
        return [None]
    if labels is None:
        return [None]
    for arg in node.args[1:5]:
        if arg is None:
            continue
        name = prop.parameter(arg)
        if name is None:
            prop.refuse(node, "its statistics are computed, not buffers")
            return [None]
        prop.bind(name, 0, labels.ids)
    return [labels] if op_name(node) != "batch_norm" else labels


def _keeps_channels(spatial: int) -> Rule:
    """A rule for pooling over the last ``spatial`` axes."""

    def rule(prop: Propagation, node: fx.Node) -> Result:
        labels = prop.labels(node.args[0])
        rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
        if labels is not None and any(d >= rank - spatial for d in labels.dims):
            prop.refuse(node, "it pools over units")
            return None
        return labels

    return rule


for _rank in (1, 2, 3):
    register_rule(
        f"max_pool{_rank}d", f"avg_pool{_rank}d", f"adaptive_avg_pool{_rank}d", f"lp_pool{_rank}d"
    )(_keeps_channels(_rank))


for _mode in ("nearest1d", "nearest2d", "nearest3d"):
    register_rule(f"upsample_{_mode}")(_keeps_channels(int(_mode[-2])))
register_rule("upsample_linear1d")(_keeps_channels(1))
register_rule("upsample_bilinear2d", "upsample_bicubic2d")(_keeps_channels(2))
register_rule("upsample_trilinear3d")(_keeps_channels(3))


def _with_indices(rule: Rule) -> Rule:
    """The same for an operation that returns (values, indices)."""

    def wrapped(prop: Propagation, node: fx.Node) -> Result:
        labels = rule(prop, node)
        assert not isinstance(labels, list)
        return [labels, labels]

    return wrapped


for _rank in (1, 2, 3):
    register_rule(f"max_pool{_rank}d_with_indices", f"adaptive_max_pool{_rank}d")(
        _with_indices(_keeps_channels(_rank))
    )


@register_rule("mean", "sum", "amax", "amin")
def _reduce(prop: Propagation, node: fx.Node) -> Result:
    labels = prop.labels(node.args[0])
    if labels is None:
        return None
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    axes = list(range(rank)) if axes in (None, []) else axes
    axes = [axes] if isinstance(axes, int) else axes
    gone = {int(d) % rank for d in axes}  # type: ignore[union-attr,arg-type]
    if gone & set(labels.dims):
        prop.refuse(node, "it sums over units")
        return None
    keep_dim = len(node.args) > 2 and bool(node.args[2])
    if keep_dim or node.kwargs.get("keepdim"):
        return labels
    return Labels(tuple(d - sum(g < d for g in gone) for d in labels.dims), labels.ids)


# -- movements ------------------------------------------------------------------------------------


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
