"""Guides, priors and temperatures compared over separately trained networks.

``dirprune compare`` drives it. From Python, :func:`run_cell` makes one cell and :func:`build_table`
the table of many; :func:`paired_difference` is the difference of two in held-out score with its
standard error; :func:`rank_agreement` and :func:`kept_agreement` say whether two remove the same
units; :func:`load_cell` reads what the command has left in its folder ``cells``.
"""

from .agreement import UnitScores, kept_agreement, mean_agreement, rank_agreement
from .cell import CellResult, load_cell, run_cell, unit_scores
from .grid import Cell, make_grid
from .paired import elpd_data, paired_difference, pointwise_elpd
from .table import build_table, to_csv, to_markdown

__all__ = [
    "Cell",
    "CellResult",
    "UnitScores",
    "build_table",
    "elpd_data",
    "kept_agreement",
    "load_cell",
    "make_grid",
    "mean_agreement",
    "paired_difference",
    "pointwise_elpd",
    "rank_agreement",
    "run_cell",
    "to_csv",
    "to_markdown",
    "unit_scores",
]
