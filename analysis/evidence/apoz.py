"""The average percentage of zeros in a unit's activation."""

from __future__ import annotations

import torch
from torch import Tensor

from ...model.body import Gain
from ...model.errors import DirpruneError
from .material import Material
from .scores import Evidence, Passes, Scores
from .switches import grid, take, usual_batch

APOZ_IMAGES = 1024


def apoz(material: Material, *, images: int = APOZ_IMAGES) -> Evidence:
    r"""Keep the units that are seldom silent: one minus the average percentage of zeros (APoZ).

    .. math:: n_k = 1 - E_{i, m}[a_{ikm} = 0]

    over examples i and the M entries of the unit's activation :math:`a_{ik}`. It is read where a
    gain acts, in the inputs of the layers that read the unit: after activation and pooling. Where
    several layers read it at different points (a residual stream), their percentages are averaged.
    As in the paper a percentage counts beside the others of its layer, not across layers.

    Args:
        material: a model and a loader.
        images: training images.

    References:
        Hengyuan Hu, Rui Peng, Yu-Wing Tai, Chi-Keung Tang, "Network Trimming: A Data-Driven Neuron
        Pruning Approach towards Efficient Deep Architectures", 2016, arXiv 1607.03250.

    Raises:
        DirpruneError: a site whose activations are never exactly zero, as behind a GELU or where
            there is no activation function: the paper trims layers with ReLU.
    """
    model = material.model
    inputs, targets = material.images(images)
    gains, count = model.unit_gains(), len(targets)
    zeros: dict[Gain, Tensor] = {}  # per input feature, summed over examples

    def look(gain: Gain, x: Tensor) -> None:
        share = (x == 0).movedim(gain.dim, -1).flatten(0, -2).double().mean(0)
        examples = x.shape[gain.examples.axis] // gain.examples.per_example
        zeros[gain] = zeros.get(gain, 0) + examples * share

    with torch.no_grad(), model.body.watched(look):
        for rows in grid(1, count, usual_batch(inputs), "apoz"):
            model.outputs_at_gains(take(inputs, rows.to(model.device)), gains)
    total = {n: torch.zeros(s.size, dtype=torch.float64) for n, s in model.sites.items()}
    readings = {n: torch.zeros_like(t) for n, t in total.items()}
    for gain, found in zeros.items():
        features = gain.sum_by_unit(torch.ones_like(found))
        for site, sums in gain.sum_by_unit(found / count).items():
            total[site] += (sums / features[site].clamp(min=1)).cpu()
            readings[site] += (features[site] > 0).cpu()
    never = [site for site, share in total.items() if not bool(share.any())]
    if never:
        raise DirpruneError(
            f"evidence {material.criterion!r} counts activations that are exactly zero, as of a "
            f"ReLU, and those of {', '.join(never)} never are: leave such sites out by exclude, or "
            "take another criterion"
        )
    return Evidence(
        {
            site: Scores(
                1 - share / readings[site], unit="share that is not zero", across_sites=False
            )
            for site, share in total.items()
        },
        Passes(count),
    )
