"""Networks as files for elsewhere, each read back and compared before it counts as written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import DirpruneError, unknown_name
from ..graph.trace import as_tuple, frozen_copy
from ..graph.untraceable import first_line
from ..storage import is_saved
from ..writing import atomic_path
from . import onnx_file, program, state
from .reference import Reference, Run, make_reference


@dataclass(frozen=True)
class Format:
    """How a network becomes a file, and the file something that can be run.

    Attributes:
        write: (network, reference, path, notes) -> None.
        read: (path, network) -> the network's arguments -> its outputs.
        suffix: of the file; none for a folder.
    """

    write: Callable[[nn.Module, Reference, Path, Mapping[str, Any]], None]
    read: Callable[[Path, nn.Module], Run]
    suffix: str = ""


FORMATS: Mapping[str, Format] = {
    "onnx": Format(onnx_file.write, onnx_file.read, ".onnx"),
    "torch-export": Format(program.write, program.read, ".pt2"),
    "state-dict": Format(state.write, state.read),
}


@dataclass(frozen=True)
class Exported:
    """A file that gave the network's outputs when it was read back.

    Attributes:
        path: of the file, or of the folder.
        difference: the largest, to the outputs of the network.
        tolerance: what rounding alone may make it.
    """

    path: Path
    difference: float
    tolerance: float


def check_target(path: Path, format: str) -> None:
    """Refuse an unknown format, a name that does not fit it, and what must not be replaced.

    Raises:
        DirpruneError: any of these, or a package that the format needs is missing.
    """
    if format not in FORMATS:
        raise unknown_name("format", format, FORMATS)
    suffix = FORMATS[format].suffix
    foreign = {".onnx", ".pt2", ".pt", ".pth", ".safetensors", ".json"}
    if suffix and path.suffix != suffix:
        raise DirpruneError(f"{path}: a file of {format} is named *{suffix}")
    if not suffix and path.suffix in foreign:
        raise DirpruneError(f"{path}: {format} writes a folder, which is not named *{path.suffix}")
    if suffix and path.is_dir():
        raise DirpruneError(f"{path} is a folder: {format} writes a file")
    if not suffix and path.exists() and not is_saved(path):
        raise DirpruneError(f"{path} is there and holds no saved network: it would be replaced")
    if format == "onnx":
        onnx_file.check_packages()


def export(
    network: nn.Module,
    example_inputs: Tensor | tuple[Any, ...],
    path: str | Path,
    *,
    format: str,
    example_kwargs: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a network for use elsewhere, once what was written gives the network's outputs.

    The file is written under a temporary name and read back (ONNX by onnxruntime on the CPU), and
    runs on random inputs of two batch sizes beside the network. Where they differ by more than
    rounding, nothing is left. It is the network in eval mode, and takes batches of any size.

    ==============  ===================================  ========================================
    format          what is written                      to run it
    ==============  ===================================  ========================================
    "onnx"          a file ``*.onnx``                    ``onnxruntime.InferenceSession(path)``
    "torch-export"  a file ``*.pt2``, without a pickle   ``torch.export.load(path).module()``
    "state-dict"    a folder, as of ``dirprune.save``    ``dirprune.load(path)``
    ==============  ===================================  ========================================

    Args:
        network: any module, pruned or not; it is not changed, and stays in its mode.
        example_inputs: a tensor, or a tuple of positional inputs; the batch is axis 0 of every
            tensor. Numbers for the comparison are drawn from theirs; they are not in the file.
        path: where to; what is there is replaced.
        format: "onnx", "torch-export" or "state-dict".
        example_kwargs: keyword inputs. What is no tensor is fixed in the file.
        notes: anything JSON can hold, such as the normalisation and the names of the classes. ONNX
            keeps it as ``metadata_props["dirprune"]``, torch.export as the extra file
            "dirprune.json", a state dict in ``network.json``.

    Returns:
        The path, the largest difference, and the tolerance.

    Raises:
        DirpruneError: an unknown format or a name that does not fit it, a package that is missing,
            a network that cannot be traced or converted, or a file that computes something else.

    >>> import tempfile
    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "network.pt2"
    ...     found = export(network, torch.randn(2, 4), path, format="torch-export")
    >>> found.difference <= found.tolerance < 1e-5
    True
    """
    path = Path(path)
    check_target(path, format)
    form = FORMATS[format]
    frozen = frozen_copy(network)
    args, kwargs = as_tuple(example_inputs), dict(example_kwargs or {})
    if format == "onnx":
        frozen = frozen.cpu()
        args, kwargs = pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, (args, kwargs))
    reference = make_reference(frozen, args, kwargs)
    if not reference.varies:
        warnings.warn(
            f"{type(network).__name__} gives the same outputs for all inputs, up to rounding (is "
            "its last layer trained?), so that comparing the file with it says little",
            stacklevel=2,
        )
    with atomic_path(path) as temporary:
        form.write(frozen, reference, temporary, dict(notes or {}))
        try:
            difference, tolerance = reference.compare(form.read(temporary, frozen))
        except Exception as error:  # a damaged file makes its reader fail in any way
            reason = error if isinstance(error, DirpruneError) else first_line(error)
            raise DirpruneError(
                f"{path} is not written, since read back it is not the network: {reason}"
            ) from error
    return Exported(path, difference, tolerance)
