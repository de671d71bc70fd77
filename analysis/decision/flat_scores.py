"""Scores of all units as one vector, in the order of the cost table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model.cost import CostTable
from ...model.errors import DirpruneError
from ..evidence import Scores

Floats = NDArray[np.float64]


def flat_scores(
    table: CostTable, evidence: Mapping[str, Scores] | Mapping[str, Tensor]
) -> tuple[Floats, Floats | None]:
    """Scores of all units [units], and their draws [S, units] if every site has them.

    Scores that do not compare across sites are divided by their site's mean, as are their draws; a
    site without evidence has ones.

    Raises:
        DirpruneError: evidence of another network, of another shape or not finite.
    """
    for name in evidence:
        if name not in table.sites:
            raise DirpruneError(
                f"evidence for the site {name!r}, which this network does not have "
                f"(it has {', '.join(table.sites)}): it is of another network"
            )
    parts: list[Floats] = []
    drawn: list[Floats | None] = []
    for name, size in table.sites.items():
        item = evidence.get(name, torch.ones(size))
        found = item if isinstance(item, Scores) else Scores(torch.as_tensor(item))
        if found.scores.shape != (size,) or not bool(found.scores.isfinite().all()):
            raise DirpruneError(
                f"evidence for site {name!r}: expected {size} finite scores, got shape "
                f"{list(found.scores.shape)}"
                + ("" if bool(found.scores.isfinite().all()) else " with NaN or infinity")
            )
        values = found.scores.detach().double().cpu().numpy()
        scale = 1.0 if found.across_sites else abs(float(values.mean())) or 1.0
        parts.append(values / scale)
        draws = found.draws
        if draws is not None and (
            draws.dim() != 2 or draws.shape[1] != size or not bool(draws.isfinite().all())
        ):
            raise DirpruneError(
                f"evidence for site {name!r}: expected finite draws [S, {size}], got shape "
                f"{list(draws.shape)}"
                + ("" if bool(draws.isfinite().all()) else " with NaN or infinity")
            )
        drawn.append(None if draws is None else draws.detach().double().cpu().numpy() / scale)
    with_draws = [d for d in drawn if d is not None]
    sites_with_evidence = [n for n in table.sites if n in evidence]
    if len(with_draws) < len(sites_with_evidence) or len({len(d) for d in with_draws}) != 1:
        return np.concatenate(parts), None
    number = len(with_draws[0])
    filled = [
        np.broadcast_to(p, (number, len(p))) if d is None else d
        for p, d in zip(parts, drawn, strict=True)
    ]
    return np.concatenate(parts), np.concatenate(filled, axis=1)
