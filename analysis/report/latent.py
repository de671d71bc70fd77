"""Tables of the posterior that no picture shows: parameters of the prior, correlated units."""

from __future__ import annotations

import math
from typing import Any

import arviz as az
import numpy as np
import xarray as xr
from scipy.stats import rankdata, t

from ...model.errors import DirpruneError
from ..diagnostics.findings import Floats, from_sampler, spread_draws
from ..tree import switches

PAIRS = 5
LEVEL = 0.01  # chance that independent units give any pair at all
MOST_SITES, MOST_UNITS = 12, 64  # 270,000 pairs


def hyper_rows(tree: xr.DataTree) -> list[dict[str, str]]:
    """A row per parameter of a hierarchical prior: posterior and prior, median and 90 % interval.

    Medians, for a half-Cauchy has no mean. A parameter that every unit has one of is summarised
    over all units and draws; beside it stand the smallest and the largest of the units' medians.
    """
    posterior = tree["posterior"].to_dataset().drop_vars(list(switches(tree)))
    prior = tree["prior"].to_dataset() if "prior" in tree.children else xr.Dataset()
    rows = []
    for name, values in posterior.items():
        draws = values.transpose("chain", "draw", ...).values
        medians = np.median(draws.reshape(draws.shape[0] * draws.shape[1], -1), axis=0)
        number = medians.size
        rows.append(
            {
                "name": str(name),
                "number": f"{number:,}",
                "posterior": _interval(draws),
                "range": f"{medians.min():.3g} to {medians.max():.3g}" if number > 1 else "–",
                "prior": _interval(prior[name].values) if name in prior else "–",
            }
        )
    return rows


def _interval(draws: Floats) -> str:
    low, median, high = np.quantile(draws, (0.05, 0.5, 0.95))
    return f"{median:.3g} ({low:.3g} to {high:.3g})"


def correlated_units(tree: xr.DataTree) -> list[dict[str, Any]]:
    r"""The pairs of units of different sites whose gains go together the most, at most five.

    .. math:: |r| > \frac{t_c}{\sqrt{\nu + t_c^2}}, \quad P(T_\nu > t_c) = \frac{0.01}{2 m}

    with r Spearman's rank correlation within restarts, m the number of pairs looked at and nu the
    draws less one for each restart and one more (of NUTS the smaller effective number). Where the
    units are independent, as under a mean-field guide, any pair at all is listed in 1 % of cases
    (Bonferroni). Of many sites 12, evenly spread, and of a site the 64 units that vary the most.
    """
    try:
        draws = spread_draws(tree, "nothing varies")
    except DirpruneError:
        return []
    names = list(draws)
    names = [
        names[i] for i in np.unique(np.linspace(0, len(names) - 1, MOST_SITES).round().astype(int))
    ]
    where: list[tuple[int, int]] = []
    columns = []
    for s, name in enumerate(names):
        sd = draws[name].std(1).min(0)
        most = [int(u) for u in np.argsort(-sd, kind="stable")[:MOST_UNITS] if sd[u] > 0]
        where += [(s, unit) for unit in most]
        columns.append(draws[name][:, :, most])
    values = np.concatenate(columns, axis=2)
    chains, number, units = values.shape
    ranks = rankdata(values, axis=1)
    ranks = (ranks - ranks.mean(1, keepdims=True)).reshape(-1, units)
    ranks /= np.linalg.norm(ranks, axis=0)
    r = ranks.T @ ranks
    site = np.array([s for s, _ in where])
    first, second = np.nonzero(site[:, None] < site)
    rows = []
    for i in np.argsort(-np.abs(r[first, second]), kind="stable")[:PAIRS]:
        a, b = int(first[i]), int(second[i])
        size = chains * number
        if from_sampler(tree):
            size = min(size, *(int(az.ess(values[:, :, u], method="bulk")) for u in (a, b)))
        if abs(r[a, b]) > _largest_by_chance(len(first), size - chains - 1):
            one, other = ((names[where[u][0]], where[u][1]) for u in (a, b))
            rows.append({"one": one, "other": other, "r": float(r[a, b])})
    return rows


def _largest_by_chance(pairs: int, freedom: int) -> float:
    if freedom < 1:
        return 1.0
    limit = float(t.isf(LEVEL / (2 * pairs), freedom))
    return limit / math.sqrt(freedom + limit**2)
