"""Write a file or a folder so that it is either there in full or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DirpruneError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, file or folder, renamed to it when the block succeeds.

    Raises:
        DirpruneError: the folder cannot be written to, or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        temporary = folder / path.name
        yield temporary
        if temporary.is_dir() and path.exists():
            # A folder cannot be renamed onto one that is not empty: the old one steps aside first.
            old = folder / "old"
            os.replace(path, old)
            try:
                os.replace(temporary, path)
            except OSError:
                os.replace(old, path)
                raise
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise DirpruneError(
            f"cannot write {path}: {error.strerror or error}. What was there before is untouched."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary.parent, ignore_errors=True)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a whole file."""
    with atomic_path(path) as temporary:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            temporary.write_bytes(content)


def write_with(path: Path, writer: Callable[[Path], object]) -> None:
    """Let a library write to a temporary path, then rename."""
    with atomic_path(path) as temporary:
        writer(temporary)
