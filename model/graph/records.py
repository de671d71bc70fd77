"""What the rules note while the graph is walked, in terms of labels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from .examples import Examples


@dataclass(frozen=True)
class Reader:
    """An operation that mixes channels: ``ids`` label the input features along axis ``dim``.

    They are the features along axis ``axis`` of ``weight``, too. ``examples`` says where those of a
    batch lie in ``source``.
    """

    node: fx.Node
    source: fx.Node
    weight: str
    dim: int
    ids: Tensor
    axis: int
    examples: Examples


@dataclass(frozen=True)
class Product:
    """A sum of products over ``ids``; ``source``, the first factor, has them along ``dim``."""

    node: fx.Node
    source: fx.Node
    dim: int
    ids: Tensor
    examples: Examples


@dataclass(frozen=True)
class Padding:
    """A module that pads the channel axis with ``before`` and ``after`` zeros."""

    module: str
    before: int
    after: int
    ids: Tensor


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one operation for one example: coefficient x rows x columns.

    Rows and columns are counted over the labels that are kept; ``columns`` None counts one.
    """

    layer: str
    coefficient: int
    rows: Tensor
    columns: Tensor | None


@dataclass(frozen=True)
class Lookup:
    """A look-up of units by the integers of a buffer; ``ids`` label what they count along."""

    buffer: str
    ids: Tensor


@dataclass(frozen=True)
class FlatInputs:
    """The inputs of a linear layer, each with a label of its own beside that of its channel."""

    layer: str
    weight: str
    features: Tensor
    channels: Tensor
