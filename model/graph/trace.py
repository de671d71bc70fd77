"""From a network to a flat graph of functional operations, by ``torch.export``.

``torch.export`` rather than ``torch.fx``: it sees through attention modules and shape branches,
and gives explicit sizes. The graph serves twice: the channel labels are propagated along it, and
:mod:`dirprune.model.body` runs it during inference with the gains put in. The network that a user
gets back is never this graph: it is a changed copy of their own module.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ..errors import DirpruneError


def as_tuple(inputs: Any) -> tuple[Any, ...]:
    """A network's positional arguments: a tensor stands for a tuple of one."""
    return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)


def two_examples(tree: Any) -> Any:
    """The first two examples of every tensor in ``tree`` (repeated where there is only one).

    ``torch.export`` bakes a batch of one into the graph as a constant, a batch of two it does not.
    """

    def take(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] > 0:
            return torch.cat([value, value])[:2] if value.shape[0] == 1 else value[:2]
        return value

    return pytree.tree_map(take, tree)


def trace(
    network: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> fx.GraphModule:
    """A frozen copy of ``network`` in eval mode, as one functional graph with a free batch size.

    Args:
        network: any module; it is not changed.
        inputs: positional example inputs; the batch is axis 0 of every tensor.
        kwargs: keyword example inputs.

    Raises:
        DirpruneError: the network cannot be run on the inputs, or cannot be traced.
    """
    frozen = copy.deepcopy(network).eval().requires_grad_(False)
    inputs, kwargs = two_examples(inputs), two_examples(dict(kwargs or {}))
    try:
        with torch.no_grad():
            frozen(*inputs, **kwargs)
    except Exception as error:
        shapes = ", ".join(_describe(x) for x in pytree.tree_leaves((inputs, kwargs)))
        raise DirpruneError(
            f"{type(network).__name__} fails on the example inputs ({shapes}): {_first(error)}. "
            "Give inputs as the network takes them, batch first."
        ) from error
    bound = inspect.signature(frozen.forward).bind(*inputs, **kwargs).arguments
    free = pytree.tree_map(
        lambda x: {0: torch.export.Dim.DYNAMIC} if isinstance(x, Tensor) and x.dim() else None,
        dict(bound),
    )
    try:
        with _quiet():
            program = torch.export.export(frozen, inputs, kwargs, dynamic_shapes=free)
            graph = program.run_decompositions({}).module(check_guards=False)
    except Exception as error:
        raise DirpruneError(
            f"{type(network).__name__} cannot be traced by torch.export: {_first(error)}. "
            "Its forward must not branch on values or fix the batch size; see the last lines of "
            "torch.export.export(network, inputs) for the place."
        ) from error
    assert isinstance(graph, fx.GraphModule)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """A node's concrete shape at two examples."""
    value = node.meta["val"]
    return tuple(_size(s) for s in value.shape)


def batch_first(node: fx.Node) -> bool:
    """Is the first axis that of the examples, alone?"""
    size = node.meta["val"].shape[0]
    return isinstance(size, torch.SymInt) and bool(size.node.expr.is_symbol)


def _size(size: Any) -> int:
    return int(size.node.hint if isinstance(size, torch.SymInt) else size)  # type: ignore[arg-type]


def is_tensor(node: Any) -> bool:
    """Does this argument of a node stand for one tensor?"""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor)


def module_of(node: fx.Node) -> str:
    """The dotted name of the module whose forward made this node ("" for the network itself)."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return type(value).__name__


def _first(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide torch.export's own log lines: what matters of them is in the error that we raise."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.fx", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        # Where it fails on a value, it prints its graph.
        with redirect_stderr(StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
