"""A decision by a threshold, for criteria that have one and so need no budget."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..evidence import Scores
from ..tree import cost_table
from .budget import by_site
from .flat_scores import flat_scores
from .removal import Removable


def keep_above(
    model: SwitchedNetwork | xr.DataTree,
    evidence: Mapping[str, Scores] | Mapping[str, Tensor],
    threshold: float,
) -> Decision:
    """Keep the units whose score is above a threshold; no site loses its best one.

    ::

        noise = evidence("sbp", model, None, train)
        keep_above(model, noise, 1.0)  # the rule of structured Bayesian pruning: SNR > 1

    BMRS has the threshold 0: its score is the change of log evidence that keeps a unit, in nats.
    (Below one nat that is "not worth more than a bare mention" after Robert E. Kass, Adrian E.
    Raftery, "Bayes Factors", Journal of the American Statistical Association 90 (430), 1995.)

    Args:
        model: the switched network, or a DataTree of ``posterior``.
        evidence: site name -> :class:`Scores`, or plain 1-D scores. A site without evidence keeps
            all its units.
        threshold: units with at most this score go.

    Returns:
        The decision; where the evidence has draws, each unit's probability is the share of draws
        in which its score is above the threshold.

    Raises:
        DirpruneError: scores that do not compare across sites, or evidence of another network.
    """
    found = {
        site: s if isinstance(s, Scores) else Scores(torch.as_tensor(s))
        for site, s in evidence.items()
    }
    local = [site for site, scores in found.items() if not scores.across_sites]
    if local:
        raise DirpruneError(
            f"a threshold for all sites needs scores that compare across sites, and those of "
            f"{', '.join(local)} do not: give decide a budget instead"
        )
    table = cost_table(model) if isinstance(model, xr.DataTree) else model.costs
    scores, _ = flat_scores(table, evidence)
    fixed = np.concatenate([np.full(k, n not in evidence) for n, k in table.sites.items()])
    removable = Removable(table, fixed, [1] * len(table.sites))
    kept = np.ones(len(scores), dtype=bool)
    for unit in np.argsort(scores, kind="stable").tolist():
        if scores[unit] > threshold:
            break
        if removable.allows(unit):
            kept[removable.remove(unit)] = False
    probability = {
        site: (s.draws > threshold).double().mean(0)
        for site, s in found.items()
        if s.draws is not None
    }
    settings = {"evidence": getattr(evidence, "criterion", ""), "threshold": threshold}
    return Decision(by_site(table, kept), probability, settings)
