"""One style for all pictures: colours that colour-blind readers tell apart, sizes, saving."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from ...model.errors import DirpruneError
from ...model.writing import write_with

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# Okabe & Ito, "Color Universal Design", 2008.
KEPT, REMOVED = "#0072B2", "#D55E00"
SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
INK, MUTED, GRID, PALE = "#1F2933", "#5B6770", "#E3E7EB", "#C9D1D9"
PROBABILITY = "cividis"

WIDTH = 10.0  # inches; the report shows it at its full width
DPI = 144
FORMATS = (".png", ".svg", ".pdf")
NARROW = 40  # up to so many units every unit gets a line of its own
MARKERS = ("o", "D", "s", "^", "v", "P")

# Any: matplotlib types its parameters by a union of all their names.
_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def styled[**P](make: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a figure under the house style, whatever the user's own matplotlibrc says."""

    @wraps(make)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_RC)
            figure = make(*args, **kwargs)
            figure.set_dpi(DPI)
            FigureCanvasAgg(figure)
            return figure

    return wrapped


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure whose layout makes room for every label."""
    engine = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.04)
    return Figure(figsize=(width, height), layout=engine)


def check_format(path: Path) -> str:
    """The format that a file's name asks for.

    Raises:
        DirpruneError: not one that pictures are written in.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise DirpruneError(f"picture {path}: expected a name that ends in {' or '.join(FORMATS)}")
    return suffix[1:]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, SVG or PDF, as the name says, whole or not at all."""
    kind = check_format(path)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        write_with(path, lambda p: figure.savefig(p, format=kind, dpi=DPI))


def grid_axes(figure: Figure, number: int, columns: int = 3) -> list[Axes]:
    """``number`` panels, row by row, and no empty one."""
    columns = min(columns, number)
    rows = -(-number // columns)
    spec = figure.add_gridspec(rows, columns)
    return [figure.add_subplot(spec[i // columns, i % columns]) for i in range(number)]


def band(ax: Axes, low: Floats, high: Floats, kept: Bools, alpha: float) -> None:
    """A band over ranks 1, 2, ... in the colours of kept and removed units."""
    edges = np.flatnonzero(np.diff(kept, prepend=~kept[:1], append=~kept[-1:]))
    for start, end in pairwise(edges):
        ax.stairs(
            high[start:end],
            np.arange(start, end + 1) + 0.5,
            baseline=low[start:end],
            fill=True,
            color=KEPT if kept[start] else REMOVED,
            alpha=alpha,
            lw=0,
        )


def unit_limit(text: str, limit: int = 24) -> str:
    """A name that is too long for a label, with its middle left out."""
    half = (limit - 1) // 2
    text = text.replace("$", r"\$")  # no mathematics from a layer's name
    return text if len(text) <= limit else f"{text[:half]}…{text[-half:]}"


def compact(number: float) -> str:
    """12,345,678 as 12.3 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.3g}"
