"""Parameters that no rule has seen: their layers are told too, never left out in silence."""

from __future__ import annotations

from torch import fx, nn

from .propagation import Propagation, layer_of, op_name


def tell_leftovers(prop: Propagation, network: nn.Module) -> None:
    """Leave alone, with a reason, each layer with a weight that is no rule's."""
    told = {layer_of(parameter) for parameter, _ in prop.producers} | set(prop.left_alone)
    bound = {parameter for parameter, _ in prop.axes}
    users: dict[str, fx.Node] = {}
    for node in prop.module.graph.nodes:
        name = prop.parameter(node)
        if name is not None and node.users:
            users.setdefault(name, next(iter(node.users)))
    for name, parameter in network.named_parameters():
        layer = layer_of(name).partition(".parametrizations.")[0]
        if parameter.dim() < 2 or name in bound or layer in told:
            continue
        user = users.get(name)
        prop.left_alone.setdefault(
            layer,
            f"{name} is not used in eval mode"
            if user is None
            else f"{op_name(user)} reads {name}, which no rule takes for a layer's weight",
        )
