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
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from .untraceable import cannot_be_copied, cannot_be_traced, fails_on


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
    frozen = frozen_copy(network)
    inputs, kwargs = two_examples(inputs), two_examples(dict(kwargs or {}))
    check_examples(frozen, inputs, kwargs)
    program = trace_program(frozen, inputs, kwargs)
    try:
        with quiet():
            graph = program.run_decompositions({}).module(check_guards=False)
    except Exception as error:
        raise cannot_be_traced(network, error, lambda: program.run_decompositions({})) from error
    assert isinstance(graph, fx.GraphModule)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy in eval mode whose parameters need no gradient.

    Raises:
        DirpruneError: the network cannot be copied.
    """
    try:
        return copy.deepcopy(network).eval().requires_grad_(False)
    except Exception as error:
        raise cannot_be_copied(network, error) from error


def check_examples(network: nn.Module, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse example inputs on which the network fails.

    Raises:
        DirpruneError: it does.
    """
    try:
        with torch.no_grad():
            network(*inputs, **kwargs)
    except Exception as error:
        shapes = ", ".join(_describe(x) for x in pytree.tree_leaves((inputs, kwargs)))
        raise fails_on(network, shapes, error) from error


def trace_program(
    network: nn.Module,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    batch: Any = torch.export.Dim.DYNAMIC,
) -> torch.export.ExportedProgram:
    """``torch.export``'s program of a network as it stands, with a free batch size.

    Args:
        network: on the device of the inputs.
        inputs: positional example inputs, two or more examples, the batch on axis 0.
        kwargs: keyword example inputs.
        batch: the dimension of ``torch.export`` that axis 0 is.

    Raises:
        DirpruneError: the network cannot be traced, or fixes the batch size.
    """
    bound = inspect.signature(network.forward).bind(*inputs, **kwargs).arguments
    free = pytree.tree_map(
        lambda x: {0: batch} if isinstance(x, Tensor) and x.dim() else None, dict(bound)
    )

    def export() -> torch.export.ExportedProgram:
        with quiet():
            return torch.export.export(network, inputs, dict(kwargs), dynamic_shapes=free)

    try:
        return export()
    except Exception as error:
        raise cannot_be_traced(network, error, export) from error


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """A node's concrete shape at two examples."""
    value = node.meta["val"]
    return tuple(as_size(s) for s in value.shape)


def has_examples(node: fx.Node) -> bool:
    """Does the value depend on the batch? What is made of parameters alone does not."""
    results = [x for x in pytree.tree_leaves(node.meta["val"]) if isinstance(x, Tensor)]
    return any(isinstance(size, torch.SymInt) for result in results for size in result.shape)


def as_size(size: Any) -> int:
    """A size at two examples; ``int(size)`` would fix the batch at that for good."""
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


@contextmanager
def quiet() -> Iterator[None]:
    """Hide torch.export's log lines and warnings: what matters is in the error that we raise."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch.fx", "torch._dynamo")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        # Where it fails on a value, it prints its graph.
        with redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
