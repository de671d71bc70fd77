"""The one exception that means "the input is at fault", and the way its messages are built.

The command line prints the message of a :class:`DirpruneError` on one line and exits with code 2;
anything else that is raised is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DirpruneError(ValueError):
    """Bad input. The message names what came, what was expected and how to mend it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> DirpruneError:
    """An error for a name that is not in a list, with the near misses.

    >>> str(unknown_name("guide", "dirichlt", ["dirichlet", "normal"]))
    "unknown guide 'dirichlt'; did you mean 'dirichlet'? Known: dirichlet, normal"
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    return DirpruneError(f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}")
