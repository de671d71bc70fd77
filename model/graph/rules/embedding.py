"""Embeddings: rows of a table, whose columns are the features that go together."""

from __future__ import annotations

from torch import fx

from ..labels import Labels
from ..propagation import Propagation, Result, tensor_args
from ..trace import shape_of
from .computed import leave_computed
from .registry import register_rule


@register_rule("embedding")
def _embedding(prop: Propagation, node: fx.Node) -> Result:
    return _features(prop, node, last=len(shape_of(node)) - 1)


@register_rule("embedding_bag")
def _embedding_bag(prop: Propagation, node: fx.Node) -> Result:
    return [_features(prop, node, last=1), None, None, None]


def _features(prop: Propagation, node: fx.Node, last: int) -> Labels | None:
    """Labels of the features; the rows of the table are the vocabulary, and stay."""
    table, *others = tensor_args(node)
    for other in others:
        prop.freeze_node(other, "its values are the indices or weights of an embedding")
    name = prop.parameter(table)
    if name is None:
        leave_computed(prop, node, table)
        return None
    return Labels((last,), prop.produce(name, shape_of(table)[1], axis=1))
