"""Weights that are computed in each forward pass: no parameter holds what could be cut."""

from __future__ import annotations

from typing import Any

from torch import fx

from ..propagation import Propagation, layer_of
from ..trace import is_tensor, module_of


def leave_computed(prop: Propagation, node: fx.Node, *weights: Any) -> None:
    """Leave alone a layer one of whose ``weights`` is computed, and all that it reads."""
    computed = [w for w in weights if is_tensor(w) and prop.parameter(w) is None]
    origins = _origins(computed or [w for w in weights if is_tensor(w)])
    if any(origin.op == "placeholder" for origin in origins):
        reason = "its weight is computed from the examples"
        prop.refuse(node, reason)
        if module_of(node):
            prop.left_alone[module_of(node)] = reason
        return
    sources = [name for name in map(prop.parameter, origins) if name is not None]
    reason = "its weight is computed, not a parameter"
    if any(".parametrizations." in f".{name}" for name in sources):
        reason = (
            "its weight is computed by a parametrization (weight_norm, spectral_norm or the like); "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') makes it a "
            "parameter again"
        )
    elif sources:
        reason = f"its weight is computed from {', '.join(sources)}, not a parameter"
    layer = module_of(node) or (layer_of(sources[0]) if sources else node.name)
    for source in sources:  # the parts of a parametrization are no layers of their own
        prop.left_alone.pop(layer_of(source), None)
    prop.left_alone[layer] = reason
    for arg in node.all_input_nodes:
        prop.freeze_node(arg, f"layer {layer!r} reads it: {reason}")


def _origins(nodes: list[fx.Node]) -> list[fx.Node]:
    """The values from which these come, and they themselves, in the order of the graph."""
    seen = set(nodes)
    todo = list(nodes)
    while todo:
        for arg in todo.pop().all_input_nodes:
            if arg not in seen:
                seen.add(arg)
                todo.append(arg)
    return sorted(seen)
