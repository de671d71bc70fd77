"""The pruned network as a program that needs torch alone."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..model.errors import DirpruneError
from ..model.writing import atomic_path


def export_program(network: nn.Module, example: Tensor, path: Path) -> None:
    """Write ``torch.export``'s program of a network, once it gives the network's own outputs.

    ``torch.export.load(path).module()`` runs it, for any batch size, without dirprune.

    Raises:
        DirpruneError: the program read back computes something else.
    """
    network.eval()
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=dynamic)
        with atomic_path(path) as temporary:
            torch.export.save(program, temporary)
            again = torch.export.load(temporary).module()
            if not torch.allclose(again(example), network(example), rtol=1e-4, atol=1e-5):
                raise DirpruneError(f"{path}: the exported program differs from the network")
