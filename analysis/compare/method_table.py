"""The tables of methods: a row per method and posterior, a block per protocol and compensation."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...model.errors import DirpruneError
from .loss_share import Difference, loss_share, paired
from .outcome import Arm, Chosen, TrialRecord
from .table import aligned, spread, unequal_macs

Row = dict[str, Any]
Block = tuple[str, str]
NOTES = (
    "Accuracy in % of the test images, mean ± sd over seeds; nothing was chosen by them. In bold "
    "the best at a budget, which these figures themselves pick out; ~: not told from it (the 95 % "
    "interval of Student's t for the paired difference over seeds holds zero).",
    "Loss removed: 1 - own loss of accuracy / that of the best rival at each budget, summed over "
    "budgets; rivals read no posterior. Passes: of single examples, a backward one counted as two, "
    "of scoring + of learning the posterior, in the mean over budgets and seeds; those of "
    "compensation, inside rounds too, are not counted.",
)


@dataclass(frozen=True)
class Line:
    """One arm with all that belongs to it: a line of ``comparison.csv``."""

    record: TrialRecord
    arm: Arm

    @property
    def chosen(self) -> Chosen:
        return self.record.chosen[self.arm.budget]

    @property
    def label(self) -> tuple[str, str]:
        """Method and posterior: what is averaged over seeds."""
        posterior = self.record.trial.posterior
        return self.record.trial.method, "" if posterior is None else posterior.name

    @property
    def block(self) -> Block:
        return self.arm.protocol, self.arm.compensation

    @property
    def loss(self) -> float:
        """Percentage points of test accuracy that are lost."""
        return self.record.original["test"] - self.arm.accuracy["test"]

    @property
    def seconds(self) -> dict[str, float]:
        return {"scoring": self.chosen.seconds, **self.record.seconds, **self.arm.seconds}

    def to_dict(self) -> dict[str, Any]:
        """All figures in one flat mapping."""
        trial, original, untrained = self.record.trial, self.record.original, self.arm.untrained
        kept = self.chosen.kept
        return {
            "protocol": self.arm.protocol, "compensation": self.arm.compensation,
            "method": trial.method, "posterior": self.label[1], "seed": trial.seed,
            "rival": self.record.rival, "budget": self.arm.budget,
            **{f"accuracy_{part}": percent for part, percent in self.arm.accuracy.items()},
            **{
                f"accuracy_{part}_untrained": None if untrained is None else untrained[part]
                for part in self.arm.accuracy
            },
            **{f"original_{part}": original[part] for part in self.arm.accuracy},
            "macs": self.chosen.macs, "params": self.chosen.params,
            "macs_before": original["macs"], "params_before": original["params"],
            "widths": " ".join(f"{site}:{len(units)}" for site, units in kept.items()),
            **{f"forwards_{what}": n for what, n in self.chosen.forwards.items()},
            **{f"seconds_{what}": round(value, 3) for what, value in self.seconds.items()},
        }  # fmt: skip


def lines_of(records: Iterable[TrialRecord]) -> list[Line]:
    """Every arm of every trial."""
    return [Line(record, arm) for record in records for arm in record.arms]


def build_rows(lines: Sequence[Line]) -> list[Row]:
    """A row per protocol, compensation, method and posterior, the best of a block first.

    Returns:
        rows of plain numbers, as ``comparison.json`` holds them; None where there is no number.

    Raises:
        DirpruneError: there is no line.
    """
    if not lines:
        raise DirpruneError("no trial is finished: there is nothing to compare")
    rows: list[Row] = []
    for block in dict.fromkeys(line.block for line in lines):
        groups: dict[tuple[str, str], list[Line]] = {}
        for line in lines:
            if line.block == block:
                groups.setdefault(line.label, []).append(line)
        made = [_row(block, label, groups) for label in groups]
        rows += sorted(made, key=lambda row: -row["mean"]["mean"])
    return rows


def _row(
    block: Block, label: tuple[str, str], groups: Mapping[tuple[str, str], Sequence[Line]]
) -> Row:
    own = groups[label]
    budgets = list(dict.fromkeys(line.arm.budget for line in own))
    seeds = sorted({line.record.trial.seed for line in own})
    tests = {key: _by_budget(lines, "test") for key, lines in groups.items()}
    at: dict[str, dict[str, Any]] = {}
    for budget in budgets:
        here = [line for line in own if line.arm.budget == budget]
        best = _best(tests, budget)
        found = paired(tests[label][budget], tests[best][budget])
        at[budget] = {
            **{part: spread([line.arm.accuracy[part] for line in here]) for part in PARTS},
            "macs": spread([ln.chosen.macs / ln.record.original["macs"] for ln in here]),
            "params": spread([ln.chosen.params / ln.record.original["params"] for ln in here]),
            "best": best == label,
            "difference": None if best == label else _difference(found),
            "forwards": _forwards(here),
        }  # fmt: skip
    complete = [s for s in seeds if all(s in tests[label][b] for b in budgets)]
    return {
        "protocol": block[0], "compensation": block[1], "method": label[0], "posterior": label[1],
        "rival": own[0].record.rival, "seeds": seeds, "budgets": at,
        "mean": spread(
            [statistics.fmean(tests[label][b][s] for b in budgets) for s in complete]
            or [statistics.fmean(at[b]["test"]["mean"] for b in budgets)]
        ),
        "loss_removed": _loss_removed(label, groups),
        "forwards": _forwards(own),
        "seconds": {
            stage: spread([line.seconds[stage] for line in own]) for stage in own[0].seconds
        },
    }  # fmt: skip


PARTS = ("test", "validation")


def _by_budget(lines: Sequence[Line], part: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for line in lines:
        seed = line.record.trial.seed
        found.setdefault(line.arm.budget, {})[seed] = line.arm.accuracy[part]
    return found


def _best(
    tests: Mapping[tuple[str, str], Mapping[str, Mapping[int, float]]], budget: str
) -> tuple[str, str]:
    """The highest mean among those with the most seeds."""
    here = {key: by_budget[budget] for key, by_budget in tests.items() if budget in by_budget}
    most = max(map(len, here.values()))
    full = [key for key, values in here.items() if len(values) == most]
    return max(full, key=lambda key: statistics.fmean(here[key].values()))


def _difference(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else {**asdict(found), "differs": found.differs}


def _forwards(lines: Sequence[Line]) -> dict[str, float | None]:
    """Means over budgets and seeds; None where a posterior's passes were not counted."""
    found = [line.chosen.forwards for line in lines]
    means: dict[str, float | None] = {}
    for what in ("scoring", "learning", "total"):
        counts = [f[what] for f in found]
        known = [count for count in counts if count is not None]
        means[what] = statistics.fmean(known) if len(known) == len(counts) else None
    return means


def _loss_removed(
    label: tuple[str, str], groups: Mapping[tuple[str, str], Sequence[Line]]
) -> dict[str, Any] | None:
    """Of the best rivals', themselves included; None where there is none to compare with."""
    losses: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for key, lines in groups.items():
        for line in lines:
            seed = line.record.trial.seed
            losses.setdefault(key, {}).setdefault(line.arm.budget, {})[seed] = line.loss
    rivals = {
        key[0]: losses[key] for key, lines in groups.items() if lines[0].record.rival
    }  # a rival reads no posterior: its name is its own
    try:
        found = loss_share(losses[label], rivals)
    except DirpruneError:
        return None
    return {
        "share": found.share, "by_budget": found.by_budget, "mean_over_budgets": found.mean,
        "best_rival": found.best, "over_seeds": spread(list(found.by_seed.values())),
    }  # fmt: skip


# -- text -----------------------------------------------------------------------------------------


def to_markdown(rows: Sequence[Row]) -> str:
    """The tables as people read them, in a terminal and in Markdown."""
    posteriors = {row["posterior"] for row in rows} - {""}
    seeds = {seed for row in rows for seed in row["seeds"]}
    partial = any(len(row["seeds"]) < len(seeds) for row in rows)
    parts = []
    for block in dict.fromkeys((row["protocol"], row["compensation"]) for row in rows):
        shown = [row for row in rows if (row["protocol"], row["compensation"]) == block]
        budgets = list(dict.fromkeys(b for row in shown for b in row["budgets"]))
        head = ["method", *budgets, "mean", "loss removed", "passes", "seconds"]
        lines = [[*head, "seeds"] if partial else head]
        for row in shown:
            lines.append(
                [
                    label_of(row, len(posteriors) > 1),
                    *(_cell(row["budgets"].get(b)) for b in budgets),
                    _both(row["mean"]),
                    _percent(row["loss_removed"]),
                    _passes(row["forwards"]),
                    f"{sum(s['mean'] for s in row['seconds'].values()):.0f}",
                    *([f"{len(row['seeds'])} of {len(seeds)}"] if partial else []),
                ]
            )
        parts.append(f"**{title_of(*block)}**\n\n{aligned(lines, left=1)}")
    notes = list(NOTES)
    if len(posteriors) == 1:
        notes.append(f"The posterior: {posteriors.pop()}.")
    shares: dict[str, list[float]] = {}
    for row in rows:
        for budget, at in row["budgets"].items():
            shares.setdefault(budget, []).append(at["macs"]["mean"])
    notes += unequal_macs(shares)
    return "\n\n".join([*parts, "\n".join(notes)])


def title_of(protocol: str, compensation: str) -> str:
    """A block in words.

    >>> title_of("one-shot", "none"), title_of("scratch", "none")
    ('one-shot, nothing compensated', 'scratch')
    """
    if protocol == "scratch":
        return protocol
    return f"{protocol}, " + (
        "nothing compensated" if compensation == "none" else f"then {compensation}"
    )


def label_of(row: Row, with_posterior: bool) -> str:
    """A method in a table; its posterior where there are several."""
    named = f" ({row['posterior']})" if with_posterior and row["posterior"] else ""
    return f"{row['method']}{named}"


def _cell(at: Mapping[str, Any] | None) -> str:
    if at is None:
        return "-"
    text = _both(at["test"])
    if at["best"]:
        return f"**{text}**"
    difference = at["difference"]
    alike = difference is not None and difference["differs"] is False
    return f"{text} ~" if alike else text


def _both(values: Mapping[str, float | None]) -> str:
    mean, sd = values["mean"], values["sd"]
    assert mean is not None  # accuracies are numbers
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def _percent(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None or found["share"] is None else f"{100 * found['share']:.0f} %"


def _passes(forwards: Mapping[str, float | None]) -> str:
    scoring, learning = forwards["scoring"], forwards["learning"]
    assert scoring is not None  # every criterion counts its own
    if learning is None:
        return f"{scoring:,.0f} + ?"
    return f"{scoring:,.0f} + {learning:,.0f}" if learning else f"{scoring:,.0f}"


def to_csv(lines: Sequence[Line]) -> str:
    """A line per arm."""
    found = [line.to_dict() for line in lines]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(found[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return out.getvalue()
