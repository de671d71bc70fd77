"""What a network computes on random inputs, and how far from it rounding may lead."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import DirpruneError
from ..graph.trace import check_examples, two_examples
from ..graph.untraceable import first_line

BATCHES = (1, 5)  # neither is the batch of two that is traced
# Both sides sum in their own order, so that their errors are alike in size and independent: on
# eight kinds of networks a file of ONNX was off by up to 3.6 times the network's own error.
FACTOR = 16

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Run = Callable[[tuple[Any, ...], dict[str, Any]], Sequence[Tensor]]


@dataclass(frozen=True)
class Output:
    """One tensor of the network's outputs.

    Attributes:
        name: its key or position in what the network returns; "output" where that is one tensor.
        values: for each batch.
        tolerance: how far from it rounding may lead.
        reason: why that far.
    """

    name: str
    values: tuple[Tensor, ...]
    tolerance: float
    reason: str


@dataclass(frozen=True)
class Reference:
    """A network's outputs on batches of random inputs.

    Attributes:
        example: the arguments to trace with, two examples.
        batches: arguments, for each size of ``BATCHES``.
        outputs: the tensors that the network returns, in order.
    """

    example: Arguments
    batches: tuple[Arguments, ...]
    outputs: tuple[Output, ...]

    @property
    def varies(self) -> bool:
        """Do the outputs of different examples differ by more than rounding?"""
        return any(
            _distance(value, value[:1].expand_as(value)) > output.tolerance
            for output in self.outputs
            for value in output.values
            if value.dim()
        )

    def compare(self, run: Run) -> tuple[float, float]:
        """The largest difference of what ``run`` gives, and the tolerance at that output.

        Args:
            run: what was read back: the network's arguments -> its outputs in order.

        Raises:
            DirpruneError: it cannot be run on a batch, or a difference exceeds its tolerance.
        """
        found = []
        for i, (args, kwargs) in enumerate(self.batches):
            try:
                got = run(args, kwargs)
            except Exception as error:
                raise DirpruneError(
                    f"it fails on a batch of {BATCHES[i]}: {first_line(error)}"
                ) from error
            if len(got) != len(self.outputs):
                raise DirpruneError(
                    f"it gives {len(got)} outputs and the network {len(self.outputs)}"
                )
            for output, value in zip(self.outputs, got, strict=True):
                found.append(_check(output, i, value))
        # The one that comes nearest to its tolerance.
        return max(found, key=lambda pair: pair[0] / (pair[1] or 1.0))


def make_reference(
    network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Reference:
    """Run a network in eval mode on random inputs, and measure how it rounds.

    Floating-point and integer inputs are drawn from the numbers in the example inputs, so that they
    are as large, and as valid, as these; booleans (masks) are whole examples. The tolerance is 16
    times the largest difference to the same network in float64, at least half a unit in the last
    place of the largest output: a sound file differs by rounding alone, which this measures for
    the network at hand, however deep it is. A network in float64 is measured in float32, and the
    error scaled down.

    Args:
        network: in eval mode, on the device of the arguments.
        args: positional example inputs, batch first.
        kwargs: keyword example inputs.

    Raises:
        DirpruneError: the network fails on its inputs, or gives no tensor, or NaN.
    """
    generator = torch.Generator().manual_seed(0)
    given: Arguments = args, dict(kwargs)
    example: Arguments = two_examples(given)
    batches: tuple[Arguments, ...] = tuple(
        pytree.tree_map(lambda x, size=size: _draw(x, size, generator), given) for size in BATCHES
    )
    check_examples(network, *example)
    names, _ = _run(network, example)
    results = []
    for size, batch in zip(BATCHES, batches, strict=True):
        try:
            results.append(_run(network, batch)[1])
        except Exception as error:
            raise DirpruneError(
                f"{type(network).__name__} takes the example inputs and fails on a batch of {size} "
                f"with numbers drawn from them: {first_line(error)}. What is exported has to take "
                "batches of any size"
            ) from error
    if not names:
        raise DirpruneError(
            f"{type(network).__name__} returns no tensor: there is nothing to compare"
        )
    if any(bool(value.isnan().any()) for result in results for value in result):
        raise DirpruneError(
            f"{type(network).__name__} gives NaN on inputs drawn from the numbers in the example "
            "inputs, which cannot be compared: give the inputs of real examples"
        )
    rounding = _rounding(network, batches, results)
    outputs = []
    for i, name in enumerate(names):
        values = tuple(result[i] for result in results)
        own = None if rounding is None else rounding[i]
        outputs.append(Output(name, values, *_tolerance(values, own)))
    return Reference(example, batches, tuple(outputs))


def _draw(example: Any, size: int, generator: torch.Generator) -> Any:
    """``size`` random examples like those in ``example``; what is no batch stays as it is."""
    if not (isinstance(example, Tensor) and example.dim()):
        return example
    rows, shape = example.shape[0], (size, *example.shape[1:])
    if example.dtype == torch.bool:
        drawn = torch.randint(rows, (size,), generator=generator)
        return example[drawn.to(example.device)]
    numbers = example.flatten()
    if example.is_floating_point() and bool((numbers == numbers[:1]).all()):
        # One number throughout (zeros, say) would hide a difference.
        return torch.rand(shape, generator=generator).to(example)
    drawn = torch.randint(len(numbers), shape, generator=generator)
    return numbers[drawn.to(example.device)]


@torch.no_grad()
def _run(network: nn.Module, arguments: Arguments) -> tuple[list[str], list[Tensor]]:
    """The names and values of the tensors that a network returns."""
    args, kwargs = arguments
    leaves, _ = pytree.tree_flatten_with_path(network(*args, **kwargs))
    tensors = [(path, value) for path, value in leaves if isinstance(value, Tensor)]
    names = [_name(path) for path, _ in tensors]
    return names, [value for _, value in tensors]


def _name(path: Sequence[Any]) -> str:
    """``("logits",)`` is "logits", ``(0, "boxes")`` is "output_0_boxes", ``()`` is "output"."""
    parts = [
        str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
    ]
    named = bool(parts) and not parts[0].isdigit()
    return "_".join(parts if named else ["output", *parts])


def _rounding(
    network: nn.Module, batches: Sequence[Arguments], results: Sequence[Sequence[Tensor]]
) -> list[float] | None:
    """The largest error of each output against float64, or None where float64 does not run."""

    def cast(tree: Any, dtype: torch.dtype) -> Any:
        return pytree.tree_map(
            lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, tree
        )

    tensors = [*network.parameters(), *network.buffers(), *pytree.tree_leaves(batches)]
    dtypes = {x.dtype for x in tensors if isinstance(x, Tensor) and x.is_floating_point()}
    try:
        if dtypes == {torch.float64}:
            scale = torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
            other = copy.deepcopy(network).float()
            others = [_run(other, cast(batch, torch.float32))[1] for batch in batches]
        else:
            scale = 1.0
            other = copy.deepcopy(network).double()
            others = [_run(other, cast(batch, torch.float64))[1] for batch in batches]
    except (RuntimeError, TypeError):  # a forward that makes tensors of one precision may refuse
        return None

    def error(ours: Tensor, theirs: Tensor) -> float:
        finite = ours.isfinite() & theirs.isfinite()  # float16 may overflow where float64 does not
        return scale * _distance(ours[finite], theirs[finite])

    return [
        max(error(a[i], b[i]) for a, b in zip(results, others, strict=True))
        for i in range(len(results[0]))
    ]


def _tolerance(values: Sequence[Tensor], rounding: float | None) -> tuple[float, str]:
    dtype = values[0].dtype
    if not dtype.is_floating_point:
        return 0.0, "whole numbers do not round"
    finite = [value[value.isfinite()].abs() for value in values]
    largest = max((float(value.max()) for value in finite if value.numel()), default=0.0)
    eps = torch.finfo(dtype).eps
    if rounding is None:
        return eps**0.5 * largest, "half the digits, since the network does not run in float64"
    reason = f"{FACTOR} times the rounding error of the network itself, measured against float64"
    return FACTOR * max(rounding, eps / 2 * largest), reason


def _check(output: Output, batch: int, value: Tensor) -> tuple[float, float]:
    want, size = output.values[batch], BATCHES[batch]
    if value.shape != want.shape or value.dtype != want.dtype:
        hint = ". A squeeze() that names no axis drops the batch too" if size == 1 else ""
        raise DirpruneError(
            f"{output.name} of a batch of {size} is {value.dtype} {list(value.shape)}, and the "
            f"network's is {want.dtype} {list(want.shape)}{hint}"
        )
    difference = _distance(value.to(want.device), want)
    if not difference <= output.tolerance:
        raise DirpruneError(
            f"{output.name} of a batch of {size} differs by up to {difference:.2g}, and no more "
            f"than {output.tolerance:.2g} is allowed ({output.reason})"
        )
    return difference, output.tolerance


def _distance(a: Tensor, b: Tensor) -> float:
    """The largest difference; infinities of one sign are equal."""
    if not a.numel():
        return 0.0
    a, b = a.double(), b.double()
    gap = torch.where(a == b, 0.0, (a - b).abs())
    return float(gap.nan_to_num(nan=torch.inf, posinf=torch.inf).max())
