"""A site: one group of coupled units, and one Dirichlet importance switch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """A group of units that one ``pyro.sample`` Dirichlet statement switches.

    Attributes:
        name: the site's name in the Pyro model, that of the first layer that produces its units.
        size: K, the number of units.
        producers: layers whose outputs are the units.
        consumers: layers that read them; the gains act on these layers' inputs.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} ({self.size} units)"
