"""``dirprune compare`` of methods: who keeps most accuracy, budget by budget, and at what cost."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..analysis.compare.cell import budget_name
from ..analysis.compare.choice import Chooser
from ..analysis.compare.grid import file_name
from ..analysis.compare.method import parse_method
from ..analysis.compare.method_pictures import write_method_pictures
from ..analysis.compare.method_table import build_rows, lines_of, to_csv, to_markdown
from ..analysis.compare.outcome import Arm, Chosen, Trial, TrialRecord
from ..analysis.compare.protocol import PROTOCOLS, Training, measure, parse_chain
from ..analysis.compare.stages import Bench, Choice
from ..analysis.compare.table import spread
from ..analysis.gains import mean_gains
from ..inference.evaluate import evaluate
from ..model.decision import Decision
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from ..model.writing import atomic_write
from .compare_networks import (
    alone,
    comparing,
    make_networks,
    reason,
    run_tasks,
    tell,
    warn,
)
from .grid import FIGURES, LINES, TABLE, TRIALS
from .method_grid import MethodGrid, check_methods
from .settings import Settings, recipe
from .trial_parts import (
    Made,
    TrialTask,
    forget,
    learn_posterior,
    learned,
    posterior_name,
    posterior_path,
    read,
)
from .workers import Workers

RECORD, ERROR = "trial.json", "error.json"


def compare_methods(
    grid: MethodGrid, folder: Path, *, processes: int | None, resume: bool, overwrite: bool
) -> int:
    """Make all trials into ``folder``, print the tables; 1 if a trial failed."""
    trials = check_methods(grid, processes)
    forget()
    with comparing(grid, folder, len(trials), processes, resume, overwrite) as workers:
        broken = make_networks(grid, folder, workers)
        failed = _make_trials(grid, folder, trials, workers, broken)
        records = _finished(folder)
        if any(record.arms for record in records):
            print(_summarise(grid, folder, records))
    if failed:
        tell(failed, len(trials), f"{folder / TRIALS}/*/{ERROR}", "trials")
        return 1
    return 0


# -- the work -------------------------------------------------------------------------------------


def _make_trials(
    grid: MethodGrid,
    folder: Path,
    trials: Sequence[Trial],
    workers: Workers,
    broken: Mapping[str, str],
) -> dict[str, str]:
    """Learn the posteriors that trials share, then make the trials; those that failed, and why."""
    failed: dict[str, str] = {}
    tasks: dict[str, TrialTask] = {}
    for trial in trials:
        network = grid.network(folder, trial.seed).name
        if network in broken:
            failed[trial.name] = f"network {network}: {broken[network]}"
        else:
            tasks[trial.name] = TrialTask(grid, folder, trial.seed, trial)
    needed = {
        posterior_name(t.trial): t
        for t in tasks.values()
        if parse_method(t.trial.method).needs_fit and not learned(posterior_path(t))
    }
    lost = {
        name: error
        for name, error in run_tasks(workers, learn_posterior, needed, "posteriors")
        if error is not None
    }
    for name, task in list(tasks.items()):
        error = lost.get(posterior_name(task.trial))
        if error is not None and parse_method(task.trial.method).needs_fit:
            failed[name] = f"posterior {posterior_name(task.trial)}: {reason(error)}"
            _save_error(folder, name, failed[name], error)
            del tasks[name]
    damaged = [name for name in tasks if _is_damaged(folder / TRIALS / name / RECORD)]
    if damaged:
        warn(f"these trials are damaged and are made again: {', '.join(damaged)}")
    for name, error in run_tasks(workers, _make_trial, tasks, "trials"):
        if error is not None:
            failed[name] = reason(error)
            _save_error(folder, name, failed[name], error)
        else:
            (folder / TRIALS / name / ERROR).unlink(missing_ok=True)
    return failed


def _save_error(folder: Path, name: str, message: str, error: Exception) -> None:
    details = "".join(traceback.format_exception(error))
    content = json.dumps({"error": message, "details": details}, indent=1)
    atomic_write(folder / TRIALS / name / ERROR, content)


def _make_trial(task: TrialTask) -> None:
    """Choose at every budget, and measure what comes of each choice; what is there stays."""
    grid, trial = task.grid, task.trial
    path = task.folder / TRIALS / trial.name / RECORD
    with alone():
        record = _load_record(path, trial)
        arms = grid.arms(trial, read(task)[1])
        budgets = {budget_name(budget): budget for budget in grid.budgets}
        missing = [
            (name, *arm) for name in budgets for arm in arms
            if not record.has(arm[0], name, arm[1])
        ]  # fmt: skip
        if not missing:
            return
        made = Made(task)
        method = parse_method(trial.method)
        fitted = None
        if method.needs_fit:
            posterior = posterior_path(task)
            fitted = made.fit(posterior)
            record.seconds["learning"] = (learned(posterior) or {}).get("seconds", 0.0)
        record.seconds.setdefault("learning", 0.0)
        record.rival = method.is_rival
        if not record.original:
            record.original = _original(made)
        bench = Bench(made.model, made.loader, made.augmented, trial.seed, fitted, made.svi)
        chooser = Chooser(method, bench, made.settings.widths)
        gains = None if fitted is None else mean_gains(made.model, fitted)
        failed: dict[str, DirpruneError] = {}
        for name, protocol, compensation in missing:
            if name in failed:
                continue
            if name not in record.chosen:
                try:
                    choice = chooser.choose(budgets[name])
                except DirpruneError as error:  # other budgets may do
                    failed[name] = error
                    continue
                record.chosen[name] = _chosen(made.model, choice)
                record.save(path)
            checkpoint = path.with_name(file_name(f"{protocol}-{name}-{compensation}.checkpoint"))
            found = measure(
                protocol, made.model, _decision(record.chosen[name]), loader=made.augmented,
                parts=made.parts, compensations=parse_chain(compensation), gains=gains,
                training=_training(made.settings, protocol, checkpoint), seed=trial.seed,
            )  # fmt: skip
            record.arms.append(
                Arm(protocol, name, compensation, found.accuracy, found.untrained, found.seconds)
            )
            record.save(path)
            checkpoint.unlink(missing_ok=True)
        if failed:
            raise DirpruneError("; ".join(f"{name}: {error}" for name, error in failed.items()))


def _load_record(path: Path, trial: Trial) -> TrialRecord:
    """What there is of a trial; a damaged file counts for nothing."""
    try:
        return _read(path) or TrialRecord(trial)
    except DirpruneError:
        return TrialRecord(trial)


def _is_damaged(path: Path) -> bool:
    try:
        _read(path)
    except DirpruneError:
        return True
    return False


def _read(path: Path) -> TrialRecord | None:
    """The record of a trial's own folder; in another's it would count for both."""
    record = TrialRecord.load(path)
    if record is not None and record.trial.name != path.parent.name:
        raise DirpruneError(f"{path} is of the trial {record.trial.name}; --resume makes it again")
    return record


def _original(made: Made) -> dict[str, float]:
    """The unpruned network."""
    percents = {name: evaluate(made.network, part).percent for name, part in made.parts.items()}
    return percents | {what: made.model.costs.total(what) for what in ("macs", "params")}


def _chosen(model: SwitchedNetwork, choice: Choice) -> Chosen:
    kept, learning = choice.decision.kept, choice.learning
    return Chosen(
        {site: units.tolist() for site, units in kept.items()},
        model.costs.total("macs", kept), model.costs.total("params", kept),
        (choice.scoring.forward, choice.scoring.backward),
        None if learning is None else (learning.forward, learning.backward),
        round(choice.seconds, 3),
    )  # fmt: skip


def _decision(chosen: Chosen) -> Decision:
    return Decision({site: torch.tensor(units) for site, units in chosen.kept.items()})


def _training(s: Settings, protocol: str, checkpoint: Path) -> Training | None:
    """As ``dirprune run`` fine-tunes."""
    if not PROTOCOLS[protocol].trains:
        return None
    usual = recipe(s.data).finetune_epochs
    epochs = usual if s.finetune_epochs is None else s.finetune_epochs
    return Training(epochs, s.distill, checkpoint)


# -- what follows ---------------------------------------------------------------------------------


def _finished(folder: Path) -> list[TrialRecord]:
    """All trials in the folder that have a figure, those of an earlier call too."""
    found, damaged = [], []
    for path in sorted((folder / TRIALS).glob(f"*/{RECORD}")):
        try:
            record = _read(path)
        except DirpruneError:
            damaged.append(path.parent.name)
            continue
        if record is not None:
            found.append(record)
    if damaged:
        warn(
            "these trials of an earlier call are damaged and left out (--resume with their method "
            f"and seed makes them again): {', '.join(damaged)}"
        )
    return found


def _summarise(grid: MethodGrid, folder: Path, records: Sequence[TrialRecord]) -> str:
    """Write the tables and the pictures; the tables as text."""
    lines = lines_of(records)
    rows = build_rows(lines)
    shutil.rmtree(folder / FIGURES, ignore_errors=True)
    write_method_pictures(folder / FIGURES, lines)
    content = {
        "settings": grid.shared(),
        "rows": rows,
        "arms": [line.to_dict() for line in lines],
    }
    atomic_write(folder / TABLE, json.dumps(content, indent=1, allow_nan=False))
    atomic_write(folder / LINES, to_csv(lines))
    return f"{to_markdown(rows)}\n{_of_networks(records)}\nfigures: {folder / FIGURES}"


def _of_networks(records: Sequence[TrialRecord]) -> str:
    """The unpruned networks, in a line; few images have validation images of their own."""
    whole = [r for r in records if not r.trial.few] or list(records)
    by_seed = {r.trial.seed: r.original for r in whole if r.original}
    text = []
    for part in ("test", "validation"):
        found = spread([original[part] for original in by_seed.values()])
        sd = "" if found["sd"] is None else f" ± {found['sd']:.2f}"
        text.append(f"{found['mean']:.2f}{sd} % of the {part} images")
    return f"The networks themselves: {', '.join(text)}."
