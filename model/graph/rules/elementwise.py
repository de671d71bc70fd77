"""Element-wise operations of any number of operands: labels meet and are coupled."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, fx

from ..labels import Labels
from ..propagation import Propagation, Result, tensor_args
from ..trace import shape_of
from .registry import register_rule


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
