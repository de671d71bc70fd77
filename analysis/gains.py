"""The posterior means of the gains."""

from __future__ import annotations

from torch import Tensor

from ..model.switched import SwitchedNetwork
from .evidence.material import Material, Source


def mean_gains(model: SwitchedNetwork, source: Source) -> dict[str, Tensor]:
    """E[g] of every unit, site -> [K]: the mean over the draws of all restarts.

    Args:
        model: the switched network.
        source: a Fit or a DataTree of ``posterior``.

    Raises:
        DirpruneError: there is no posterior.
    """
    draws = Material("mean gains", model, source, None).switches()
    return {
        name: gain[0].double().cpu()
        for name, gain in model.gains({n: s.mean((0, 1)) for n, s in draws.items()}).items()
    }
