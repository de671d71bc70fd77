"""The norms of the weights that produce a unit."""

from __future__ import annotations

import torch
from torch import Tensor

from ...model.errors import DirpruneError
from .material import Material
from .scores import Evidence, Scores


def l1_norm(material: Material) -> Evidence:
    r"""Keep the units whose weights are large: :func:`relative_norms` with p = 1.

    References:
        Hao Li, Asim Kadav, Igor Durdanovic, Hanan Samet, Hans Peter Graf, "Pruning Filters for
        Efficient ConvNets", 2016, arXiv 1608.08710.
    """
    return _norm_evidence(material, 1)


def l2_norm(material: Material) -> Evidence:
    """Keep the units whose weights are large: :func:`relative_norms` with p = 2.

    References:
        Yang He, Guoliang Kang, Xuanyi Dong, Yanwei Fu, Yi Yang, "Soft Filter Pruning for
        Accelerating Deep Convolutional Neural Networks", 2018, arXiv 1808.06866.
    """
    return _norm_evidence(material, 2)


def _norm_evidence(material: Material, p: int) -> Evidence:
    norms = relative_norms(material, p)
    return Evidence(
        {
            site: Scores(norm, unit="of the layer's mean norm", across_sites=False)
            for site, norm in norms.items()
        }
    )


def relative_norms(material: Material, p: int) -> dict[str, Tensor]:
    r"""The norm of a unit's producing weights, relative to that layer's mean: site -> [K], float64.

    .. math:: n_k = \frac{1}{|P_k|} \sum_{l \in P_k}
        \frac{\|W_{lk}\|_p}{\mathrm{mean}_j \|W_{lj}\|_p}

    with :math:`P_k` the layers that produce unit k (convolutions, linear layers, embeddings) and
    :math:`W_{lk}` their weights for it, over all of its channels. Biases, batch norms and the
    layers that read the unit do not count. Of a feature of a flattened channel, which no layer
    produces by itself, it is the norm of the column that reads it.

    In a plain network this is the norm itself in other units. Where several layers produce a unit
    (a residual stream, a gate), each has one vote: norms do not compare between layers (a batch
    norm that follows undoes their scale, and they grow with the number of inputs), so that one norm
    over all would be that of the layer with the largest weights. Where a stream grows, its older
    units have more producers than the others, and a mean, unlike a sum, does not favour them.

    Raises:
        DirpruneError: a unit that no weight produces.
    """
    model = material.model
    graph, parameters = model.graph, dict(model.network.named_parameters())
    total = torch.zeros(graph.num_units, dtype=torch.float64)
    layers = torch.zeros_like(total)
    for (name, axis), units in graph.axes.items():
        weight = parameters.get(name)
        if (name, axis) not in graph.shaped or weight is None:
            continue
        rows = weight.detach().cpu().double().movedim(axis, 0).flatten(1).abs().pow(p).sum(1)
        owned = units >= 0
        here = units[owned].unique()
        norm = torch.zeros_like(total).index_add_(0, units[owned], rows[owned])[here].pow(1 / p)
        total[here] += norm / (norm.mean() or 1.0)  # weights that are all zero are no evidence
        layers[here] += 1
    found = {}
    for site, start in graph.offsets.items():
        own = slice(start, start + graph.sites[site].size)
        if bare := int((layers[own] == 0).sum()):
            raise DirpruneError(
                f"evidence {material.criterion!r}: site {site!r}: {bare} of {len(layers[own])} "
                "units have no parameter that produces them; leave the site out by exclude"
            )
        found[site] = total[own] / layers[own]
    return found
