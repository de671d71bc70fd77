"""Posteriors, and ways to choose units, compared over separately trained networks.

``dirprune compare`` drives both.

Of posteriors (guides, priors, temperatures): :func:`run_cell` makes one cell from Python and
:func:`build_table` the table of many; :func:`paired_difference` is the difference of two in
held-out score with its standard error; :func:`rank_agreement` and :func:`kept_agreement` say
whether two remove the same units; :func:`load_cell` reads what the command has left in its folder
``cells``.

Of ways to choose units: :func:`parse_method` reads one, "l1-norm+refine", :class:`Chooser` chooses
by it, :func:`measure` says what comes of the choice under a protocol, and :func:`loss_share` how
much of the best rival's loss of accuracy a method removes. ``TrialRecord.load`` reads what the
command has left in its folder ``trials``.
"""

from .agreement import UnitScores, kept_agreement, mean_agreement, rank_agreement
from .cell import CellResult, load_cell, run_cell, unit_scores
from .choice import Chooser
from .grid import Cell, make_grid
from .loss_share import loss_share
from .method import Method, parse_method
from .outcome import TrialRecord
from .paired import elpd_data, paired_difference, pointwise_elpd
from .protocol import PROTOCOLS, Training, measure
from .stages import STAGES, Bench
from .table import build_table, to_csv, to_markdown

__all__ = [
    "PROTOCOLS",
    "STAGES",
    "Bench",
    "Cell",
    "CellResult",
    "Chooser",
    "Method",
    "Training",
    "TrialRecord",
    "UnitScores",
    "build_table",
    "elpd_data",
    "kept_agreement",
    "load_cell",
    "loss_share",
    "make_grid",
    "mean_agreement",
    "measure",
    "paired_difference",
    "parse_method",
    "pointwise_elpd",
    "rank_agreement",
    "run_cell",
    "to_csv",
    "to_markdown",
    "unit_scores",
]
