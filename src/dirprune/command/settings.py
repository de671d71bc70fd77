"""What a run is asked to do: the options of ``dirprune run`` as one checked record."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field
from typing import Any

BUDGETS = ("macs", "params", "keep")
UNIFORM = "uniform"  # widths
USUAL_BUDGET = "macs=0.5"
# Budgets that need the network, not its posterior alone, and why.
LATENCY, MAX_DROP = "latency", "max_drop"
MEASURED = {
    LATENCY: "latency is measured, on the network and alone on the machine",
    MAX_DROP: "accuracy is measured, on the network and validation images",
}


@dataclass(frozen=True)
class Settings:
    """The options of ``dirprune run`` that determine its result."""

    network: str = "digits-cnn"
    data: str = "digits"
    budget: dict[str, float] = field(default_factory=lambda: {"macs": 0.5})
    widths: str | dict[str, int] | None = None
    round_to: int | None = None
    rounds: int = 1
    refine: int = 0
    reselect: int = 0
    weights: str | None = None
    data_root: str | None = None
    download: bool = True
    size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    train_epochs: int | None = None
    guide: str = "dirichlet"
    guide_options: dict[str, float] | None = None
    prior: str = "symmetric"
    temperature: float | None = None
    scaling: str = "mean-one"
    svi_epochs: int | None = None
    restarts: int = 2
    particles: int = 4
    evidence: str = "removal-cost"
    null_control: bool = True
    include: list[str] | None = None
    exclude: list[str] | None = None
    attention: str = "heads"
    flatten: str = "channels"
    compensate: list[str] = field(default_factory=lambda: ["recalibrate"])
    finetune_epochs: int | None = None
    distill: bool = True
    batch_size: int = 128
    seed: int = 0
    device: str = "cpu"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Recipe:
    """What is usual for a data set, where the user says nothing."""

    train_epochs: int
    finetune_epochs: int
    augment: str | None


RECIPES = {
    "digits": Recipe(30, 30, None),
    "mnist": Recipe(10, 20, "shift"),
    "fashion-mnist": Recipe(30, 40, "crop-flip"),
    "cifar10": Recipe(60, 40, "crop-flip"),
}
FOLDER_RECIPE = Recipe(60, 40, "crop-flip")


def recipe(data: str) -> Recipe:
    """The recipe of a data set."""
    return RECIPES.get(data, FOLDER_RECIPE)


def parse_budget(text: str, *, measured: bool = False) -> dict[str, float]:
    """``"macs=0.4"`` or ``"macs=0.5,params=0.2"`` as a mapping.

    Several budgets are parted by commas, or by "+" where a comma parts something else.
    "latency=0.5" and "max_drop=0.5" only where they can be ``measured``.

    Raises:
        DirpruneError: not of that form, or an unknown budget; the message says what was expected.
    """
    from ..model.errors import DirpruneError, unknown_name

    budgets: dict[str, float] = {}
    for part in re.split("[,+]", text):
        name, equals, value = part.partition("=")
        if not equals:
            raise DirpruneError(f"budget {part!r}: expected NAME=SHARE, as in macs=0.5")
        if name in MEASURED and not measured:
            raise DirpruneError(
                f"budget {part!r}: {MEASURED[name]}, which dirprune run does; here it is one of "
                f"{', '.join(BUDGETS)}"
            )
        known = (*BUDGETS, *MEASURED) if measured else BUDGETS
        if name not in known:
            raise unknown_name("budget", name, known)
        if name in budgets:
            raise DirpruneError(f"budget {text!r}: {name} is given twice")
        budgets[name] = _parse_bound(part, name, value)
    if len(MEASURED.keys() & budgets.keys()) > 1:
        raise DirpruneError(
            f"budget {text!r}: {' and '.join(MEASURED)} are both met by search, one for the "
            "largest network and one for the smallest: give one of them"
        )
    return budgets


def _parse_bound(part: str, name: str, value: str) -> float:
    from ..model.errors import DirpruneError

    try:
        bound = float(value)
    except ValueError:
        raise DirpruneError(
            f"budget {part!r}: expected one number after '=', as in macs=0.5 for a half"
        ) from None
    if name == MAX_DROP:
        if not (math.isfinite(bound) and 0 <= bound < 100):
            raise DirpruneError(f"budget {part!r}: expected points of accuracy, 0 to below 100")
    elif not 0 < bound <= 1:
        raise DirpruneError(f"budget {part!r}: expected a share in (0, 1]")
    return bound


def parse_widths(text: str | None) -> str | dict[str, int] | None:
    """``"uniform"``, or ``"conv1=10,fc1=50"`` as a mapping; None stays None.

    Raises:
        DirpruneError: not of that form.
    """
    from ..model.errors import DirpruneError

    if text is None or text == UNIFORM:
        return text
    widths: dict[str, int] = {}
    for part in text.split(","):
        name, equals, value = part.strip().rpartition("=")
        if not (equals and name and value.isdecimal()):
            raise DirpruneError(
                f"--widths {text!r}: expected {UNIFORM}, or SITE=UNITS,..., as in conv1=10,fc1=50"
            )
        if name in widths:
            raise DirpruneError(f"--widths {text!r}: {name} is given twice")
        widths[name] = int(value)
    return widths


def parse_aim(
    budget: str | None, widths: str | None, *, measured: bool = False
) -> tuple[dict[str, float], str | dict[str, int] | None]:
    """``--budget`` and ``--widths`` together: given widths take the place of a budget.

    Raises:
        DirpruneError: both, or neither where there is no usual budget.
    """
    from ..model.errors import DirpruneError

    wanted = parse_widths(widths)
    if isinstance(wanted, dict):
        if budget is not None:
            raise DirpruneError(
                f"--widths {widths}: given widths need no --budget, and take none: got {budget}"
            )
        return {}, wanted
    if budget is None:
        raise DirpruneError("expected --budget, as in macs=0.5, or --widths, as in conv1=10,fc1=50")
    return parse_budget(budget, measured=measured), wanted


def parse_compensations(text: str) -> list[str]:
    """``"least-squares,recalibrate"`` as a list; "none" as an empty one."""
    from ..model.errors import DirpruneError

    names = [name.strip() for name in text.split(",")]
    if "none" in names and len(names) > 1:
        raise DirpruneError(f"--compensate {text}: none goes alone")
    return [] if names == ["none"] else names


def parse_options(text: str | None) -> dict[str, float] | None:
    """``"rank=10,init_scale=0.1"`` as a mapping; whole numbers stay whole."""
    from ..guides import families

    if text is None:
        return None
    form = "NAME=NUMBER,..., as in rank=10,init_scale=0.1"
    return families.parse_options(text.split(","), f"--guide-options {text!r}", form)


def parse_numbers(
    option: str, text: str | None, example: str = "0.485,0.456,0.406"
) -> list[float] | None:
    """``"0.5,0.5,0.5"`` as a list of numbers."""
    from ..model.errors import DirpruneError

    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise DirpruneError(
            f"{option} {text!r}: expected numbers separated by commas, as in {example}"
        ) from None


def parse_names(option: str, text: str) -> list[str]:
    """``"dirichlet, normal"`` as a list of names."""
    from ..model.errors import DirpruneError

    names = [part.strip() for part in text.split(",")]
    if not all(names):
        raise DirpruneError(f"{option} {text!r}: expected names separated by commas")
    return names


def parse_seeds(text: str) -> list[int]:
    """``"0,1,2"`` as a list of whole numbers."""
    from ..model.errors import DirpruneError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise DirpruneError(
            f"--seeds {text!r}: expected whole numbers separated by commas, as in 0,1,2"
        ) from None
