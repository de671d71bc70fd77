"""Recurrent layers, which are left alone: one weight of theirs holds several gates of all units."""

from __future__ import annotations

from torch import fx

from ..propagation import Propagation, Result, layer_of
from .registry import register_rule


@register_rule("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell")
def _recurrent(prop: Propagation, node: fx.Node) -> Result:
    weights = [name for name in map(prop.parameter, node.all_input_nodes) if name is not None]
    layer = layer_of(weights[0]) if weights else node.name
    prop.left_alone[layer] = "it is a recurrent layer"
    for arg in node.all_input_nodes:
        prop.freeze_node(arg, f"the recurrent layer {layer!r} reads it")
    return None
