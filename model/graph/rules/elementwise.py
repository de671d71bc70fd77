"""Element-wise operations of any number of operands: labels meet and are coupled."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, fx

from ..labels import Labels
from ..propagation import Propagation, Result, tensor_args
from ..schema import arguments
from ..trace import shape_of
from .registry import register_rule


def pointwise(prop: Propagation, node: fx.Node) -> Result:
    """Any operation whose result at an index depends on its operands at that index alone."""
    results = node.meta["val"]
    if isinstance(results, tuple | list):  # frexp: (mantissa, exponent); where(x): indices
        prop.refuse(node, "it has several results")
        return [None] * len(results)
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
        if prop.labels(operand) is None and not fits(prop, operand, shape, dims, result):
            prop.refuse(node, "its channels meet values that no layer produces")
            return None
    return Labels(dims, result)


def _on(labels: Labels, dims: tuple[int, ...], sizes: tuple[int, ...]) -> Tensor:
    """Labels spread over a larger set of axes."""
    view = [n if d in labels.dims else 1 for d, n in zip(dims, sizes, strict=True)]
    return labels.ids.reshape(view).expand(sizes)


def fits(
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
    return len(dims) == 1 and prop.bind_value(operand, wide[0] - shift, ids)


# Whatever torch tags as pointwise, and what it does not tag since it is made of such operations, or
# since it is the identity for the trained network.
register_rule("pointwise")(pointwise)
for _name in (
    "where masked_fill rsub true_divide ldexp hardswish tanhshrink softsign log_sigmoid "
    "absolute negative subtract multiply divide floor_divide float_power type_as "
    "__and__ __or__ __xor__ __lshift__ __rshift__ "
    "alias detach contiguous _to_copy to lift_fresh_copy zeros_like ones_like full_like"
).split():
    register_rule(_name)(pointwise)


@register_rule("new_zeros", "new_ones", "new_full", "new_empty")
def _new(prop: Propagation, node: fx.Node) -> Result:
    """A constant of the size that the code says, which takes the precision alone from a tensor."""
    return None


@register_rule(
    *"dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout rrelu".split()
)
def _random(prop: Propagation, node: fx.Node) -> Result:
    """The identity (or one slope) in eval mode, unless somebody's code asks for it by name."""
    given = arguments(node)
    if given.get("train", given.get("training")):
        prop.refuse(node, "it draws random numbers even when the network is in eval mode")
        return None
    return pointwise(prop, node)


@register_rule("glu")
def _glu(prop: Propagation, node: fx.Node) -> Result:
    """One half gates the other: along the units' axis they go in pairs."""
    labels = prop.labels(node.args[0])
    dim = arguments(node)["dim"] % len(shape_of(node))
    if labels is None or dim not in labels.dims:
        return labels
    values, gates = labels.ids.chunk(2, labels.dims.index(dim))
    prop.couple(values, gates)
    return Labels(labels.dims, torch.maximum(values, gates))


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
