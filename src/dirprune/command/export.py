"""``dirprune export``: a saved network as ONNX, a program of torch.export, or a state dict."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..model.errors import DirpruneError
from ..model.export import check_target, export
from ..model.networks import build_network, usual_arguments
from ..model.storage import DESCRIPTION, load, read_description
from .checks import SETTINGS

PRUNED = "pruned"  # of dirprune run
EXAMPLES = "example_inputs"  # of a network of the user's own


def export_saved(
    source: Path, format: str, out: Path, *, network: str | None, overwrite: bool
) -> str:
    """Export the network in a folder, and say how near to it the file is.

    Args:
        source: a folder of ``dirprune run``, whose pruned network it is, or of ``dirprune.save``.
        format: of :data:`~dirprune.model.export.FORMATS`.
        out: the file, or the folder of a state dict.
        network: the factory of a network of the user's own, FILE.py:FACTORY.
        overwrite: replace what is there.

    Raises:
        DirpruneError: there is no network, it does not load, or the file would not be it.
    """
    check_target(out, format)
    if out.exists() and not overwrite:
        raise DirpruneError(f"{out} is there already: --overwrite replaces it")
    folder = find_network(source)
    description = read_description(folder)
    loaded, arguments = _load(folder, description, network)
    args, kwargs = _examples(loaded, arguments)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = export(
            loaded, args, out, format=format, example_kwargs=kwargs, notes=description["notes"]
        )
    for warning in said:
        print(f"dirprune: warning: {warning.message}", file=sys.stderr)
    size = sum(path.stat().st_size for path in [out, *out.glob("*")] if path.is_file())
    return (
        f"{out}: {size / 1000:,.1f} kB. Read back, its outputs differ from the network's by "
        f"{found.difference:.2g} at most; rounding may make that {found.tolerance:.2g}"
    )


def find_network(source: Path) -> Path:
    """The folder of ``dirprune.save`` that is meant: this one, or the pruned network of a run.

    Raises:
        DirpruneError: there is none.
    """
    for folder in (source, source / PRUNED):
        if (folder / DESCRIPTION).is_file():
            return folder
    if not source.is_dir():
        raise DirpruneError(f"there is no folder {source}")
    if (source / SETTINGS).exists():
        raise DirpruneError(
            f"{source} holds no pruned network yet: 'dirprune run --resume' finishes the run"
        )
    raise DirpruneError(
        f"{source} holds no network: expected a folder of dirprune run or of dirprune.save"
    )


def _load(
    folder: Path, description: Mapping[str, Any], name: str | None
) -> tuple[nn.Module, dict[str, int]]:
    """The network in a folder, and the num_classes, in_channels and size that it was built with."""
    arguments = description["architecture"]
    if name is None and not isinstance(arguments, dict):
        raise DirpruneError(
            f"{folder} holds a {description['class']}, which is code of your own: say where its "
            "unpruned original is made, --network FILE.py:FACTORY"
        )
    if name is None:
        return load(folder), arguments
    notes = description["notes"]
    noted = {"num_classes": "classes", "in_channels": "mean"}
    arguments = usual_arguments(name) | {
        argument: len(notes[key]) for argument, key in noted.items() if key in notes
    }
    arguments["size"] = notes.get("size", arguments["size"])
    return load(folder, network=build_network(name, **arguments)), arguments


def _examples(
    network: nn.Module, arguments: Mapping[str, int]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Images of the network's size, or the inputs that a network of the user's own carries."""
    if hasattr(network, EXAMPLES):
        from .describe import examples_of

        return examples_of(network, type(network).__name__)
    dtypes = [p.dtype for p in network.parameters() if p.is_floating_point()]
    shape = (2, arguments["in_channels"], arguments["size"], arguments["size"])
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return (images.to(dtypes[0]) if dtypes else images,), {}
