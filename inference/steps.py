"""So many steps over a loader, whatever its length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from ..model.errors import DirpruneError
from .loop import Loader, batches_in


class Steps:
    """A loader of just ``steps`` batches: those of another one, from its start again at its end.

    Args:
        loader: batches of (inputs, targets); its generators are these steps' generators too.
        steps: how many.

    Raises:
        DirpruneError: fewer than one step, or a loader that is empty.
    """

    def __init__(self, loader: Loader, steps: int) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise DirpruneError(f"steps: expected a whole number of at least 1, got {steps!r}")
        if batches_in(loader) == 0:
            raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")
        self._loader, self._steps = loader, steps
        # What a loop seeds, so that the batches follow from its seed.
        for name in ("generator", "sampler", "batch_sampler"):
            setattr(self, name, getattr(loader, name, None))

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        passes = itertools.repeat(self._loader, self._steps)  # each has a batch at least
        return itertools.islice(itertools.chain.from_iterable(passes), self._steps)
