"""What a removal saves where channels take their features with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...model.cost import Term
from ...model.nesting import Nesting
from .removal import Removal

Bools = NDArray[np.bool_]


class SavingWithParts:
    """What each unit's removal saves with all that goes with it, of a :class:`Removal`.

    A channel takes its features with it; the last feature of a channel that nothing else reads
    takes the channel. Of a set S the removal saves, over terms, c (r_S C + k_S R - r_S k_S), which
    is the sum of single savings where no term has rows of one member and columns of another.
    """

    def __init__(self, removal: Removal, terms: Sequence[Term], nesting: Nesting) -> None:
        self._removal, self._nesting = removal, nesting
        self._parts = nesting.is_part.nonzero()[0]
        self._wholes = nesting.whole[self._parts]
        everything = np.ones(len(nesting.whole), dtype=bool)
        self._corners = [t for t in terms if bool(self._corner(t, everything).any())]

    def __call__(self, kept: Bools) -> NDArray[np.int64]:
        """[units]; meaningful for ``kept`` ones, which are a closed decision."""
        single = self._removal.saving
        if not len(self._parts):
            return single
        saving = single + self._sums(single, kept)
        for t in self._corners:
            saving -= self._corner(t, kept)
        here = kept[self._parts]
        number = np.bincount(self._wholes[here], minlength=len(kept))
        last = self._parts[here & self._nesting.through[self._wholes] & (number[self._wholes] == 1)]
        saving[last] = saving[self._nesting.whole[last]]
        return saving

    def _sums(self, values: NDArray[np.int64], kept: Bools) -> NDArray[np.int64]:
        """Of each unit's kept parts."""
        weights = values[self._parts] * kept[self._parts]
        sums = np.bincount(self._wholes, weights=weights, minlength=len(kept))
        found: NDArray[np.int64] = sums.astype(np.int64)  # exact below 2^53
        return found

    def _corner(self, t: Term, kept: Bools) -> NDArray[np.int64]:
        """c (r_S k_S - sum of r_u k_u) of each unit and its parts, which single savings lack."""
        rows, columns = t.rows + self._sums(t.rows, kept), t.columns + self._sums(t.columns, kept)
        own = t.rows * t.columns
        corner: NDArray[np.int64] = t.coefficient * (rows * columns - own - self._sums(own, kept))
        return corner
