"""Names in Pyro's parameter store, and copies, that belong to one guide alone."""

from __future__ import annotations

import copy
import itertools
from typing import Any, Self

from pyro.infer.autoguide import AutoGuide

_serial = itertools.count()


class NamedGuide(AutoGuide):
    """A guide whose parameters no other guide inherits, copies and loaded ones included.

    A copy shares the model. A saved guide goes without it, unless it has not seen its sites yet.
    """

    def _rename(self, name: str) -> None:
        self._pyro_name = unique_name(name)

    def _pyro_set_supermodule(self, name: str, context: Any) -> None:
        super()._pyro_set_supermodule(name, context)
        self._rename(name)  # the first part of every AutoGuideList has the same one

    def __getstate__(self) -> dict[str, Any]:
        # Pyro hangs a weak reference on parameters without a constraint. It cannot be pickled, and
        # comes again with the next call.
        for parameter in self.parameters(recurse=False):
            parameter.__dict__.pop("unconstrained", None)
        # Pyro's version takes the model from the live guide.
        state = self.__dict__.copy()
        state.pop("plates", None)  # made anew by each call
        state["master"] = None
        if self.prototype_trace is not None:
            state["_model"] = (None,)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._rename(self._pyro_name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        shared = {
            "_model": (memo.get(id(self.model), self.model),),
            "prototype_trace": self.prototype_trace,
            "create_plates": self.create_plates,
        }
        state = {k: v for k, v in self.__getstate__().items() if k not in shared}
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(state, memo) | shared)
        return new


def unique_name(name: str) -> str:
    """A name for Pyro's parameter store that no guide has had."""
    return f"{name.partition('$')[0]}${next(_serial)}"
