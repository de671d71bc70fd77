"""The command line. Nothing here imports torch before a command has to run."""

from __future__ import annotations

import sys

import typer

from ..model.errors import DirpruneError
from .app import app

__all__ = ["app", "main"]

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 2 for bad input, 130 after Ctrl-C."""
    try:
        result = app(args=arguments, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        result = INTERRUPTED
    except typer.TyperException as error:
        message = getattr(error, "format_message", error.__str__)()
        return _complain(f"{message} (see --help)")
    except DirpruneError as error:
        return _complain(str(error))
    if result == INTERRUPTED:  # typer turns Ctrl-C into this status by itself
        print("dirprune: interrupted; the same command with --resume goes on", file=sys.stderr)
    return result if isinstance(result, int) else 0


def _complain(message: str) -> int:
    print(f"dirprune: {' '.join(message.split())}", file=sys.stderr)
    return 2
