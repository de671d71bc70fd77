"""Gather what the rules said into sites, and index everything by unit.

All units of all sites stand in one global numbering: unit k of a site has number
``offset[site] + k``, and -1 means "not prunable, always kept". Every axis of a parameter, every
input feature of a reader and every row of a cost is then one LongTensor of numbers, and a decision
is one boolean vector.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from ..nesting import WHOLE, Nesting
from ..sites import Site, site_name
from .flattened import inputs_of, single_features
from .labels import FIXED, UnionFind
from .leftover import tell_leftovers
from .numbers import settle_numbers
from .propagation import Propagation, layer_of, maker
from .records import Product, Reader
from .rules import RULES
from .trace import trace
from .units import (
    Consumer,
    CostTerm,
    Count,
    FlatReading,
    PaddedShortcut,
    Reading,
    UnitLookup,
)


@dataclass(frozen=True)
class ChannelGraph:
    """Sites, who reads them, and where each unit lies in the network's parameters."""

    module: fx.GraphModule
    sites: OrderedDict[str, Site]
    axes: Mapping[tuple[str, int], Tensor]
    produced: frozenset[tuple[str, int]]  # those of them along which a layer's outputs lie
    consumers: tuple[Consumer, ...]
    products: tuple[Reading, ...]  # of queries with keys, whose features are units
    paddings: tuple[PaddedShortcut, ...]
    counts: tuple[Count, ...]
    macs: tuple[CostTerm, ...]
    unprunable: Mapping[str, str]
    lookups: tuple[UnitLookup, ...] = ()
    flattened: tuple[FlatReading, ...] = ()

    def __deepcopy__(self, memo: object) -> ChannelGraph:
        return self  # it never changes, and fx nodes do not survive being copied one by one

    @property
    def offsets(self) -> dict[str, int]:
        """The number of each site's first unit."""
        offsets, start = {}, 0
        for name, site in self.sites.items():
            offsets[name] = start
            start += site.size
        return offsets

    @property
    def num_units(self) -> int:
        return sum(site.size for site in self.sites.values())

    @cached_property
    def needed(self) -> tuple[tuple[str, Tensor], ...]:
        """(layer, unit numbers): sets, smaller than a site, of which one unit must stay.

        Otherwise the layer would have no outputs, or no inputs, left. A residual stream that grows
        has such sets: its first layers own only some of its units.
        """
        whole = {
            frozenset(range(start, start + self.sites[name].size))
            for name, start in self.offsets.items()
        }
        layers: dict[frozenset[int], str] = {}
        for (parameter, _), units in self.axes.items():
            if bool((units >= 0).all()):
                layers.setdefault(frozenset(units.tolist()), layer_of(parameter))
        for product in self.products:
            layers.setdefault(frozenset(product.units.tolist()), maker(product.node))
        return tuple(
            (layer, torch.tensor(sorted(units)))
            for units, layer in layers.items()
            if units not in whole and not any(other < units for other in layers)
        )

    @cached_property
    def nesting(self) -> Nesting:
        """Which units are features of a flattened channel, and so parts of it."""
        whole = np.full(self.num_units, WHOLE, dtype=np.int64)
        through = np.zeros(self.num_units + 1, dtype=bool)  # the last entry serves -1
        for flat in self.flattened:
            owned = flat.features >= 0
            whole[flat.features[owned].numpy()] = flat.channels[owned].numpy()
            through[flat.channels.numpy()] = True
        flat_weights = {flat.weight for flat in self.flattened}
        for reading in (*self.consumers, *self.products):
            if not (isinstance(reading, Consumer) and reading.weight in flat_weights):
                through[reading.units.numpy()] = False
        return Nesting(whole, through[:-1])

    @cached_property
    def shaped(self) -> frozenset[tuple[str, int]]:
        """(parameter, axis) whose slices belong to one unit: what produces it, or reads it alone.

        The latter where it is an input feature of a flattened linear layer.
        """
        return self.produced | {(flat.weight, 1) for flat in self.flattened}

    def layer_sites(self) -> dict[str, str]:
        """Producing layer -> its site."""
        return {layer: name for name, site in self.sites.items() for layer in site.producers}

    def without(self, reasons: Mapping[str, str]) -> ChannelGraph:
        """The same graph with these sites (name -> reason) left alone."""
        sites = OrderedDict((n, s) for n, s in self.sites.items() if n not in reasons)
        renumber = torch.full((self.num_units + 1,), FIXED)  # the last entry serves -1
        old, start = self.offsets, 0
        for name, site in sites.items():
            renumber[old[name] : old[name] + site.size] = torch.arange(start, start + site.size)
            start += site.size
        # An input feature that is no unit of its own goes with its channel.
        merged = [flat for flat in self.flattened if not bool((renumber[flat.features] >= 0).any())]
        consumers = [
            c
            for c in self.consumers
            if not any(c.weight == f.weight and torch.equal(c.units, f.features) for f in merged)
        ]
        for flat in merged:
            owned = flat.features >= 0
            renumber[flat.features[owned]] = renumber[flat.channels[owned]]
        unprunable = dict(self.unprunable)
        for name, reason in reasons.items():
            unprunable.update(dict.fromkeys(self.sites[name].producers or (name,), reason))
        axes = {key: renumber[units] for key, units in self.axes.items()}
        return replace(
            self,
            sites=sites,
            axes={key: units for key, units in axes.items() if bool((units >= 0).any())},
            consumers=tuple(
                replace(c, units=renumber[c.units])
                for c in consumers
                if bool((renumber[c.units] >= 0).any())
            ),
            products=tuple(
                replace(p, units=renumber[p.units])
                for p in self.products
                if bool((renumber[p.units] >= 0).any())
            ),
            paddings=tuple(replace(p, units=renumber[p.units]) for p in self.paddings),
            counts=tuple(replace(c, units=renumber[c.units]) for c in self.counts),
            macs=tuple(
                replace(
                    t,
                    rows=renumber[t.rows],
                    columns=None if t.columns is None else renumber[t.columns],
                )
                for t in self.macs
            ),
            unprunable=unprunable,
            lookups=tuple(replace(x, units=renumber[x.units]) for x in self.lookups),
            flattened=tuple(
                replace(f, features=renumber[f.features], channels=renumber[f.channels])
                for f in self.flattened
                if not any(f is gone for gone in merged)
            ),
        )

    def keep_vector(self, kept: Mapping[str, Tensor]) -> Tensor:
        """A decision as booleans over the unit numbers, one more at the end: True, for -1.

        It is closed (:class:`~dirprune.model.nesting.Nesting`): features go with their channel.
        """
        keep = torch.ones(self.num_units + 1, dtype=torch.bool)
        for name, start in self.offsets.items():
            if name in kept:
                keep[start : start + self.sites[name].size] = False
                keep[start + kept[name]] = True
        keep[:-1] = torch.from_numpy(self.nesting.close(keep[:-1].numpy()))
        return keep


def build_channel_graph(
    network: nn.Module,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    attention: str = "heads",
    flatten: str = "channels",
) -> ChannelGraph:
    """Trace a network and find its sites.

    Args:
        network: any traceable module; it is copied, not changed.
        inputs: example inputs, batch first.
        kwargs: keyword example inputs.
        attention: its units, "heads" or "head-dims" (the features of all heads of a layer).
        flatten: what the units of a flattened linear layer's inputs are, "channels" or "features".

    Raises:
        DirpruneError: the network fails on the inputs or cannot be traced.
    """
    module = trace(network, inputs, kwargs)
    prop = Propagation(module, RULES, _aliases(network), attention)
    prop.run()
    settle_numbers(prop, network)
    tell_leftovers(prop, network)
    if flatten == "features":
        single_features(prop, network)
    return _gather(prop)


def _aliases(network: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> its first one, for tensors that modules share."""
    first: dict[int, str] = {}
    named = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    return {name: first.setdefault(id(tensor), name) for name, tensor in named}


def _gather(prop: Propagation) -> ChannelGraph:
    """Classes of labels become units, connected units become sites."""
    find = prop.classes.find
    # A site is a connected component of units, where the outputs of one layer are connected.
    components = UnionFind()
    components.new(len(prop.classes))
    for x in range(len(prop.classes)):
        components.union(x, find(x))
    for _, ids in prop.producers:
        components.union_all(ids.tolist())
    flat_inputs = {flat.weight: flat for flat in prop.flat_inputs}
    for flat in prop.flat_inputs:
        components.union_all([x for x in flat.features.tolist() if x != FIXED])

    reasons: dict[int, str] = {}
    for x, why in prop.frozen:
        reasons.setdefault(components.find(x), why)
    readings: list[Reader | Product] = [*prop.readers, *prop.products]
    read = {components.find(x) for r in readings for x in r.ids.tolist() if x != FIXED}

    owner: dict[str, int] = {}  # layer -> component
    layers: dict[int, list[str]] = {}  # component -> producing layers, in graph order
    units: dict[int, dict[int, int]] = {}  # component -> class -> unit
    inputs: dict[int, str] = {}  # component of input features -> their name
    for parameter, ids in prop.producers:
        if parameter in flat_inputs:
            flat = flat_inputs.pop(parameter)
            features = [x for x in flat.features.tolist() if x != FIXED]
            inputs[features[0]], layers[features[0]] = inputs_of(flat.layer), []
            units[features[0]] = {x: unit for unit, x in enumerate(features)}
        root, layer = components.find(int(ids[0])), layer_of(parameter)
        if owner.setdefault(layer, root) != root:
            layer = parameter  # a module of several weights, whose outputs are apart
        layers.setdefault(root, []).append(layer)
        classes = units.setdefault(root, {})
        for x in ids.tolist():
            classes.setdefault(find(x), len(classes))
    consumers: dict[int, list[str]] = {}
    for reading in readings:
        by = layer_of(reading.weight) if isinstance(reading, Reader) else maker(reading.node)
        for root in {components.find(x) for x in reading.ids.tolist() if x != FIXED}:
            names = consumers.setdefault(root, [])
            if by not in names:
                names.append(by)

    sites: OrderedDict[str, Site] = OrderedDict()
    number: dict[int, int] = {}  # class of labels -> unit number
    unprunable: dict[str, str] = dict(prop.left_alone)
    for root, names in layers.items():
        classes = units[root]
        reason = reasons.get(root)
        if reason is None and root not in read:
            reason = "no layer reads its units"
        if reason is None and len(classes) < 2:
            reason = "it is a single unit"
        if reason is not None:
            unprunable.update(dict.fromkeys(names, reason))
            continue
        start = len(number)
        number.update({c: start + unit for c, unit in classes.items()})
        unique = tuple(dict.fromkeys(names))
        name = site_name(inputs[root] if root in inputs else unique[0], sites)
        sites[name] = Site(name, len(classes), unique, tuple(consumers[root]))

    def numbers(ids: Tensor) -> Tensor:
        return torch.tensor([number.get(find(x), FIXED) if x >= 0 else FIXED for x in ids.tolist()])

    axes = {key: numbers(ids) for key, ids in prop.axes.items()}
    readers = [(r, numbers(r.ids)) for r in prop.readers]
    return ChannelGraph(
        module=prop.module,
        sites=sites,
        axes={key: value for key, value in axes.items() if bool((value >= 0).any())},
        produced=frozenset(prop.produced),
        consumers=tuple(
            Consumer(r.node, r.source, r.dim, value, r.examples, r.weight, r.axis)
            for r, value in readers
            if bool((value >= 0).any())
        ),
        products=tuple(
            Reading(p.node, p.source, p.dim, value, p.examples)
            for p, value in ((p, numbers(p.ids)) for p in prop.products)
            if bool((value >= 0).any())
        ),
        paddings=tuple(
            PaddedShortcut(p.module, p.before, p.after, numbers(p.ids)) for p in prop.paddings
        ),
        counts=tuple(
            Count(module, attribute, numbers(ids))
            for (module, attribute), ids in prop.counts.items()
        ),
        macs=tuple(
            CostTerm(
                w.layer,
                w.coefficient,
                numbers(w.rows),
                None if w.columns is None else numbers(w.columns),
            )
            for w in prop.work
        ),
        unprunable=unprunable,
        lookups=tuple(UnitLookup(x.buffer, numbers(x.ids)) for x in prop.lookups),
        flattened=tuple(
            FlatReading(f.layer, f.weight, numbers(f.features), numbers(f.channels))
            for f in prop.flat_inputs
        ),
    )
