"""A decision: which units stay. It lives in ``model`` because surgery needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import DirpruneError
from .sites import Site
from .writing import atomic_write


@dataclass(frozen=True)
class Decision:
    """Which units of each site stay.

    Attributes:
        kept: site name -> sorted LongTensor of the units that stay; a site that is not named keeps
            all its units.
        probability: site name -> [K], each unit's inclusion probability: the share of posterior
            draws under which the same rule would keep it, or that hold it where the draws are of
            sub-networks (empty where the evidence has no draws).
        settings: how it came about: evidence, budget, and the like.

    >>> Decision({"conv1": torch.tensor([3, 0])}).kept["conv1"].tolist()
    [0, 3]
    """

    kept: Mapping[str, Tensor]
    probability: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {}
        for name, units in self.kept.items():
            units = torch.as_tensor(units)
            if units.dim() != 1 or units.numel() == 0:
                raise DirpruneError(
                    f"decision for site {name!r}: expected a list of at least one kept unit, got "
                    f"shape {list(units.shape)}. A layer cannot lose all its units."
                )
            if units.dtype == torch.bool or units.is_floating_point():
                raise DirpruneError(
                    f"decision for site {name!r}: expected indices of kept units (integers), got "
                    f"{units.dtype}"
                )
            unique = units.long().cpu().unique()
            if len(unique) != len(units):
                raise DirpruneError(f"decision for site {name!r}: a unit is named twice")
            kept[name] = unique
        object.__setattr__(self, "kept", kept)

    def check(self, sites: Mapping[str, Site]) -> None:
        """Raise a DirpruneError unless the decision speaks of these sites and of their units."""
        for name, units in self.kept.items():
            if name not in sites:
                raise DirpruneError(
                    f"the decision names the site {name!r}, which this network does not have "
                    f"(it has {', '.join(sites) or 'none'}): it is of another network"
                )
            low, high = int(units[0]), int(units[-1])
            if low < 0 or high >= sites[name].size:
                raise DirpruneError(
                    f"the decision keeps unit {high if low >= 0 else low} of site {name!r}, which "
                    f"has units 0 to {sites[name].size - 1}: it is of another network"
                )

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        data = {
            "kept": {name: units.tolist() for name, units in self.kept.items()},
            "probability": {name: p.tolist() for name, p in self.probability.items()},
            "settings": dict(self.settings),
        }
        atomic_write(Path(path), json.dumps(data, indent=1))

    @staticmethod
    def load(path: str | Path) -> Decision:
        """Read what :meth:`save` wrote.

        Raises:
            DirpruneError: no such file, or not a decision.
        """
        try:
            data = json.loads(Path(path).read_text())
            return Decision(
                {name: torch.tensor(units) for name, units in data["kept"].items()},
                {
                    name: torch.tensor(p, dtype=torch.float64)
                    for name, p in data["probability"].items()
                },
                dict(data["settings"]),
            )
        except OSError as error:
            raise DirpruneError(f"{path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            if isinstance(error, DirpruneError):
                raise
            raise DirpruneError(f"{path} is not a decision written by dirprune: {error}") from error
