"""The posterior mean of a unit's gain."""

from __future__ import annotations

from .material import Material
from .scores import Evidence, Scores
from .switches import DRAWS


def posterior_mean(material: Material, *, draws: int = DRAWS) -> Evidence:
    r"""Keep the units with the largest posterior mean gain :math:`E_q[K s_k]`.

    Under a Dirichlet guide it ranks as ``concentration`` does; any guide and NUTS have it. Draws of
    a site sum to its K, so that a gain counts beside the others of its site, not across sites.

    Args:
        material: a Fit with its model, or a DataTree alone.
        draws: the first so many of each restart.
    """
    found = {}
    for site, switch in material.switches(draws).items():
        gain = switch.shape[-1] * switch.flatten(0, 1)
        found[site] = Scores(gain.mean(0), gain, "gain", across_sites=False)
    return Evidence(found)
