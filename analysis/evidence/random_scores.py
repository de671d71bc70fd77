"""Random scores: the floor of every comparison."""

from __future__ import annotations

import torch

from ...inference.loop import seed_of
from .material import Material
from .scores import Evidence, Scores


def random(material: Material, *, seed: int = 0) -> Evidence:
    """Keep units at random: independent uniform scores, the same under the same seed.

    Args:
        material: a model.
        seed: of the scores.
    """
    generator = torch.Generator().manual_seed(seed_of([seed]))
    return Evidence(
        {
            # Not across sites: a random score stands for no loss that one could weigh against cost.
            name: Scores(
                torch.rand(site.size, generator=generator, dtype=torch.float64), across_sites=False
            )
            for name, site in material.model.sites.items()
        }
    )
