"""What a compensation reads, and what it says of what it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..loop import Loader, same_batches


@dataclass(frozen=True)
class Report:
    """What a compensation did.

    Attributes:
        layers: layer -> figures of what was changed in it, each by name.
        left_alone: layer -> why the compensation cannot act on it.
    """

    layers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    left_alone: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What :func:`~dirprune.inference.compensation.compensate` was given.

    Attributes:
        name: of the compensation; messages begin with it.
        given_gains: site -> [K], of all units of a site; None where the caller gave none.
        given_loader: training images; None where the caller gave none.
    """

    name: str
    model: SwitchedNetwork
    decision: Decision
    given_loader: Loader | None
    given_gains: Mapping[str, Tensor] | None

    @property
    def keep(self) -> Tensor:
        """The decision over the graph's unit numbers, with True at the end, for -1."""
        return self.model.graph.keep_vector(self.decision.kept)

    @property
    def loader(self) -> Loader:
        """Training images."""
        if self.given_loader is None:
            raise DirpruneError(f"compensation {self.name!r} needs a loader of training images")
        return self.given_loader

    @property
    def gains(self) -> dict[str, Tensor]:
        """The gain of every unit, site -> [K], float64; 1 for sites that were not given.

        Raises:
            DirpruneError: there are none, or they are of another network.
        """
        if self.given_gains is None:
            raise DirpruneError(
                f"compensation {self.name!r} needs gains=, a gain for every unit of a site of this "
                "model, as dirprune.analysis.gains.mean_gains(model, posterior) gives them"
            )
        sites = self.model.sites
        for name, gain in self.given_gains.items():
            if name not in sites:
                raise DirpruneError(
                    f"gains for the site {name!r}, which this network does not have "
                    f"(it has {', '.join(sites)}): they are of another network"
                )
            if gain.shape != (sites[name].size,) or not bool(gain.isfinite().all()):
                raise DirpruneError(
                    f"gains of site {name!r}: expected {sites[name].size} finite numbers, got "
                    f"shape {list(gain.shape)}"
                    + ("" if bool(gain.isfinite().all()) else " with NaN or infinity")
                )
        ones = {name: torch.ones(site.size, dtype=torch.float64) for name, site in sites.items()}
        return ones | {name: g.detach().double().cpu() for name, g in self.given_gains.items()}

    def check(self, network: nn.Module) -> None:
        """Raise a DirpruneError unless the network is the model's, cut by the decision."""
        self.decision.check(self.model.sites)
        keep = self.keep
        tensors = dict(network.named_parameters()) | dict(network.named_buffers())
        for (name, axis), units in self.model.graph.axes.items():
            expected = int(keep[units].sum())
            found = tensors[name].shape[axis] if name in tensors else None
            if found != expected:
                came = "is not there" if found is None else f"has {found} entries on axis {axis}"
                raise DirpruneError(
                    f"the network is not the one that this decision leaves: its {name} {came}, "
                    f"expected {expected}; give what prune(model, decision) returns"
                )

    @contextmanager
    def seeded(self, seed: int, device: torch.device) -> Iterator[Loader]:
        """The loader, which yields the same batches each time within; generators are put back."""
        loader = self.loader
        with same_batches(loader, [seed], device):
            yield loader
