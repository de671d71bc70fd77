"""What the pictures and the report say of one site, read from a DataTree and a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from ...model.decision import Decision
from ...model.errors import DirpruneError
from ..tree import PRIMARY, concentrations, cost_table, evidence_draws, site_sizes

Floats = NDArray[np.float64]
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # the ends of the 90 % and 50 % intervals, and the median


@dataclass(frozen=True)
class SiteView:
    """One site's units.

    Attributes:
        name: the site.
        kept: [K], which units stay.
        gains: [draws, K], K times the switch: 1 is what every unit has in the trained network.
        concentration: [restarts, K], if the guide has one.
        cost: [draws, K], the removal cost under posterior draws, if it was stored.
        probability: [K], each unit's inclusion probability, if the evidence has draws.
        score: [K], what the units are sorted by.
        score_name: what that is, in words.
    """

    name: str
    kept: NDArray[np.bool_]
    gains: Floats
    concentration: Floats | None
    cost: Floats | None
    probability: Floats | None
    score: Floats
    score_name: str

    @property
    def size(self) -> int:
        return len(self.kept)

    @property
    def order(self) -> NDArray[np.int64]:
        """Units by score, best first; ties by index, as ``decide`` breaks them."""
        return np.lexsort((-np.arange(self.size), -self.score))

    @property
    def cut(self) -> int | None:
        """How many units stay, where these are the best by score; None where they are not."""
        number = int(self.kept.sum())
        return number if bool(self.kept[self.order[:number]].all()) else None


def site_views(
    tree: xr.DataTree, decision: Decision, criterion: str = PRIMARY
) -> dict[str, SiteView]:
    """A view of every site, in the network's order.

    Args:
        tree: from ``posterior``.
        decision: the units that stay.
        criterion: what was decided by; where the tree does not hold it, the mean gain stands in.

    Raises:
        DirpruneError: the decision is of another network than the tree.
    """
    sizes = site_sizes(tree)
    if not sizes:
        raise DirpruneError("the DataTree has no site: there is nothing to show")
    for name, units in [*decision.kept.items(), *decision.probability.items()]:
        found = len(units) if name in decision.probability else 0
        index = decision.kept.get(name)
        top = 0 if index is None else int(index[-1])
        if name not in sizes or top >= sizes[name] or found > sizes[name]:
            raise DirpruneError(
                f"the decision's site {name!r} does not fit the DataTree, which has "
                f"{', '.join(f'{n} ({k})' for n, k in sizes.items())}: they are of different runs"
            )
    known = concentrations(tree) if "concentration" in tree.children else {}
    costs = evidence_draws(tree, PRIMARY) or {}
    chosen = evidence_draws(tree, criterion) or {}
    draws = tree["posterior"].to_dataset()
    views = {}
    for name, size in sizes.items():
        gains = size * draws[name].values.reshape(-1, size).astype(np.float64)
        kept = np.ones(size, dtype=bool)
        if name in decision.kept:
            kept[:] = False
            kept[decision.kept[name].numpy()] = True
        score, what = gains.mean(0), "posterior mean gain"
        if criterion == "concentration" and name in known:
            score, what = known[name].double().numpy().mean(0), "posterior concentration"
        elif name in chosen:
            score, what = chosen[name].double().numpy().mean(0), criterion.replace("-", " ")
        inclusion = decision.probability.get(name)
        views[name] = SiteView(
            name=name,
            kept=kept,
            gains=gains,
            concentration=known[name].double().numpy() if name in known else None,
            cost=costs[name].double().numpy() if name in costs else None,
            probability=None if inclusion is None else inclusion.double().numpy(),
            score=score,
            score_name=what,
        )
    return views


def share_of_macs(tree: xr.DataTree, decision: Decision) -> dict[str, tuple[float, float]]:
    """Site -> its share of all multiply-adds, before and after (both in parts of "before").

    A layer's multiply-adds count for the site that its outputs belong to; what belongs to none
    (the network's output) is under the empty name.
    """
    table = cost_table(tree)
    fixed, terms = table.terms["macs"]
    total = max(table.total("macs"), 1)
    site = np.repeat(np.arange(len(table.sites)), list(table.sites.values()))
    number = len(table.sites)

    def spent(keep: NDArray[np.bool_]) -> Floats:
        out = np.zeros(number + 1)
        out[number] = fixed
        for t in terms:
            columns = t.fixed_columns + int(t.columns[keep].sum())
            rows = np.bincount(site[keep], weights=t.rows[keep], minlength=number)
            out[:number] += t.coefficient * columns * rows
            out[number] += t.coefficient * columns * t.fixed_rows
        return out / total

    before = spent(np.ones(len(site), dtype=bool))
    after = spent(table.keep_vector(decision.kept))
    names = [*table.sites, ""]
    return {n: (float(b), float(a)) for n, b, a in zip(names, before, after, strict=True)}


def spread_out(views: Mapping[str, SiteView], most: int) -> list[SiteView]:
    """At most so many of the sites, evenly from the first to the last."""
    every: Sequence[SiteView] = list(views.values())
    if len(every) <= most:
        return list(every)
    return [every[round(i)] for i in np.linspace(0, len(every) - 1, most)]


def intervals(draws: Floats) -> Floats:
    """[5, K]: the quantiles of ``LEVELS`` over draws [S, K]."""
    return np.asarray(np.quantile(draws, LEVELS, axis=0), dtype=np.float64)
