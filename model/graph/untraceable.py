"""What to say where a network cannot be copied, run or traced: why, where, and a way round."""

from __future__ import annotations

import logging
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.nn.parameter import is_lazy

from ..errors import DirpruneError

_TRACE = str(Path(__file__).with_name("trace.py"))  # calls the network
_NOT_THEIRS = (
    str(Path(torch.__file__).parent),
    __file__,
    "<string>",
    "<eval_with_key>",
)
_OWN_OPERATION = (
    "an operation of your own (torch.library.custom_op) with a rule (dirprune.register_rule)"
)


def cannot_be_copied(network: nn.Module, error: Exception) -> DirpruneError:
    """``copy.deepcopy`` fails, above all where a weight is the result of a computation."""
    if any(is_lazy(tensor) for tensor in [*network.parameters(), *network.buffers()]):
        return DirpruneError(
            f"{type(network).__name__} has lazy modules without sizes: run it once on example "
            "inputs, network(inputs), before anything else"
        )
    computed = [
        f"{name}.{key}".lstrip(".")
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    if computed:
        return DirpruneError(
            f"{type(network).__name__} cannot be copied: {', '.join(computed)} is computed from "
            "parameters and kept on its module, as the old torch.nn.utils.weight_norm and "
            "spectral_norm do. Undo it (torch.nn.utils.remove_weight_norm(layer)), or use "
            "torch.nn.utils.parametrizations"
        )
    return DirpruneError(
        f"{type(network).__name__} cannot be copied by copy.deepcopy: {first_line(error)}. "
        "Give a plain module of Python code, with nothing in it that cannot be copied"
    )


def fails_on(network: nn.Module, inputs: str, error: Exception) -> DirpruneError:
    """The network raises an error on its example inputs, described by ``inputs``."""
    return DirpruneError(
        f"{type(network).__name__} fails on the example inputs ({inputs}): {first_line(error)}"
        f"{_place(traceback.extract_tb(error.__traceback__))}. "
        "Give inputs as the network takes them, batch first."
    )


def cannot_be_traced(
    network: nn.Module, error: Exception, again: Callable[[], object]
) -> DirpruneError:
    """``torch.export`` fails; ``again`` repeats it, to learn where the batch size was fixed."""
    place = _place(traceback.extract_tb(error.__traceback__))
    if isinstance(error, GuardOnDataDependentSymNode):
        what = "its forward branches on the values of a tensor, or makes a number of them"
        way = f"Write a choice with torch.where, or put it into {_OWN_OPERATION}."
    elif "Constraints violated" in str(error):
        what, place = "its forward works for one batch size only", _where_fixed(again)
        way = (
            "Take the batch size from the input (x.shape[0] rather than len(x), or -1 in a view), "
            "and do not go through the examples one by one."
        )
    else:
        what = first_line(error)
        way = f"Put what cannot be traced into {_OWN_OPERATION}."
    return DirpruneError(
        f"{type(network).__name__} cannot be traced by torch.export: {what}{place}. {way}"
    )


def first_line(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]


def _place(frames: traceback.StackSummary) -> str:
    """ ", at file.py:12 in forward (the code)": the innermost frame that is the network's own.

    That is the last one below the tracing which is not torch's; "" where there is none.
    """
    ours = [i for i, frame in enumerate(frames) if frame.filename == _TRACE]
    theirs = [
        frame
        for frame in frames[max(ours, default=-1) + 1 :]
        if not frame.filename.startswith(_NOT_THEIRS) and not _in_stdlib(frame.filename)
    ]
    if not theirs:
        return ""
    frame = theirs[-1]
    code = f" ({frame.line})" if frame.line else ""
    return f", at {frame.filename}:{frame.lineno} in {frame.name}{code}"


def _in_stdlib(filename: str) -> bool:
    """Python's own modules stand beside site-packages in one folder."""
    return filename.startswith(sysconfig.get_path("stdlib")) and "site-packages" not in filename


def _where_fixed(again: Callable[[], object]) -> str:
    """The place where torch found that a batch can have one size only, from its own log."""
    places: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "set_replacement" in record.getMessage():
                places.append(_place(traceback.extract_stack()))

    with _listening(Listener()):
        try:
            again()
        except Exception:
            return next((place for place in places if place), "")
    return ""


@contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    try:
        logger.propagate = False
        logger.setLevel(logging.INFO)
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        logger.setLevel(level)
