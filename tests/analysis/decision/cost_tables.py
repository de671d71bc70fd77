"""Random networks, as their costs, and what comes back into decisions on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from dirprune.model.cost import CostTable, Term


@st.composite
def tables(draw: st.DrawFn, most: int = 6) -> CostTable:
    """Sites of 1 to ``most`` units, terms with several features a unit, sets that need a unit."""
    sizes = draw(st.lists(st.integers(1, most), min_size=1, max_size=4))
    units = sum(sizes)

    def counts() -> NDArray[np.int64]:
        return np.array(draw(st.lists(st.integers(0, 3), min_size=units, max_size=units)))

    def terms() -> tuple[int, list[Term]]:
        return draw(st.integers(0, 50)), [
            Term(draw(st.integers(1, 9)), draw(st.integers(0, 3)), counts(),
                 draw(st.integers(0, 3)), counts())
            for _ in range(draw(st.integers(1, 4)))
        ]  # fmt: skip

    # A set inside a site, of which one must stay: the first units of a site of three or more.
    starts = np.cumsum([0, *sizes])
    needed = [
        list(range(start, start + size - 1))
        for start, size in zip(starts[:-1].tolist(), sizes, strict=True)
        if size > 2 and draw(st.booleans())
    ]
    names = {f"site{i}": size for i, size in enumerate(sizes)}
    return CostTable(names, terms(), terms(), needed)


def units_of(table: CostTable) -> list[list[int]]:
    """The units of each site, numbered through."""
    starts = np.cumsum([0, *table.sites.values()]).tolist()
    return [list(range(a, b)) for a, b in itertools.pairwise(starts)]


def total(table: CostTable, what: str, kept: NDArray[np.bool_]) -> int:
    """The cost from the definition, term by term; of "keep" the number of units."""
    if what == "keep":
        return int(kept.sum())
    fixed, terms = table.terms[what]
    return fixed + sum(
        t.coefficient
        * (t.fixed_rows + int(t.rows[kept].sum()))
        * (t.fixed_columns + int(t.columns[kept].sum()))
        for t in terms
    )


def come_back(
    table: CostTable,
    scores: NDArray[np.float64],
    fixed: NDArray[np.bool_],
    kept: NDArray[np.bool_],
    targets: Mapping[str, int],
    per_cost: bool,
    deciding: Sequence[str] = (),
) -> NDArray[np.bool_]:
    """Removed units come back, as the rule's docstring says it, all costs counted anew."""
    deciding, nesting = deciding or list(targets), table.nesting
    while True:
        room = {what: most - total(table, what, kept) for what, most in targets.items()}
        best: tuple[tuple[float, ...], NDArray[np.bool_]] | None = None
        for u in np.flatnonzero(~kept & ~nesting.through).tolist():
            whole = nesting.whole[u]
            coming = {u} if whole < 0 or kept[whole] else {u, whole}
            coming |= set(np.flatnonzero(np.isin(nesting.whole, list(coming)) & fixed).tolist())
            more = kept.copy()
            more[list(coming)] = True
            score = scores[whole] if fixed[u] else scores[u]
            price = {w: total(table, w, more) - total(table, w, kept) for w in targets}
            if any(price[w] > room[w] for w in targets) or (per_cost and score <= 0):
                continue
            if not per_cost:
                merit: tuple[float, ...] = (len(coming) == 1, score, u)
            elif len(deciding) == 1:
                merit = (score / max(1, price[deciding[0]]), u)
            else:
                share = max(price[w] / room[w] if room[w] else 0.0 for w in deciding)
                merit = (score / max(share, 1e-200), u)
            if best is None or merit > best[0]:
                best = merit, more
        if best is None:
            return kept
        kept = best[1]
