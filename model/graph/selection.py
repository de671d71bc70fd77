"""Which of a graph's sites are switched: ``include`` and ``exclude``."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase

from ..errors import DirpruneError, unknown_name
from .channels import ChannelGraph


def select_sites(
    graph: ChannelGraph, include: Collection[str] | None, exclude: Collection[str] | None
) -> ChannelGraph:
    """Keep only the sites that ``include`` names and that ``exclude`` does not.

    A site is named by itself or by any of its producing layers. A pattern ("layer3.*",
    "*.downsample.*"; ``*`` matches dots too, as in :mod:`fnmatch`) names all that it matches.

    Raises:
        DirpruneError: a name or pattern fits no layer, or what is included cannot be pruned.
    """
    owner = {name: name for name in graph.sites} | graph.layer_sites()
    known = [*owner, *graph.unprunable]

    def find(argument: str, names: Collection[str]) -> set[str]:
        if isinstance(names, str):
            raise DirpruneError(f"{argument}: expected a list of names, got the string {names!r}")
        found: set[str] = set()
        for name in names:
            layers = [name] if name in known else [x for x in known if fnmatchcase(x, name)]
            if not layers:
                raise unknown_name("layer", name, known)
            sites = {owner[layer] for layer in layers if layer in owner}
            if argument == "include" and not sites:
                reason = graph.unprunable[layers[0]]
                raise DirpruneError(f"layer {name!r} cannot be pruned: {reason}")
            found |= sites
        return found

    chosen = set(graph.sites) if include is None else find("include", include)
    chosen -= find("exclude", exclude or ())
    return graph.without(
        {name: "left alone by include/exclude" for name in graph.sites if name not in chosen}
    )
