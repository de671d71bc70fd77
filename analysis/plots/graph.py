"""The channel graph: a network's layers in order, which of them share units, and how they read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.textpath import text_to_path

from ...model.graph.channels import ChannelGraph
from .layers import Edge, Mark, arrange, marks_of
from .style import INK, MUTED, PALE, SERIES, styled

Point = tuple[float, float]
COLOURS = (*SERIES, "#7A4FBF", "#8A6D1D", "#B0326F", "#4B8B3B")
MIXED = "#8A949C"  # units of several sites
ROW, LANE, GAP = 0.21, 0.17, 0.35  # inches: between rows, between lanes, between columns
MARGIN, HEAD, FOOT = 0.3, 0.55, 0.75
TALL = 40  # so many rows stand in one column, whatever the number
SIZE, SMALL = 8.5, 7.5  # of letters
NOTE = 60  # characters


@styled
def graph_figure(graph: ChannelGraph, title: str) -> Figure:
    """A row for each layer, a colour for each site, and lines for what reads what.

    Rows are in the order of computation, in columns where there are many. A line has the colour of
    the units that it carries, so that a residual stream is one coloured track. Layers that are left
    alone are grey, with the reason.

    Args:
        graph: of a :class:`~dirprune.model.switched.SwitchedNetwork`, its ``graph``.
        title: what the network is called.
    """
    marks = marks_of(graph)
    place, edges = arrange(marks)
    notes = _notes(graph, marks)
    colours = _colours(marks)
    # A page about as wide as high: a column of n rows is n ROW high.
    lines = [_width(m.label, SIZE) + _width(n, SMALL) for m, n in zip(marks, notes, strict=True)]
    height = max(TALL, math.ceil(math.sqrt(len(marks) * (max(lines) + GAP) / ROW)))
    height = math.ceil(len(marks) / math.ceil(len(marks) / height))
    starts = range(0, len(marks), height)
    outer = list(place)  # the outermost lane of each row
    for edge in edges:
        for row, lane in enumerate(edge.lanes, edge.source):
            outer[row] = max(outer[row], lane)
    lanes = [max(outer[start : start + height]) for start in starts]
    widths = [
        LANE * (lane + 1) + max(lines[start : start + height]) + 0.25
        for start, lane in zip(starts, lanes, strict=True)
    ]
    legend = _legend(graph, marks)
    wide = max(
        sum(widths) + GAP * (len(widths) - 1),
        *(_width(line, SMALL) for line in legend),
        _width(title, 10.5, bold=True),
    )
    size = (wide + 2 * MARGIN, HEAD + ROW * height + FOOT)
    figure = Figure(figsize=size)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_xlim(0, size[0])
    ax.set_ylim(size[1], 0)  # in inches, down
    ax.set_axis_off()
    ax.text(MARGIN, 0.22, title, fontsize=10.5, fontweight="bold", va="center", parse_math=False)

    left = [MARGIN + sum(widths[:i]) + GAP * i for i in range(len(widths))]

    def spot(row: int, lane: int) -> Point:
        return left[row // height] + LANE * (lane + 0.5), HEAD + ROW * (row % height + 0.5)

    for edge in edges:
        for points in _pieces(edge, height, spot):
            ax.add_patch(_line(points, _colour(marks[edge.source], colours)))
    for row, (mark, note) in enumerate(zip(marks, notes, strict=True)):
        x, y = spot(row, place[row])
        _draw(ax, mark, x, y, colours)
        start = left[row // height] + LANE * (lanes[row // height] + 1) + 0.08
        quiet = mark.kind in ("meeting", "input")
        ax.text(start, y, mark.label, fontsize=SIZE, color=MUTED if quiet else INK, va="center",
                parse_math=False)  # fmt: skip
        ax.text(start + _width(mark.label, SIZE) + 0.1, y, note, fontsize=SMALL, color=MUTED,
                va="center", parse_math=False)  # fmt: skip
    for i, line in enumerate(legend):
        ax.text(MARGIN, size[1] - FOOT + 0.25 + 0.17 * i, line, fontsize=SMALL, color=MUTED,
                va="center")  # fmt: skip
    return figure


def _notes(graph: ChannelGraph, marks: Sequence[Mark]) -> list[str]:
    """What stands behind each label: units, the site that it shares, or why it is left alone."""
    notes = []
    for mark in marks:
        note = ""
        if mark.kind == "layer" and mark.site is not None:
            site = graph.sites[mark.site]
            note = f"{site.size} units" if mark.label == site.name else f"with {site.name}"
        elif mark.kind == "features" and mark.site is not None:
            units = f"{graph.sites[mark.site].size:,} units"
            note = f"{units}, features of {_channels(graph, mark.site)}"
        elif mark.kind == "layer":
            note = graph.unprunable.get(mark.label, "")
        notes.append(note if len(note) <= NOTE else note[: NOTE - 1].rstrip() + "…")
    return notes


def _channels(graph: ChannelGraph, site: str) -> str:
    """The sites of the channels that these features are parts of; where they are left alone too."""
    start, sites = graph.offsets[site], list(graph.offsets.items())
    wholes = set(graph.nesting.whole[start : start + graph.sites[site].size].tolist())
    owners = [
        n for n, first in sites if any(first <= w < first + graph.sites[n].size for w in wholes)
    ]
    return " and ".join(owners) or "channels that stay"


def _colours(marks: Sequence[Mark]) -> dict[str, str]:
    """A colour for each site: none twice among sites whose rows overlap, while there are enough."""
    first, last = dict[str, int](), dict[str, int]()
    for row, mark in enumerate(marks):
        for at in (mark, *(marks[source] for source in mark.sources)):
            if at.site is not None:
                first.setdefault(at.site, row)
                last[at.site] = row
    chosen: dict[str, str] = {}
    waiting = list(COLOURS)  # the one that was used longest ago comes first
    for site, row in first.items():
        busy = {colour for other, colour in chosen.items() if last[other] >= row}
        colour = next((c for c in waiting if c not in busy), waiting[0])
        waiting.remove(colour)
        waiting.append(colour)
        chosen[site] = colour
    return chosen


def _pieces(edge: Edge, height: int, spot: Callable[[int, int], Point]) -> list[list[Point]]:
    """The points of a line, in a piece for each column that it passes."""
    pieces: list[list[Point]] = [[]]
    for row, lane in enumerate(edge.lanes, edge.source):
        x, y = spot(row, lane)
        if row % height == 0 and row > edge.source:  # from the foot of the last column to the top
            before, low = pieces[-1][-1]
            pieces[-1].append((before, low + 0.6 * ROW))
            pieces.append([(x, y - 0.6 * ROW)])
        pieces[-1].append((x, y))
    return pieces


def _line(points: Sequence[Point], colour: str) -> PathPatch:
    """Straight down in a lane, and an S from one lane to another."""
    vertices, codes = [points[0]], [Path.MOVETO]
    for (x, y), (u, v) in pairwise(points):
        middle = (y + v) / 2
        vertices += [(x, middle), (u, middle), (u, v)]
        codes += [Path.CURVE4] * 3
    return PathPatch(Path(vertices, codes), fill=False, edgecolor=colour, lw=1.6, capstyle="round")


def _colour(mark: Mark, colours: Mapping[str, str]) -> str:
    """Of the units that come out at a row."""
    if mark.site is not None:
        return colours[mark.site]
    return MIXED if mark.mixed else PALE


def _draw(ax: Axes, mark: Mark, x: float, y: float, colours: Mapping[str, str]) -> None:
    colour = _colour(mark, colours)
    edge = MUTED if mark.site is None else colour
    shape, size, face = {
        "layer": ("o", 6.5, colour), "features": ("D", 5.0, colour),
        "meeting": ("o", 3.5, "white"), "input": ("v", 5.0, "white"),
    }[mark.kind]  # fmt: skip
    ax.add_line(Line2D([x], [y], marker=shape, ms=size, mfc=face, mec=edge, mew=1.1, zorder=3))


def _legend(graph: ChannelGraph, marks: Sequence[Mark]) -> list[str]:
    kinds, sites = [mark.kind for mark in marks], len(graph.sites)
    features = " Diamonds: single inputs of a layer." if "features" in kinds else ""
    return [
        f"{kinds.count('layer')} layers, {sites} sites. One colour is one site: units that are "
        "kept or removed together;",
        "far apart, colours come again. Light grey: left alone. Small circles: where values meet,",
        f"dark grey where they are not of one site.{features}",
    ]


def _width(text: str, size: float, *, bold: bool = False) -> float:
    """In inches."""
    if not text:
        return 0.0
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    width: float = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return width / 72
