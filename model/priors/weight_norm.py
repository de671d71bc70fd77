"""A Dirichlet informed by the norms of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..graph.channels import ChannelGraph
from .base import check_positive
from .bound import BoundPrior, proportional


@dataclass(frozen=True)
class WeightNorm:
    r"""Concentrations proportional to the norm of the weights that produce a unit.

    .. math::
        s_l \sim \text{Dirichlet}(a_{l1}, \dots, a_{lK_l}), \quad
        a_{lk} = \alpha K_l \frac{n_{lk}}{\sum_j n_{lj}}, \quad
        n_{lk} = \Big( \sum_{w \text{ produces } k} w^2 \Big)^{1/2}

    The weights that produce a unit are the rows, on the output axis, of every convolution and
    linear layer among the site's producers, over all channels of the unit. Biases, batch norms and
    the layers that read the unit do not count. In a residual stream, where several layers produce a
    unit, their rows stand in one norm. Of a feature of a flattened channel, which no layer produces
    by itself, it is the column that reads it.

    A norm below 1 % of the site's mean counts as that, with a warning, since a concentration of 0
    is no prior.

    Source of the criterion: Hao Li, Asim Kadav, Igor Durdanovic, Hanan Samet, Hans Peter Graf,
    "Pruning Filters for Efficient ConvNets", 2016, arXiv 1608.08710 (which takes L1 norms).

    Args:
        alpha: the mean concentration of a site; 1, the default, is as strong as the flat prior.

    Raises:
        DirpruneError: alpha is not positive and finite; in ``bind``: weights that are not finite,
            or a site whose weights are all zero.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_positive("a concentration", self.alpha)

    def bind(self, network: nn.Module, graph: ChannelGraph) -> BoundPrior:
        """The prior for the sites of this network, with the weights that it has now."""
        parameters = dict(network.named_parameters())
        squares = torch.zeros(graph.num_units, dtype=torch.float64)
        for (name, axis), units in graph.axes.items():
            weight = parameters.get(name)
            if (name, axis) not in graph.shaped or weight is None:
                continue
            rows = weight.detach().cpu().double().movedim(axis, 0).flatten(1).square().sum(1)
            owned = units >= 0
            squares.index_add_(0, units[owned], rows[owned])
        return proportional(self, self.alpha, graph, squares, "the norms of the weights")
