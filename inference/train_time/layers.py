"""Which layers have masks, and what masks of weights mean for the units of the channel graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...model.graph.channels import ChannelGraph

# Their weights are [outputs, inputs, positions ...].
KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def weight_layers(network: nn.Module, graph: ChannelGraph) -> list[str]:
    """Convolutions and linear layers that produce units of a site, in the network's order.

    The output layer produces none.
    """
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, KINDS)
        and (axis := (f"{name}.weight", 0)) in graph.produced
        and axis in graph.axes
    ]


def living_units(graph: ChannelGraph, masks: Mapping[str, Tensor]) -> Tensor:
    """Units that some layer still produces, under masks of weights (by parameter).

    A unit is dead when all that produces it is masked: in a residual stream by all of its layers.
    A feature of a flattened channel lives as long as its channel.

    Returns:
        Booleans over the unit numbers, one more at the end, True, which serves -1 (as
        :meth:`~dirprune.model.graph.channels.ChannelGraph.keep_vector`).
    """
    produced = torch.zeros(graph.num_units + 1, dtype=torch.long)
    produced[-1] = 1
    produced[:-1][torch.from_numpy(graph.nesting.is_part)] = 1
    for name, axis in graph.produced & set(graph.axes):
        units = graph.axes[name, axis]
        if name in masks:
            rows = masks[name].movedim(axis, 0).flatten(1).any(1).cpu()
        else:
            rows = torch.ones(len(units), dtype=torch.bool)
        produced.index_add_(0, units % len(produced), rows.long())
    return graph.keep_vector(kept_units(graph, produced > 0))


def silencing_masks(
    graph: ChannelGraph, keep: Tensor, parameters: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Masks of weights under which nothing reads the units that are not kept.

    The weights of what reads them are zero, as in :func:`~dirprune.model.surgery.silence`, so that
    the network is the one from which these units are removed.

    Args:
        graph: of the network.
        keep: booleans over the unit numbers, the last one True.
        parameters: of the network, by name; they give dtype and device.

    Returns:
        parameter -> a mask that broadcasts to it.
    """
    masks: dict[str, Tensor] = {}

    def add(name: str, axis: int, stays: Tensor) -> None:
        if bool(stays.all()):
            return
        weight = parameters[name]
        view = [-1 if i == axis else 1 for i in range(weight.dim())]
        mask = stays.to(weight).view(view)
        masks[name] = masks[name] * mask if name in masks else mask

    for consumer in graph.consumers:
        add(consumer.weight, consumer.axis, keep[consumer.units])
    for product in graph.products:  # of queries and keys, which no weight reads
        gone = product.units[~keep[product.units]]
        for (name, axis), units in graph.axes.items():
            if name in parameters:
                add(name, axis, ~torch.isin(units, gone))
    return masks


def kept_units(graph: ChannelGraph, keep: Tensor) -> dict[str, Tensor]:
    """Booleans over the unit numbers as site name -> kept units."""
    return {
        name: keep[start : start + graph.sites[name].size].nonzero()[:, 0]
        for name, start in graph.offsets.items()
    }
