"""A network as a file of ONNX, for onnxruntime and whatever else reads ONNX."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ..errors import DirpruneError
from ..graph.trace import quiet
from ..graph.untraceable import first_line
from .program import make_program
from .reference import Reference, Run

NEEDED = ("onnx", "onnxscript", "onnxruntime")
NOTES = "dirprune"
LARGEST = 2**31 - 1  # bytes of a protocol buffer, which an ONNX file is


def check_packages() -> None:
    """Refuse where the extra is not installed.

    Raises:
        DirpruneError: a package is missing.
    """
    for name in NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            raise DirpruneError(
                f"ONNX needs {', '.join(NEEDED)}, and {name} cannot be imported ({error}): "
                "pip install 'dirprune[onnx]'"
            ) from error


def write(network: nn.Module, reference: Reference, path: Path, notes: Mapping[str, Any]) -> None:
    """Convert the program of ``torch.export``, and check the file against the standard.

    Inputs have the names of the arguments of ``forward``, outputs the keys of a dict (a single
    tensor is "output"; "x" is "x_out" beside an input "x"); axis 0 of each input is "batch". The
    notes are in the metadata, as JSON under "dirprune".

    Raises:
        DirpruneError: the network cannot be traced or converted, or ONNX cannot hold it.
    """
    import onnx

    _check_contents(network, reference)
    program = make_program(network, reference)
    if any(isinstance(value, int | float) for value in program.graph_signature.user_outputs):
        raise DirpruneError(
            f"{type(network).__name__} returns a number that is no tensor, and ONNX holds tensors "
            "alone: return tensors"
        )
    try:
        with quiet(), warnings.catch_warnings():
            # Deprecations inside the exporter, and that several inputs share the axis "batch".
            warnings.simplefilter("ignore")
            converted = torch.onnx.export(
                program, dynamo=True, verbose=False,
                dynamic_shapes=[{0: "batch"} if x.dim() else None for x in _tensors(reference)],
                output_names=_output_names(program, reference),
            )  # fmt: skip
            assert converted is not None
            converted.model.metadata_props[NOTES] = json.dumps(notes)
            converted.save(path, external_data=False)
        onnx.checker.check_model(path, full_check=True)
    except (torch.onnx.OnnxExporterError, onnx.checker.ValidationError) as error:
        raise DirpruneError(
            f"torch.onnx cannot convert {type(network).__name__}: {_reason(error)}. torch-export "
            "and the state dict can be exported"
        ) from error


def _output_names(program: ExportedProgram, reference: Reference) -> list[str]:
    """Names that no input has: in ONNX all values share one space."""
    inputs = set(program.graph_signature.user_inputs)
    names = [output.name for output in reference.outputs]
    return [f"{name}_out" if name in inputs else name for name in names]


def _check_contents(network: nn.Module, reference: Reference) -> None:
    tensors = [*network.parameters(), *network.buffers()]
    size = sum(x.numel() * x.element_size() for x in tensors)
    if size > LARGEST:
        raise DirpruneError(
            f"{type(network).__name__} has {size / 1e9:.1f} GB of weights, and an ONNX file holds "
            "2 GB: export it as torch-export"
        )
    if any(x.dtype == torch.bfloat16 for x in (*tensors, *_tensors(reference))):
        raise DirpruneError(
            f"{type(network).__name__} is in bfloat16, in which onnxruntime computes nothing on "
            "the CPU, so that the file could not be compared: export network.float()"
        )


def _tensors(reference: Reference) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(reference.example) if isinstance(x, Tensor)]


def _reason(error: Exception) -> str:
    """The line of the exporter's long account that says why."""
    found = re.search(r"Exception summary\s+<class '[^']*'>: (.+)", str(error))
    return found[1] if found else first_line(error)


def read(path: Path, network: nn.Module) -> Run:
    """What onnxruntime computes from the file, on the CPU.

    Raises:
        DirpruneError: onnxruntime does not take the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it raises what matters
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no base of their own
        raise DirpruneError(
            f"onnxruntime cannot run it on the CPU: {first_line(error)}. Where a network is not "
            "in float32, export network.float()"
        ) from error
    names = [value.name for value in session.get_inputs()]

    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        values = {name: x.numpy() for name, x in zip(names, tensors, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, values)]

    return run
