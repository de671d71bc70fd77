"""A user's own network by name: ``file.py:factory`` or ``module:factory``.

A name like that runs code, so it is only followed where a person gave it: on the command line, or
to :func:`~dirprune.model.networks.build_network`. What stands in a file is never imported.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..errors import DirpruneError

PREFIX = "torchvision:"
# Where code lies that is not the user's.
_LIBRARIES = (
    *(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
    Path(__file__).parents[2],
)


def is_own(name: str) -> bool:
    """Does a name stand for code of the user's own, rather than for a network by name?

    >>> is_own("nets.py:make"), is_own("mypackage.nets:Net"), is_own("torchvision:resnet18")
    (True, True, False)
    """
    return ":" in name and not name.startswith(PREFIX)


def build_own(name: str, arguments: Mapping[str, int]) -> nn.Module:
    """What the factory of that name returns, called with those arguments that it names.

    A factory is a function or a class of ``nn.Module``; a module itself is copied.

    Args:
        name: ``file.py:factory``, or ``module:factory`` as ``python -m`` finds modules, the current
            folder first.
        arguments: what it may ask for: num_classes, in_channels, size.

    Raises:
        DirpruneError: there is no such file, module or factory, the code fails, or what it returns
            is no network.
    """
    factory = _find(name)
    if isinstance(factory, nn.Module):
        return copy.deepcopy(factory)
    if not callable(factory):
        raise DirpruneError(
            f"{name} is of type {type(factory).__name__}: expected a function or a class that "
            "gives an nn.Module, or an nn.Module"
        )
    given = {key: arguments[key] for key in accepted(factory, name, tuple(arguments))}
    network = _run(lambda: factory(**given), name)
    if not isinstance(network, nn.Module):
        raise DirpruneError(f"{name} returned {type(network).__name__}: expected an nn.Module")
    return network


def own_defaults(name: str) -> dict[str, Any]:
    """The default values in the signature of the factory of that name."""
    factory = _find(name)
    return {} if isinstance(factory, nn.Module) else defaults_of(factory)


def defaults_of(factory: Any) -> dict[str, Any]:
    """The default values in a factory's signature."""
    return {
        key: parameter.default
        for key, parameter in _signature(factory).items()
        if parameter.default is not parameter.empty
    }


def accepted(factory: Callable[..., Any], name: str, offered: tuple[str, ...]) -> list[str]:
    """Which of the offered arguments a factory names; what it needs beyond them is refused."""
    named, unknown = [], []
    for key, parameter in _signature(factory).items():
        by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        variable = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if by_name and key in offered:
            named.append(key)
        elif not variable and parameter.default is parameter.empty:
            unknown.append(key)
    if unknown:
        raise DirpruneError(
            f"{name} needs {', '.join(map(repr, unknown))}, and it is called with "
            f"{', '.join(offered)} alone, by name: write a factory that fills in the rest"
        )
    return named


def _signature(factory: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def _find(name: str) -> object:
    """What the name stands for, once its file or module has been imported."""
    where, _, attribute = name.rpartition(":")
    if not where or not all(part.isidentifier() for part in attribute.split(".")):
        raise DirpruneError(
            f"network {name!r}: expected FILE.py:FACTORY or MODULE:FACTORY, as in nets.py:make"
        )
    found: Any = _load_file(where, name) if where.endswith(".py") else _load_module(where, name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise DirpruneError(f"{where} has no {attribute!r}{_near(part, _makers(found))}")
        found = getattr(found, part)
    return found


def _load_file(where: str, name: str) -> ModuleType:
    """A file as a module under a private name, its folder on the path as for a script."""
    path = Path(where).expanduser()
    if not path.is_file():
        files = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise DirpruneError(f"network {name!r}: there is no file {where}{_near(where, files)}")
    path = path.resolve()
    # In full in the name: two files of one name are two modules.
    private = f"_dirprune_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if private in sys.modules:
        return sys.modules[private]
    spec = importlib.util.spec_from_file_location(private, path)
    assert spec is not None  # the name ends in .py
    assert spec.loader is not None
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    _put_on_path(path.parent)
    sys.modules[private] = module  # dataclasses and pickles look their module up there
    try:
        _run(lambda: loader.exec_module(module), name)
    except BaseException:
        del sys.modules[private]
        raise
    return module


def _load_module(where: str, name: str) -> ModuleType:
    if not all(part.isidentifier() for part in where.split(".")):
        raise DirpruneError(
            f"network {name!r}: {where!r} is neither a file of Python (FILE.py) nor the name of a "
            "module"
        )
    _put_on_path(Path.cwd())
    importlib.invalidate_caches()
    try:
        return _run(lambda: importlib.import_module(where), name, missing=where)
    except ModuleNotFoundError as error:
        here = ["torchvision", *(path.stem for path in Path.cwd().glob("*.py"))]
        raise DirpruneError(
            f"network {name!r}: there is no module {error.name!r} in {Path.cwd()} or among what "
            f"is installed{_near(where, here)}"
        ) from error


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _run[T](work: Callable[[], T], name: str, missing: str = "") -> T:
    """Run the user's code; what it raises becomes one line that says where.

    A module that is not there, ``missing`` or one that it lies in, raises ModuleNotFoundError.
    """
    try:
        return work()
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{missing}.".startswith(f"{error.name}."):
            raise
        text = " ".join(str(error).split()) or "no message"
        raise DirpruneError(
            f"{name} fails{_place(error)}: {type(error).__name__}: {text}"
        ) from error


def _place(error: BaseException) -> str:
    """ " at nets.py:12": the last line of the user's that was running."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {_short(error.filename)}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<frozen")
        and not any(Path(frame.filename).is_relative_to(folder) for folder in _LIBRARIES)
    ]
    return "".join(f" at {_short(f.filename)}:{f.lineno}" for f in frames[-1:])


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _makers(holder: object) -> list[str]:
    """The names in a module, or in a class, that may be factories."""
    return [key for key in dir(holder) if key[0] != "_" and callable(getattr(holder, key))]


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
