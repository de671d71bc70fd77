"""A channel graph as rows and lanes: layers in their order, and where values meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from ...model.graph.channels import ChannelGraph
from ...model.graph.flattened import inputs_of
from ...model.graph.propagation import layer_of, op_name
from ...model.graph.trace import module_of

# How an operation is written where it is one of several values.
SIGNS = {"add": "+", "add_": "+", "mul": "×", "mul_": "×", "sub": "−", "div": "÷"}
LAYERS = ("linear", "embedding", "addmm", "mm")  # and all that begin with "conv"


@dataclass(frozen=True)
class Mark:
    """One row of the picture.

    Attributes:
        label: a layer's name, an operation's sign, or an input's name.
        kind: "layer", "meeting" (an operation that joins values of several rows), "features"
            (single inputs of the next layer, which are units) or "input".
        site: the one whose units come out here; None where they are of none, or of several.
        mixed: are they of several, or some of a site and others of none?
        sources: the earlier rows that it reads.
    """

    label: str
    kind: str
    site: str | None
    sources: tuple[int, ...]
    mixed: bool = False


@dataclass(frozen=True)
class Edge:
    """A line from row ``source`` to row ``target``; ``lanes`` has its place in each row between."""

    source: int
    target: int
    lanes: tuple[int, ...]


def marks_of(graph: ChannelGraph) -> list[Mark]:
    """The rows, in the order in which the network computes them.

    Whatever keeps channels apart (norms, activations, pools, reshapes) is left out. Concatenations
    that only grow, as in a dense block, read the one before and what is new.
    """
    owner, marks = graph.layer_sites(), list[Mark]()
    known = {*owner, *graph.unprunable, *(layer_of(c.weight) for c in graph.consumers)}
    came: dict[fx.Node, tuple[int, ...]] = {}  # node -> the rows that its value comes from
    joined: list[tuple[int, str, frozenset[int]]] = []  # row, operation, all rows that it joins

    def add(
        label: str, kind: str, site: str | None, sources: Sequence[int], mixed: bool = False
    ) -> tuple[int, ...]:
        marks.append(Mark(label, kind, site, tuple(sources), mixed))
        return (len(marks) - 1,)

    for node in graph.module.graph.nodes:
        if node.op == "placeholder":
            came[node] = add(node.name, "input", None, ())
        if node.op != "call_function" or not _is_value(node):
            continue
        rows = tuple(dict.fromkeys(r for arg in node.all_input_nodes for r in came.get(arg, ())))
        name, operation = _layer(node, known), op_name(node)
        if name is not None:
            if (inputs := inputs_of(name)) in graph.sites:
                rows = add(inputs, "features", inputs, rows)
            came[node] = add(name, "layer", owner.get(name), rows)
        elif len(rows) > 1:
            sites = {marks[row].site for row in rows}
            mixed = len(sites) > 1 or any(marks[row].mixed for row in rows)
            site = None if mixed else sites.pop()
            everything = frozenset(rows)
            for row, before, inside in reversed(joined):
                if before == operation == "cat" and inside < everything:
                    rows = (row, *(r for r in rows if r not in inside))
                    break
            came[node] = add(
                SIGNS.get(operation, operation.strip("_")), "meeting", site, rows, mixed
            )
            joined.append((len(marks) - 1, operation, everything))
        else:
            came[node] = rows
    return marks


def _is_value(node: fx.Node) -> bool:
    """Is it one or several tensors, rather than a size?"""
    return isinstance(node.meta.get("val"), Tensor | tuple | list)


def _layer(node: fx.Node, known: set[str]) -> str | None:
    """The layer that this operation is, if it is one that mixes channels."""
    parameters = [str(arg.target) for arg in node.all_input_nodes if arg.op == "get_attr"]
    if op_name(node) in LAYERS or op_name(node).startswith("conv"):
        return layer_of(parameters[0]) if parameters else module_of(node)
    return next((layer for p in parameters if (layer := layer_of(p)) in known), None)


def arrange(marks: Sequence[Mark]) -> tuple[list[int], list[Edge]]:
    """The lane of each row, and lines in lanes that no other line or mark has between their ends.

    A mark stands in the lowest lane of what it reads, so that the way on from it, where there is
    one, goes straight down; what is read again further below steps aside.
    """
    targets: list[list[int]] = [[] for _ in marks]
    for row, mark in enumerate(marks):
        for source in mark.sources:
            targets[source].append(row)
    lanes: list[tuple[int, int] | None] = []  # what each lane holds at present: source, target
    place: list[int] = []
    edges: list[tuple[int, int, int]] = []

    def free(least: int) -> int:
        for lane in range(least, len(lanes)):
            if lanes[lane] is None:
                return lane
        lanes.append(None)
        return len(lanes) - 1

    for row, after in enumerate(targets):
        reading = [i for i, held in enumerate(lanes) if held is not None and held[1] == row]
        for lane in reading:
            lanes[lane] = None
        place.append(reading[0] if reading else free(0))
        for i, target in enumerate(after):
            lane = place[row] if i == 0 else free(place[row])
            lanes[lane] = (row, target)
            edges.append((row, target, lane))
    return place, [Edge(s, t, (place[s], *[lane] * (t - s - 1), place[t])) for s, t, lane in edges]
