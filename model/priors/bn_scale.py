"""A Dirichlet informed by the scales of the batch norms."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import DirpruneError
from ..graph.channels import ChannelGraph
from ..graph.propagation import layer_of
from .base import check_positive
from .bound import BoundPrior, proportional


@dataclass(frozen=True)
class BatchNormScale:
    r"""Concentrations proportional to the scale :math:`|\gamma|` of a unit's batch norm.

    .. math::
        s_l \sim \text{Dirichlet}(a_{l1}, \dots, a_{lK_l}), \quad
        a_{lk} = \alpha K_l \frac{n_{lk}}{\sum_j n_{lj}}, \quad
        n_{lk} = \Big( \sum_{\gamma \text{ of } k} \gamma^2 \Big)^{1/2}

    Where several batch norms normalise a unit (a residual stream), or the unit has several
    channels, their scales stand in one norm.

    A norm below 1 % of the site's mean counts as that, with a warning, since a concentration of 0
    is no prior.

    Source of the criterion: Zhuang Liu, Jianguo Li, Zhiqiang Shen, Gao Huang, Shoumeng Yan,
    Changshui Zhang, "Learning Efficient Convolutional Networks through Network Slimming", 2017,
    arXiv 1708.06519.

    Args:
        alpha: the mean concentration of a site; 1, the default, is as strong as the flat prior.

    Raises:
        DirpruneError: alpha is not positive and finite; in ``bind``: a site with units that no
            batch norm scales, scales that are not finite, or a site whose scales are all zero.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_positive("a concentration", self.alpha)

    def bind(self, network: nn.Module, graph: ChannelGraph) -> BoundPrior:
        """The prior for the sites of this network, with the scales that it has now."""
        modules = dict(network.named_modules())
        squares = torch.zeros(graph.num_units, dtype=torch.float64)
        scaled = torch.zeros(graph.num_units, dtype=torch.bool)
        for (name, _), units in graph.axes.items():
            norm = modules.get(layer_of(name))
            if not isinstance(norm, _BatchNorm) or not name.endswith(".weight"):
                continue
            owned = units >= 0
            gamma = norm.weight.detach().cpu().double()
            squares.index_add_(0, units[owned], gamma[owned].square())
            scaled[units[owned]] = True
        for site, start in graph.offsets.items():
            size = graph.sites[site].size
            bare = size - int(scaled[start : start + size].sum())
            if bare:
                raise DirpruneError(
                    f"prior {self!r}: site {site!r}: {bare} of {size} units have no batch norm "
                    "with a scale; leave the site out by exclude, or take "
                    f"weight-norm:{self.alpha:g}"
                )
        return proportional(self, self.alpha, graph, squares, "the scales of the batch norms")
