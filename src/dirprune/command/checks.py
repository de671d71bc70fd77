"""What is checked before a run takes any time: names, numbers, the device, the folder."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ..analysis.evidence import CRITERIA, parse_criterion
from ..guides import check_options as check_guide
from ..inference.compensation import parse_compensation
from ..model.errors import DirpruneError, unknown_name
from ..model.priors import make_prior
from ..model.switched import FLATTEN
from ..model.writing import atomic_write
from .settings import BUDGETS, MAX_DROP, MEASURED, Settings

SETTINGS, METRICS, HISTORY, LOCK = "settings.json", "metrics.json", "history.json", ".lock"
GRID = "grid.json"  # of dirprune compare
OUTPUTS = (
    METRICS, HISTORY, "posterior.nc", "subnetworks.nc", "closeups.nc", "decision.json",
    "report.html", "pruned.pt2", "checkpoints", "original", "pruned", "figures",
)  # fmt: skip


def check_options(settings: Settings) -> None:
    """Refuse unknown names and bad numbers before anything takes time."""
    check_guide(settings.guide, settings.guide_options or {})
    criterion, _ = parse_criterion(settings.evidence)
    if criterion == "concentration" and settings.guide != "dirichlet":
        raise DirpruneError(
            f"--evidence concentration needs --guide dirichlet: {settings.guide!r} has no "
            "concentrations. removal-cost works with any guide"
        )
    make_prior(settings.prior)
    if settings.flatten not in FLATTEN:
        raise unknown_name("--flatten", settings.flatten, FLATTEN)
    for name in settings.compensate:
        parse_compensation(name)
    check_numbers(
        settings,
        train_epochs=0, finetune_epochs=0, svi_epochs=1, restarts=1, particles=1, batch_size=1,
        round_to=1, rounds=1, refine=0, reselect=0,
    )  # fmt: skip
    if settings.rounds > 1:
        _check_rounds(settings)
    if settings.refine:
        _check_search(settings, "refine")
    if settings.reselect:
        _check_search(settings, "reselect")
        _check_reselect(settings)
    check_shared(settings)
    if settings.temperature is not None and not 0 < settings.temperature < math.inf:
        raise DirpruneError(f"--temperature {settings.temperature}: expected a positive number")


def _check_rounds(settings: Settings) -> None:
    """Refuse what one-shot decisions alone can do."""
    measured = [f"{what}={share}" for what, share in settings.budget.items() if what in MEASURED]
    if measured:
        raise DirpruneError(
            f"--rounds {settings.rounds} with --budget {measured[0]}: that budget is met by a "
            f"search among decisions in one shot; rounds take {', '.join(BUDGETS)}, or --widths"
        )
    learns = "posterior" in CRITERIA[parse_criterion(settings.evidence)[0]].reads
    if not learns and any(name.partition(":")[0] == "fold-gains" for name in settings.compensate):
        raise DirpruneError(
            f"--rounds {settings.rounds} with --compensate fold-gains needs a posterior in each "
            f"round, and --evidence {settings.evidence} reads none"
        )


def _check_search(settings: Settings, option: str) -> None:
    """Refuse what a changed decision would no longer be."""
    given = f"--{option} {getattr(settings, option)}"
    if settings.rounds > 1:
        raise DirpruneError(
            f"{given} with --rounds {settings.rounds}: what the rounds left made up for units that "
            "the search would take back; give one of them"
        )
    if MAX_DROP in settings.budget:
        raise DirpruneError(
            f"{given} with --budget {MAX_DROP}={settings.budget[MAX_DROP]}: the search changes the "
            "units whose loss was confirmed; give one of them"
        )


def _check_reselect(settings: Settings) -> None:
    """Refuse what would choose units for another network than the one that comes out."""
    given = f"--reselect {settings.reselect}"
    if settings.refine:
        raise DirpruneError(
            f"{given} with --refine {settings.refine}: one chooses units for a network that least "
            "squares reconstructs, the other for one that is only cut; give one of them"
        )
    if not any(parse_compensation(name)[0] == "least-squares" for name in settings.compensate):
        raise DirpruneError(
            f"{given} chooses units for a network that least squares reconstructs: add "
            "--compensate least-squares"
        )


def check_numbers(settings: Settings, **least: int) -> None:
    """Refuse options below what they must be at least; what is not given is not checked."""
    for option, smallest in least.items():
        value = getattr(settings, option)
        if value is not None and value < smallest:
            raise DirpruneError(
                f"--{option.replace('_', '-')} {value}: expected a whole number of at least "
                f"{smallest}"
            )


def check_shared(settings: Settings) -> None:
    """Refuse a bad seed, and layers that are asked for both ways: of any command that prunes."""
    if not 0 <= settings.seed < 2**63:
        raise DirpruneError(f"--seed {settings.seed}: expected a whole number from 0 to 2^63 - 1")
    both = set(settings.include or ()) & set(settings.exclude or ())
    if both:
        raise DirpruneError(f"{', '.join(sorted(both))}: named by both --include and --exclude")


def find_device(name: str) -> torch.device:
    """The device of that name, once it holds a number."""
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps", "xpu"):
        raise DirpruneError(f"--device {name!r}: expected cpu, cuda, cuda:1, mps or xpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise DirpruneError(f"--device {name}: {reason}") from error
    return device


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of the folder; a folder that stays empty is removed again."""
    if folder.is_file():
        raise DirpruneError(f"--out {folder} is a file: expected a folder")
    if folder.resolve() == Path(folder.resolve().anchor):
        raise DirpruneError(f"--out {folder}: expected a folder for the results")
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise DirpruneError(
            f"another dirprune is writing to {folder}: wait for it, or name another --out"
        ) from error
    except OSError as error:
        raise DirpruneError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        if made and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def tidy_after_refusal(folder: Path) -> Iterator[None]:
    """Remove what a run left in a folder that it has claimed, if it had nothing to keep yet."""
    try:
        yield
    finally:
        if not _begun(folder):
            (folder / SETTINGS).unlink(missing_ok=True)
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _begun(folder: Path) -> bool:
    """Has a run in this folder something to keep?"""
    return any((folder / name).exists() for name in ("original", METRICS, "checkpoints/training"))


def changed_settings(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Which of the wanted settings a folder was not made with; empty where it was."""
    found = {**Settings().to_dict(), **found}  # what is newer than it was as by default
    return ", ".join(
        f"--{key.replace('_', '-')} was {found.get(key)!r}, now {value!r}"
        for key, value in wanted.items()
        if found.get(key) != value
    )


def claim_folder(folder: Path, settings: Settings, *, resume: bool, overwrite: bool) -> None:
    """Take the folder for this run, or go on with the one that is there."""
    path = folder / SETTINGS
    if resume and overwrite:
        raise DirpruneError("--resume goes on and --overwrite begins again: give one of them")
    wanted = json.loads(json.dumps(settings.to_dict()))
    if path.exists() and resume:
        try:
            found = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise DirpruneError(f"{path} is damaged; --overwrite begins again") from error
        if differences := changed_settings(found, wanted):
            raise DirpruneError(
                f"{folder} holds a run with other settings ({differences}): use the same, another "
                "--out, or --overwrite"
            )
        return
    there = [name for name in (GRID, *OUTPUTS) if (folder / name).exists()]
    if path.exists() and not there and not overwrite:
        there = [SETTINGS]  # a run leaves outputs beside it: this one is somebody else's
    if there and (there == [SETTINGS] or GRID in there or not path.exists()):
        raise DirpruneError(
            f"{folder} holds {', '.join(there)}, but not of a run of dirprune: choose another --out"
        )
    if _begun(folder) and not overwrite:
        raise DirpruneError(
            f"{folder} holds a run already: --resume goes on with it, --overwrite begins again, "
            "--out names another folder"
        )
    if resume:
        print(f"dirprune: {folder} holds no run yet: beginning one", file=sys.stderr)
    for name in there:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            (folder / name).unlink()
    atomic_write(path, json.dumps(wanted, indent=1))


def finished_metrics(folder: Path, needed: Collection[str]) -> dict[str, Any]:
    """The figures of a run that is over, which has these.

    Raises:
        DirpruneError: the file is damaged.
    """
    path = folder / METRICS
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        missing = [key for key in needed if key not in found]
    except (ValueError, TypeError) as error:
        raise DirpruneError(f"{path} is damaged ({error}): {_AGAIN}") from error
    if missing:
        raise DirpruneError(f"{path} is damaged (it lacks {', '.join(missing)}): {_AGAIN}")
    return found


_AGAIN = "remove it, and --resume makes what is missing, or --overwrite begins again"
