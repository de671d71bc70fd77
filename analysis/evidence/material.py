"""What criteria read: the model, a posterior and images, and what to say where one is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from ...inference.fit import Fit
from ...inference.loop import Loader
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..tree import stored_criteria, switches
from .switches import DRAWS, draw_switches, each_restart, fixed_batches, fixed_images

Source = Fit | xr.DataTree | None


@dataclass(frozen=True)
class Material:
    """What :func:`~dirprune.analysis.evidence.evidence` was given, for a criterion to read.

    Attributes:
        criterion: the name that was asked for; messages begin with it.
        source: a Fit, a DataTree, or None.
    """

    criterion: str
    given_model: SwitchedNetwork | None
    source: Source
    loader: Loader | None

    @property
    def model(self) -> SwitchedNetwork:
        """The switched network."""
        if self.given_model is None:
            raise self._lacks("a model")
        return self.given_model

    def images(self, number: int) -> tuple[Any, Tensor]:
        """(inputs, targets) of the same ``number`` training images at each call, on the device."""
        return fixed_images(self.model, self._images, number)

    def batches(self, number: int) -> AbstractContextManager[Iterator[tuple[Any, Tensor]]]:
        """The same images batch by batch, for a criterion that need not hold them all."""
        return fixed_batches(self.model, self._images, number)

    @property
    def _images(self) -> Loader:
        if self.loader is None:
            raise self._lacks("a loader of training images")
        return self.loader

    def switches(self, draws: int | None = None) -> dict[str, Tensor]:
        """The posterior's draws, site -> [chain, draw, K], float64: those of ``posterior``.

        Args:
            draws: the first so many of each chain; None takes all.
        """
        if isinstance(self.source, xr.DataTree):
            found = {site: torch.from_numpy(s) for site, s in switches(self.source).items()}
        elif isinstance(self.source, Fit):
            found = draw_switches(self.model, self.source, DRAWS).switches
        else:
            raise self._lacks("a posterior (a Fit or a DataTree)")
        return {site: s[:, :draws] for site, s in found.items()}

    def under_draws(
        self,
        draws: int,
        images: int,
        function: Callable[[SwitchedNetwork, Mapping[str, Tensor], Any, Tensor], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """``function(model, switches, inputs, targets)``, site -> [S, K], over all restarts.

        A likelihood that learned something beside the guide (a noise) is each restart's own, which
        a Fit alone has: so the source has to be one.
        """
        if not isinstance(self.source, Fit) or self.given_model is None or self.loader is None:
            raise self._lacks(
                "a model, a Fit and a loader of training images, or a DataTree that holds it"
            )
        model = self.given_model
        inputs, targets = self.images(images)
        few = self.switches(draws)
        parts = each_restart(
            model, self.source, few, lambda chosen: function(model, chosen, inputs, targets)
        )
        return {site: torch.cat([part[site] for part in parts]) for site in few}

    def _lacks(self, what: str) -> DirpruneError:
        there = ""
        if isinstance(self.source, xr.DataTree) and self.given_model is None:
            held = stored_criteria(self.source)
            there = f"; this file holds {', '.join(held)}" if held else ""
        return DirpruneError(f"evidence {self.criterion!r} needs {what}{there}")
