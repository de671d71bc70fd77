"""Leave-one-out: what the loss does when one unit goes."""

from __future__ import annotations

import torch

from .masked_losses import masked_losses, unmasked_losses
from .material import Material
from .scores import Evidence, Passes, Scores

LOO_IMAGES = 256


def leave_one_out(material: Material, *, images: int = LOO_IMAGES) -> Evidence:
    r"""Keep the units whose removal, alone, raises the mean loss most.

    .. math:: n_k = E_i[\ell_i(g_k = 0) - \ell_i(g = 1)]

    in nats. A unit that does harm has a negative score. It is exact for one unit and says nothing
    of how units make up for each other. It takes a forward pass of every image for each unit of
    the network, and one more.

    Args:
        material: a model and a loader.
        images: training images.

    References:
        Michael Mozer, Paul Smolensky, "Skeletonization: A Technique for Trimming the Fat from a
        Network via Relevance Assessment", 1988 (no arXiv id), which approximates it.
    """
    model = material.model
    inputs, targets = material.images(images)
    before = unmasked_losses(model, inputs, targets).mean()
    found = {}
    for name, site in model.sites.items():
        masks = 1 - torch.eye(site.size)
        losses = masked_losses(model, name, masks, inputs, targets, f"leave-one-out {name}")
        found[name] = Scores(losses.mean(1) - before, unit="nats")
    return Evidence(found, Passes((1 + model.graph.num_units) * len(targets)))
