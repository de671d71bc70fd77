"""What a module notes of its own sizes, brought up to date after units were removed.

A cut replaces parameters by smaller ones. Most modules take their sizes from them; some hold a
number beside (``num_heads``) or in the code of their ``forward``. For these a *resizer* is called
on the module once its new parameters are in place: it corrects the numbers, or gives the module a
class whose ``forward`` takes its sizes from the parameters.

For a module of your own::

    @register_resizer(MyAttention)
    def _resize(module):
        module.heads = module.qkv.out_features // (3 * module.head_dim)

Whatever a resizer does, a site is offered only after the pruned network was seen to equal the
masked one (:func:`~dirprune.model.surgery.find_failures`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .errors import DirpruneError

Resizer = Callable[[Any], None]

RESIZERS: dict[str, Resizer] = {}


def register_resizer(kind: type[nn.Module] | str) -> Callable[[Resizer], Resizer]:
    """Make a function the resizer of a class of modules and of those derived from it.

    Args:
        kind: the class, or its full name ("package.module.Class") where importing it is not worth
            its time.

    Returns:
        A decorator for the resizer, a function of the module, which it changes in place.

    Raises:
        DirpruneError: ``kind`` is neither, or the resizer is no function.
    """
    if not isinstance(kind, str) and not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise DirpruneError(f"register_resizer: expected a class of modules, got {kind!r}")
    name = kind if isinstance(kind, str) else full_name(kind)

    def decorate(resizer: Resizer) -> Resizer:
        if not callable(resizer):
            raise DirpruneError(f"a resizer is a function of the module, got {resizer!r}")
        RESIZERS[name] = resizer
        return resizer

    return decorate


def resize(module: nn.Module) -> None:
    """Call the resizer of the module's class, or of the nearest class that it is derived from."""
    for kind in type(module).__mro__:
        resizer = RESIZERS.get(full_name(kind))
        if resizer is not None:
            try:
                resizer(module)
            except Exception as error:
                name = type(error).__name__
                raise DirpruneError(
                    f"the resizer of {kind.__name__} fails: {name}: {error}"
                ) from error
            return


def full_name(kind: type) -> str:
    """The name by which a class can be imported."""
    return f"{kind.__module__}.{kind.__qualname__}"
