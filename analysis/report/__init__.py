"""The report of a run: ``report.html``, one file that opens offline, and its pictures."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined, UndefinedError

from ...model.errors import DirpruneError
from ...model.writing import atomic_write
from .contents import contents
from .pictures import Picture, draw
from .reading import Run, read_run

__all__ = ["write_report"]


def write_report(run: Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` into a run's folder, from its files alone.

    Args:
        run: a folder with ``metrics.json``, ``decision.json``, ``history.json`` and
            ``posterior.nc``, as ``dirprune run`` leaves it.

    Returns:
        The path of the report.

    Raises:
        DirpruneError: a file is missing, damaged or of another run, or the folder is not writable.
    """
    run = Path(run)
    found = read_run(run)
    pictures = draw(found, run / "figures")
    try:
        html = render(found, pictures)
    except (KeyError, TypeError, ValueError, AttributeError, UndefinedError) as error:
        if isinstance(error, DirpruneError):
            raise
        raise DirpruneError(
            f"{run / 'metrics.json'} is not a file written by dirprune run: "
            f"{type(error).__name__}: {error}"
        ) from error
    path = run / "report.html"
    atomic_write(path, html)
    return path


def render(run: Run, pictures: list[Picture]) -> str:
    """The report as HTML; everything that comes from the run is escaped."""
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = _inline
    return environment.get_template("report.html.jinja").render(
        css=_template("report.css"), pictures=pictures, **contents(run)
    )


def _template(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _inline(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
