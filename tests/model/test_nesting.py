"""Closed decisions, against the definition."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dirprune.model.nesting import Bools, Nesting


@st.composite
def nestings(draw: st.DrawFn) -> Nesting:
    """Some wholes, some of which are read through their parts alone, and parts of them."""
    wholes, parts = draw(st.integers(1, 4)), draw(st.integers(0, 6))
    owners = draw(st.lists(st.integers(-1, wholes - 1), min_size=parts, max_size=parts))
    only = draw(st.lists(st.booleans(), min_size=wholes, max_size=wholes))
    through = [flag and unit in owners for unit, flag in enumerate(only)]
    return Nesting(
        np.array([-1] * wholes + owners, dtype=np.int64), np.array(through + [False] * parts)
    )


def is_closed(nesting: Nesting, keep: Bools) -> bool:
    units = range(len(keep))
    return all(keep[nesting.whole[u]] for u in units if keep[u] and nesting.whole[u] >= 0) and all(
        any(keep[p] for p in units if nesting.whole[p] == u)
        for u in units
        if keep[u] and nesting.through[u]
    )


def subsets(keep: Bools) -> list[Bools]:
    there = keep.nonzero()[0]
    found = []
    for bits in range(2 ** len(there)):
        some = np.zeros_like(keep)
        some[[u for i, u in enumerate(there) if bits >> i & 1]] = True
        found.append(some)
    return found


@given(nesting=nestings(), data=st.data())
def test_closed_is_the_largest_closed_part(nesting: Nesting, data: st.DataObject) -> None:
    n = len(nesting.whole)
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    best = max((s for s in subsets(keep) if is_closed(nesting, s)), key=lambda s: int(s.sum()))
    assert (nesting.close(keep) == best).all()


@given(nesting=nestings(), data=st.data())
def test_what_goes_and_comes_leaves_a_decision_closed(
    nesting: Nesting, data: st.DataObject
) -> None:
    n = len(nesting.whole)
    keep = nesting.close(
        np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=bool)
    )
    for unit in keep.nonzero()[0].tolist():
        less = keep.copy()
        less[unit] = False
        without = keep.copy()
        without[nesting.going(keep, unit)] = False
        assert (without == nesting.close(less)).all()
    for unit in (~keep).nonzero()[0].tolist():
        more = keep.copy()
        more[nesting.coming(keep, [unit])] = True
        assert is_closed(nesting, more)


@given(nesting=nestings())
def test_lists_and_back(nesting: Nesting) -> None:
    again = Nesting.from_dict(json.loads(json.dumps(nesting.to_dict())))
    assert (again.whole == nesting.whole).all()
    assert (again.through == nesting.through).all()
