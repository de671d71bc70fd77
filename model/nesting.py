"""Units that are parts of another one: the features of a channel that a linear layer reads flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Numbers = NDArray[np.int64]
WHOLE = -1  # of a unit that is part of no other


@dataclass(frozen=True)
class Nesting:
    """Which units are parts of which, one level deep.

    A decision is *closed* where no part stays without its whole, and no whole without a part that
    nothing reads but through its parts.

    Attributes:
        whole: [units], the number of the unit that each is a part of, or -1.
        through: [units], marks those that are read through their parts alone.
    """

    whole: Numbers
    through: Bools

    @staticmethod
    def none(units: int) -> Nesting:
        """No unit is a part of another."""
        return Nesting(np.full(units, WHOLE, dtype=np.int64), np.zeros(units, dtype=bool))

    @cached_property
    def is_part(self) -> Bools:
        """[units]"""
        return self.whole != WHOLE

    @cached_property
    def is_flat(self) -> bool:
        """Is no unit a part of another?"""
        return not bool(self.is_part.any())

    @cached_property
    def parts(self) -> dict[int, Numbers]:
        """The parts of each unit that has some."""
        owned = self.is_part.nonzero()[0]
        order = owned[np.argsort(self.whole[owned], kind="stable")]
        wholes, starts = np.unique(self.whole[order], return_index=True)
        return dict(zip(wholes.tolist(), np.split(order, starts)[1:], strict=True))

    def close(self, keep: Bools) -> Bools:
        """The largest closed decision within one: booleans over the units, as is ``keep``."""
        if self.is_flat:
            return keep
        closed = keep.copy()
        closed[self.is_part] &= closed[self.whole[self.is_part]]
        read = np.zeros_like(closed)
        read[self.whole[closed & self.is_part]] = True
        closed &= read | ~self.through
        return closed

    def going(self, keep: Bools, unit: int) -> list[int]:
        """What leaves a closed decision when a unit of it does: the unit first, then the others."""
        if unit in self.parts:
            parts = self.parts[unit]
            return [unit, *parts[keep[parts]].tolist()]
        whole = int(self.whole[unit])
        if whole != WHOLE and self.through[whole] and keep[self.parts[whole]].sum() == 1:
            return [unit, whole]
        return [unit]

    def coming(self, keep: Bools, units: Sequence[int]) -> list[int]:
        """What enters a closed decision when these units do: they, their wholes, a part of each."""
        found = list(units)
        for unit in units:
            whole = int(self.whole[unit])
            if whole != WHOLE and not keep[whole] and whole not in found:
                found.append(whole)
            parts = self.parts.get(unit)
            if self.through[unit] and parts is not None and not np.isin(parts, found).any():
                found.append(int(parts[0]))
        return found

    def to_dict(self) -> dict[str, list[int]]:
        """Plain lists, for JSON."""
        return {"whole": self.whole.tolist(), "through": self.through.nonzero()[0].tolist()}

    @staticmethod
    def from_dict(data: Mapping[str, list[int]]) -> Nesting:
        """What :meth:`to_dict` wrote."""
        whole = np.array(data["whole"], dtype=np.int64)
        through = np.zeros(len(whole), dtype=bool)
        through[data["through"]] = True
        return Nesting(whole, through)
