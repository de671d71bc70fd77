"""A network as a program of ``torch.export``, which needs torch alone."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ..errors import DirpruneError
from ..graph.trace import quiet, trace_program
from .reference import Reference, Run

NOTES = "dirprune.json"


def make_program(network: nn.Module, reference: Reference) -> ExportedProgram:
    """``torch.export``'s program of a network in eval mode, for a batch of any size.

    It carries no example inputs, which may be somebody's images, and no stack traces, which name
    folders of the machine at hand.

    Raises:
        DirpruneError: the network cannot be traced, or fixes the batch size.
    """
    program = trace_program(network, *reference.example, torch.export.Dim("batch"))
    program.example_inputs = None
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
    return program


def write(network: nn.Module, reference: Reference, path: Path, notes: Mapping[str, Any]) -> None:
    """Save the program at ``path``, with the notes as an extra file."""
    program = make_program(network, reference)
    with quiet():
        torch.export.save(program, path, extra_files={NOTES: json.dumps(notes)})


def read(path: Path, network: nn.Module) -> Run:
    """What the file computes.

    ``torch.export.load`` unpickles whatever the file says is a pickle, without ``weights_only``
    (example inputs, tensors of subclasses, custom objects; torch 2.15). So nothing is loaded that
    holds one, and what this project writes holds none.

    Raises:
        DirpruneError: the file holds a pickle, or no program.
    """
    with zipfile.ZipFile(path) as archive:
        files = {info.filename: info.file_size for info in archive.infolist()}
        configs = [name for name in files if name.endswith("_config.json")]
        entries = [
            entry for name in configs for entry in json.loads(archive.read(name))["config"].values()
        ]
    samples = any(size for name, size in files.items() if "/sample_inputs/" in name)
    if not configs or samples or any(entry["use_pickle"] for entry in entries):
        raise DirpruneError(
            f"{type(network).__name__} holds tensors or objects that torch.export stores as "
            "pickles, which run code when they are loaded: use plain tensors"
        )
    with quiet():
        program = torch.export.load(path).module()

    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Sequence[Tensor]:
        with torch.no_grad():
            leaves = pytree.tree_leaves(program(*args, **kwargs))
        return [value for value in leaves if isinstance(value, Tensor)]

    return run
