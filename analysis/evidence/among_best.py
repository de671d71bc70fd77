"""The posterior probability that a unit is among the best of its site."""

from __future__ import annotations

import torch

from ...model.errors import DirpruneError
from .material import Material
from .scores import Evidence, Scores
from .switches import DRAWS


def among_best(material: Material, *, share: float = 0.5, draws: int = DRAWS) -> Evidence:
    r"""Keep the units that are probably among the best: :math:`P_q(\text{rank}_k \le k_0)`.

    A unit is among the best under a draw where its switch is one of the :math:`k_0 =
    \text{round}(\text{share} \cdot K)` largest of its site (at least one).

    Args:
        material: a Fit with its model, or a DataTree alone.
        share: of a site's units that count as the best, in (0, 1].
        draws: the first so many of each restart.

    Raises:
        DirpruneError: a share above 1.
    """
    if not 0 < share <= 1:
        raise DirpruneError(
            f"evidence {material.criterion!r}: share={share}: expected a share of a site's units, "
            "in (0, 1]"
        )
    found = {}
    for site, switch in material.switches(draws).items():
        values = switch.flatten(0, 1)
        best = values.topk(max(1, round(share * values.shape[1])), dim=1).indices
        inside = torch.zeros_like(values).scatter_(1, best, 1.0)
        found[site] = Scores(inside.mean(0), inside, "probability", across_sites=False)
    return Evidence(found)
