"""The posterior signal-to-noise ratio of a unit's switch."""

from __future__ import annotations

import torch

from ...model.errors import DirpruneError
from .material import Material
from .scores import Evidence, Scores
from .switches import DRAWS


def signal_to_noise(material: Material, *, draws: int = DRAWS) -> Evidence:
    r"""Keep the units whose switch is surely not zero: :math:`E_q[s_k] / \mathrm{sd}_q[s_k]`.

    Draws of all restarts are taken together. It is no cost in nats and does not compare across
    sites: a Dirichlet's ratio rises with the concentration of its site.

    Args:
        material: a Fit with its model, or a DataTree alone.
        draws: the first so many of each restart.

    References:
        Kirill Neklyudov, Dmitry Molchanov, Arsenii Ashukha, Dmitry Vetrov, "Structured Bayesian
        Pruning via Log-Normal Multiplicative Noise", 2017, arXiv 1705.07283 (which takes it of
        log-normal noise).

    Raises:
        DirpruneError: a single draw, which has no spread.
    """
    found = {}
    for site, switch in material.switches(draws).items():
        values = switch.flatten(0, 1)
        if len(values) < 2:
            raise DirpruneError(f"evidence {material.criterion!r} needs at least 2 draws, got 1")
        # A spread below rounding: the switch of a unit that is off for sure, at 0 in every draw.
        noise = values.std(0).clamp(min=torch.finfo(values.dtype).eps)
        found[site] = Scores(values.mean(0) / noise, unit="signal / noise", across_sites=False)
    return Evidence(found)
