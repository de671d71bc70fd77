"""What a :class:`~.channels.ChannelGraph` holds, in unit numbers: -1 is what is always kept."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from .examples import Examples


@dataclass(frozen=True)
class Reading:
    """An operation that reads units: the gain multiplies ``source`` along ``dim``.

    ``units`` holds the unit number of every input feature. ``examples`` says where those of a batch
    lie in ``source``.
    """

    node: fx.Node
    source: fx.Node
    dim: int
    units: Tensor
    examples: Examples


@dataclass(frozen=True)
class Consumer(Reading):
    """One that reads them through a weight: each input feature has a slice of it along ``axis``."""

    weight: str
    axis: int


@dataclass(frozen=True)
class PaddedShortcut:
    """A module that pads the channels with zeros; ``units`` numbers its output channels."""

    module: str
    before: int
    after: int
    units: Tensor


@dataclass(frozen=True)
class Count:
    """A module's attribute that holds the number of these units, which no parameter shows."""

    module: str
    attribute: str
    units: Tensor


@dataclass(frozen=True)
class UnitLookup:
    """A buffer that holds places along features; ``units`` numbers these features."""

    buffer: str
    units: Tensor


@dataclass(frozen=True)
class FlatReading:
    """A linear layer whose input features are units: their numbers, and those of their channels."""

    layer: str
    weight: str
    features: Tensor
    channels: Tensor


@dataclass(frozen=True)
class CostTerm:
    """coefficient x (kept rows) x (kept columns, or 1); see :mod:`dirprune.model.cost`."""

    layer: str
    coefficient: int
    rows: Tensor
    columns: Tensor | None
