"""The table of a grid: a row per guide, prior and temperature, over seeds."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ...model.cost import CostTable
from ...model.errors import DirpruneError
from .agreement import kept_agreement, rank_agreement
from .cell import CellResult
from .paired import paired_difference

Row = dict[str, Any]
Combination = tuple[str, str, float]
EQUAL = 0.05  # networks are alike whose multiply-adds differ by no larger a share
NOTES = (
    "elpd: mean log predictive density of a validation image (nats), mean ± sd over seeds; "
    "difference: to the first row, ± standard error, paired over images and networks.",
    "ELBO (nats) compares guides and priors within one temperature only; a point has none. k-hat: "
    "none where it is beyond measure for a seed, or the guide is a point. At rest: seeds whose SVI "
    "no longer improved (? or -: its steps are too few to tell); another guide may only need more "
    "--svi-epochs.",
    "%: accuracy on validation images after a one-shot cut, nothing fine-tuned{recalibrated}; tau: "
    "Kendall's, of the removal order, and kept: overlap of the kept units at {budgets}, both with "
    "the first row.",
)


def build_table(
    results: Sequence[CellResult], *, same_images: bool = False, costs: CostTable | None = None
) -> list[Row]:
    """A row per guide, prior and temperature, the highest expected log predictive density first.

    Of the rows with the most seeds the best is the reference of all differences and agreements,
    which are over the seeds that both rows have; the other rows are in the order of their
    differences. (The best of many is best by chance too: look at the standard errors.)

    Args:
        results: the finished cells.
        same_images: all seeds share one network and its validation images; see
            :func:`~.paired.paired_difference`.
        costs: of the networks, for the share of the multiply-adds that each cut leaves.

    Returns:
        rows of plain numbers, as ``comparison.json`` holds them; None where there is no number.
    """
    if not results:
        raise DirpruneError("no cell is finished: there is nothing to compare")
    groups: dict[Combination, dict[int, CellResult]] = {}
    for result in results:
        groups.setdefault(result.cell.combination, {})[result.cell.seed] = result
    most = max(map(len, groups.values()))
    full = [key for key, cells in groups.items() if len(cells) == most]
    best = max(full, key=lambda key: _mean(groups[key], lambda r: r.elpd_mean))
    rows = [_row(key, cells, groups[best], same_images, costs) for key, cells in groups.items()]

    def place(row: Row) -> tuple[bool, bool, float]:
        # The reference is first whatever a row with fewer seeds says, and the others stand by what
        # is paired with it: a network that is easier than the others would lift a row that lacks
        # those. What shares no seed with the reference comes last.
        paired = row["difference"]["mean"]
        return (
            _key(row) != best,
            paired is None,
            -(row["elpd"]["mean"] if paired is None else paired),
        )

    return sorted(rows, key=place)


def _key(row: Row) -> Combination:
    return row["guide"], row["prior"], row["temperature"]


def _mean(cells: Mapping[int, CellResult], figure: Callable[[CellResult], float]) -> float:
    return statistics.fmean(map(figure, cells.values()))


def _row(
    key: Combination,
    cells: Mapping[int, CellResult],
    best: Mapping[int, CellResult],
    same_images: bool,
    costs: CostTable | None,
) -> Row:
    ordered = [cells[seed] for seed in sorted(cells)]
    common = sorted(set(cells) & set(best))
    pairs = [(cells[seed], best[seed]) for seed in common]
    budgets = list(ordered[0].kept)
    difference: dict[str, float | None] = {"mean": None, "se": None}
    if common and cells is best:
        difference = {"mean": 0.0, "se": None}
    elif common:
        mean, se = paired_difference(
            [a.elpd for a, _ in pairs], [b.elpd for _, b in pairs], same_images=same_images
        )
        difference = {"mean": mean, "se": se}
    return {
        "guide": key[0],
        "prior": key[1],
        "temperature": key[2],
        "seeds": sorted(cells),
        "elpd": spread([r.elpd_mean for r in ordered]),
        "difference": difference,
        "elbo": spread([r.elbo for r in ordered]),
        "at_rest": [r.at_rest for r in ordered],
        # One that is beyond measure is the worst: a mean of the others would hide it.
        "khat": spread([] if None in (khats := [r.khat for r in ordered]) else khats),
        "sd_log_w": spread([r.sd_log_w for r in ordered]),
        "accuracy": {
            budget: {
                stage: spread([r.accuracy[budget][stage] for r in ordered])
                for stage in ("pruned", "recalibrated")
            }
            for budget in budgets
        },
        "macs": {
            budget: spread([_macs(costs, r.kept[budget]) for r in ordered]) for budget in budgets
        },
        "tau": spread([rank_agreement(a.scores, b.scores) for a, b in pairs]),
        "kept": {
            budget: spread([kept_agreement(a.kept[budget], b.kept[budget]) for a, b in pairs])
            for budget in budgets
        },
        "seconds": {
            stage: spread([r.seconds[stage] for r in ordered]) for stage in ordered[0].seconds
        },
    }


def _macs(costs: CostTable | None, kept: Mapping[str, Sequence[int]]) -> float | None:
    """The share of the multiply-adds that a cut leaves."""
    if costs is None:
        return None
    left = costs.total("macs", {site: torch.tensor(units) for site, units in kept.items()})
    return left / costs.total("macs")


def spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and standard deviation of the values that are numbers; None where there are too few.

    >>> spread([1.0, 3.0, None])
    {'mean': 2.0, 'sd': 1.4142135623730951}
    """
    found = [v for v in values if v is not None and math.isfinite(v)]
    return {
        "mean": statistics.fmean(found) if found else None,
        "sd": statistics.stdev(found) if len(found) > 1 else None,
    }


def to_markdown(rows: Sequence[Row]) -> str:
    """The table as people read it, in a terminal and in Markdown."""
    budgets = list(rows[0]["accuracy"])
    recalibrated = any(
        row["accuracy"][b]["recalibrated"]["mean"] is not None for row in rows for b in budgets
    )
    head = ["guide", "prior", "temperature", "elpd", "difference", "ELBO", "at rest", "k-hat"]
    head += [*(f"% at {b}" for b in budgets), "tau", "kept", "seconds"]
    seeds = {seed for row in rows for seed in row["seeds"]}
    partial = any(len(row["seeds"]) < len(seeds) for row in rows)
    lines = [[*head, "seeds"] if partial else head]
    for row in rows:
        seconds = sum(s["mean"] for s in row["seconds"].values())
        cuts = [row["accuracy"][b] for b in budgets]
        lines.append(
            [row["guide"], row["prior"], f"{row['temperature']:g}", _both(row["elpd"], 4),
             _both(row["difference"], 4, "se"), _both(row["elbo"], 1), _at_rest(row["at_rest"]),
             _both(row["khat"], 2),
             *(_both(c["pruned"], 1) + (f" / {_both(c['recalibrated'], 1)}" if recalibrated else "")
               for c in cuts),
             _both(row["tau"], 2), " / ".join(_both(row["kept"][b], 2, None) for b in budgets),
             f"{seconds:.0f}", *([f"{len(row['seeds'])} of {len(seeds)}"] if partial else [])]
        )  # fmt: skip
    note = ", then after batch-norm recalibration" if recalibrated else ""
    notes = [line.format(recalibrated=note, budgets=" / ".join(budgets)) for line in NOTES]
    notes += unequal_macs({b: [row["macs"][b]["mean"] for row in rows] for b in budgets})
    return "\n".join([aligned(lines, left=2), "", *notes])


def unequal_macs(shares: Mapping[str, Sequence[float | None]]) -> list[str]:
    """A line for below a table whose networks differ in multiply-adds at the same budget.

    Args:
        shares: budget -> that of the original's in each row, where it is known.

    Returns:
        the line, or none.
    """
    told: list[str] = []
    for budget, found in shares.items():
        known = [share for share in found if share is not None]
        if "macs" in budget:  # a bound, and what is left of it no unit fits
            continue
        if known and max(known) > (1 + EQUAL) * min(known):
            of = "" if told else " of the original's"
            told.append(f"{100 * min(known):.3g} to {100 * max(known):.3g} %{of} at {budget}")
    if not told:
        return []
    return [
        f"Unequal multiply-adds: {', '.join(told)}. There the accuracies are of networks of "
        "different cost; a budget of macs, or uniform widths, makes them alike."
    ]


def aligned(lines: Sequence[Sequence[str]], left: int) -> str:
    """A Markdown table that stands straight in a terminal too; its first columns are to the left.

    Args:
        lines: the head and the rows.
        left: how many columns.
    """
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def join(line: Sequence[str]) -> str:
        cells = [
            text.ljust(width) if i < left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "| " + " | ".join(cells) + " |"

    return "\n".join([join(lines[0]), join(rule), *map(join, lines[1:])])


def _at_rest(found: Sequence[bool | None]) -> str:
    """In how many networks SVI came to rest; behind a "?" those where that cannot be told."""
    known = [good for good in found if good is not None]
    if not known:
        return "-"
    untold = len(found) - len(known)
    return f"{sum(known)} of {len(found)}" + (f", {untold} ?" if untold else "")


def _both(values: Mapping[str, float | None], digits: int, error: str | None = "sd") -> str:
    """``mean ± error`` with so many digits, as far as there are numbers."""
    mean, spread_ = values["mean"], values[error] if error else None
    if mean is None:
        return "-"
    text = f"{mean:.{digits}f}"
    return text if spread_ is None else f"{text} ± {spread_:.{digits}f}"


def cell_figures(result: CellResult) -> dict[str, Any]:
    """One cell's figures in one flat mapping: a line of ``comparison.csv``."""
    cell = result.cell
    line: dict[str, Any] = {
        "guide": cell.guide, "prior": cell.prior, "temperature": cell.temperature,
        "seed": cell.seed, "elpd": result.elpd_mean, "elpd_se": result.elpd_se,
        "images": len(result.elpd), "elbo": result.elbo, "elbo_se": result.elbo_se,
        "khat": result.khat, "sd_log_w": result.sd_log_w,
        "at_rest": result.at_rest, "accuracy_original": result.accuracy["original"],
        "network_elpd": result.network_elpd,
    }  # fmt: skip
    for budget, kept in result.kept.items():
        for stage, percent in result.accuracy[budget].items():
            line[f"accuracy_{stage} {budget}"] = percent
        line[f"kept {budget}"] = " ".join(f"{site}:{len(units)}" for site, units in kept.items())
    line.update({f"seconds_{stage}": seconds for stage, seconds in result.seconds.items()})
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()
    }


def to_csv(results: Sequence[CellResult]) -> str:
    """A line per cell."""
    lines = [cell_figures(result) for result in results]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()
