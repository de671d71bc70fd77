"""What a batch must look like to fit a switched network, said before torch stumbles over it."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork


def check_batch(model: SwitchedNetwork, inputs: Any, targets: Any) -> list[str]:
    """Refuse inputs and targets of the wrong shape or kind, and labels out of range.

    It takes one forward pass.

    Returns:
        What holds NaN or infinity: parts of the batch or, where they do not, the outputs.

    Raises:
        DirpruneError: what came, and what was expected.
    """
    found, expected = _named(model, inputs), _named(model, model.example)
    if set(found) != set(expected):
        raise DirpruneError(
            f"a batch has the inputs {list(found)}, the network takes {list(expected)}"
        )
    for key, example in expected.items():
        if isinstance(example, Tensor):
            _check_like(key, found[key], example)
    if not isinstance(targets, Tensor):
        raise DirpruneError(f"targets: expected a tensor, got {type(targets).__name__}")
    if places := not_finite(inputs, targets):
        return places
    with torch.no_grad(), pyro.validation_enabled(False):
        outputs = model.outputs_at_gains(inputs, model.unit_gains())
        if len(outputs) > model.num_data:
            raise DirpruneError(
                f"a batch of {len(outputs)} examples, but num_data is {model.num_data}: num_data "
                "is the size of the whole training set"
            )
        if not bool(outputs.isfinite().all()):
            return ["the network's outputs, all gains one (are its weights finite?)"]
        _check_targets(model.likelihood(outputs), outputs, targets)
    return []


def _named(model: SwitchedNetwork, inputs: Any) -> dict[Any, Any]:
    """A batch's inputs by position or by name."""
    args, kwargs = model.arguments(inputs)
    named: dict[Any, Any] = dict(enumerate(args))
    return named | kwargs


def not_finite(inputs: Any, targets: Any) -> list[str]:
    """Which parts of a batch hold NaN or infinity."""
    return [
        place
        for place, part in (("the input images", inputs), ("the targets", targets))
        if any(
            x.is_floating_point() and not bool(x.isfinite().all())
            for x in tree_leaves(part)
            if isinstance(x, Tensor)
        )
    ]


def _check_like(key: Any, value: Any, example: Tensor) -> None:
    name = "inputs" if key == 0 else f"input {key!r}"
    shape = ", ".join(["B", *map(str, example.shape[1:])])
    if not isinstance(value, Tensor):
        raise DirpruneError(f"{name}: expected a tensor [{shape}], got a {type(value).__name__}")
    if value.shape[1:] != example.shape[1:] or value.dim() != example.dim():
        raise DirpruneError(
            f"{name}: expected shape [{shape}], as the example inputs of the SwitchedNetwork have, "
            f"got {list(value.shape)}"
        )
    if value.is_floating_point() != example.is_floating_point():
        raise DirpruneError(f"{name}: expected {example.dtype}, got {value.dtype}")


def _check_targets(likelihood: dist.TorchDistribution, outputs: Tensor, targets: Tensor) -> None:
    batch = outputs.shape[:1]
    if likelihood.batch_shape != batch:
        raise DirpruneError(
            f"likelihood: expected a distribution with one log probability for each of {batch[0]} "
            f"examples, got batch shape {list(likelihood.batch_shape)}; .to_event() says which "
            "dimensions belong to one example"
        )
    if targets.shape[:1] != batch:
        raise DirpruneError(
            f"targets: expected one for each of {batch[0]} outputs, got shape {list(targets.shape)}"
        )
    if targets.shape != likelihood.shape():
        raise DirpruneError(
            f"targets: expected shape {list(likelihood.shape())} for outputs of shape "
            f"{list(outputs.shape)}, got {list(targets.shape)}"
        )
    support = likelihood.support
    if support is None or bool(support.check(targets).all()):
        return
    low, high = targets.min().item(), targets.max().item()
    if isinstance(likelihood, dist.Categorical):
        raise DirpruneError(
            f"targets: expected labels from 0 to {outputs.shape[-1] - 1} for the network's "
            f"{outputs.shape[-1]} outputs, got {low} to {high}"
        )
    raise DirpruneError(
        f"targets: expected values in the support of the likelihood ({support}), got "
        f"{low} to {high}"
    )
