"""A site: one group of coupled units, and one Dirichlet importance switch."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

# The Pyro model's own names, and dimensions of the DataTree beside those of units.
RESERVED = frozenset({"targets", "data", "chain", "draw", "image", "class"})


@dataclass(frozen=True)
class Site:
    """A group of units that one ``pyro.sample`` Dirichlet statement switches.

    Attributes:
        name: the site's name in the Pyro model, that of the first layer that produces its units
            (but see :func:`site_name`).
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


def site_name(layer: str, taken: Container[str] = ()) -> str:
    """The name of a site, for its first layer: the layer's own wherever that can be.

    A slash would part groups in a NetCDF file, white space ends names there, and some names stand
    for something else in the Pyro model or in the DataTree.

    >>> site_name("blocks.0.conv"), site_name("branch/a.conv"), site_name("data")
    ('blocks.0.conv', 'branch_a.conv', 'data_')
    """
    name = re.sub(r"[/\s]", "_", layer)
    while name in taken or name in RESERVED or name.endswith("_unit"):
        name += "_"
    return name
