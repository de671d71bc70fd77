"""The scale of a unit's batch norm."""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from ...model.errors import DirpruneError
from ...model.graph.propagation import layer_of
from .material import Material
from .scores import Evidence, Scores


def bn_scale(material: Material) -> Evidence:
    r"""Keep the units that batch norms give a large scale :math:`|\gamma|`.

    .. math:: n_k = \mathrm{mean}_{\gamma \text{ of } k} |\gamma|

    A normalised unit has the standard deviation :math:`|\gamma|`, so that scales compare across the
    network, as in the paper, where one threshold cuts all layers. Where several batch norms
    normalise a unit (a residual stream), or it has several channels, the mean keeps it so: a sum
    would grow with the number of layers.

    References:
        Zhuang Liu, Jianguo Li, Zhiqiang Shen, Gao Huang, Shoumeng Yan, Changshui Zhang, "Learning
        Efficient Convolutional Networks through Network Slimming", 2017, arXiv 1708.06519.

    Raises:
        DirpruneError: a site with units that no batch norm scales.
    """
    model = material.model
    graph, modules = model.graph, dict(model.network.named_modules())
    total = torch.zeros(graph.num_units, dtype=torch.float64)
    number = torch.zeros_like(total)
    for (name, _), units in graph.axes.items():
        norm = modules.get(layer_of(name))
        if isinstance(norm, _BatchNorm) and name.endswith(".weight"):
            owned = units >= 0
            scale = norm.weight.detach().cpu().double().abs()[owned]
            total.index_add_(0, units[owned], scale)
            number.index_add_(0, units[owned], torch.ones_like(scale))
    found = {}
    for site, start in graph.offsets.items():
        own = slice(start, start + graph.sites[site].size)
        if bare := int((number[own] == 0).sum()):
            raise DirpruneError(
                f"evidence {material.criterion!r}: site {site!r}: {bare} of {len(number[own])} "
                "units have no batch norm with a scale; leave the site out by exclude, or take "
                "l1-norm"
            )
        found[site] = Scores(total[own] / number[own], unit="standard deviations")
    return Evidence(found)
