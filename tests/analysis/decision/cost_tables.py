"""Random networks, as their costs."""

from __future__ import annotations

import itertools

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
