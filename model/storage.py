"""Save and load a network as a folder: ``network.safetensors`` and ``network.json``, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import DirpruneError
from .networks import build_known
from .replacement import replace_tensors, set_count, set_padding
from .selected import SelectedLinear, select_inputs
from .writing import atomic_path

FORMAT = 1
SHOWN = frozenset({"in_channels", "out_channels", "in_features", "out_features", "groups"})
WEIGHTS, DESCRIPTION = "network.safetensors", "network.json"


def save(path: str | Path, network: nn.Module, *, notes: Mapping[str, Any] | None = None) -> None:
    """Write a network, pruned or not, to a folder.

    Args:
        path: the folder; written whole or not at all.
        network: a network of :func:`~dirprune.model.networks.build_network` (loads by itself) or
            any other (``load`` then needs ``network=``, the unpruned original).
        notes: anything JSON can hold, kept beside the weights (normalisation, class names).

    Raises:
        DirpruneError: something is there that is no saved network, or it cannot be written.
    """
    path = Path(path)
    if path.exists() and not is_saved(path):
        raise DirpruneError(f"{path} is there and holds no saved network: it would be replaced")
    tensors = {
        name: tensor.detach().contiguous().clone()
        for name, tensor in network.state_dict(keep_vars=True).items()
    }
    description = {
        "format": FORMAT,
        "class": type(network).__name__,
        "architecture": getattr(network, "architecture", None),
        "paddings": _paddings(network),
        "counts": _counts(network),
        "selected": _selected(network),
        "notes": dict(notes or {}),
    }
    with atomic_path(path) as folder:
        folder.mkdir()
        save_file(tensors, folder / WEIGHTS)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1))


def is_saved(path: Path) -> bool:
    """Is it a folder that holds a saved network and nothing else, or nothing at all?"""
    return path.is_dir() and {file.name for file in path.iterdir()} <= {WEIGHTS, DESCRIPTION}


def _counts(network: nn.Module) -> dict[str, dict[str, int]]:
    """How many groups or heads are left in modules whose parameters do not show it."""
    return {
        name: dict(module.dirprune_counts)
        for name, module in network.named_modules()
        if hasattr(module, "dirprune_counts")
    }


def _selected(network: nn.Module) -> list[str]:
    """The linear layers that read some of their inputs alone, by an index in the state."""
    return [name for name, m in network.named_modules() if isinstance(m, SelectedLinear)]


def _paddings(network: nn.Module) -> dict[str, list[int]]:
    """Widths of the padding shortcuts, which are attributes and not in the state."""
    widths = {}
    for name, module in network.named_modules():
        if callable(getattr(module, "set_padding", None)):
            try:
                widths[name] = [int(getattr(module, side)) for side in ("before", "after")]
            except AttributeError as error:
                raise DirpruneError(
                    f"{type(module).__name__} {name!r} has set_padding but not the attributes "
                    "before and after, which tell how wide it pads"
                ) from error
    return widths


def load(path: str | Path, *, network: nn.Module | None = None) -> nn.Module:
    """Rebuild a saved network, with the same weights bit for bit, in eval mode.

    Nothing in the folder is executed or imported: the architecture is looked up by name among
    dirprune's own, and the file gives tensors and numbers.

    Args:
        path: a folder written by :func:`save`.
        network: the unpruned original, for a network that is not one of ours; changed in place.

    Raises:
        DirpruneError: no such folder, damaged files, or another network's.
    """
    folder = Path(path)
    description = read_description(folder)
    try:
        # Copied: those of safetensors lie in the file's order, and kernels sum what is not aligned
        # in another order, so that outputs would differ in their last bits.
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    except OSError as error:
        raise DirpruneError(f"{folder / WEIGHTS}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise DirpruneError(f"{folder / WEIGHTS} is damaged: {error}") from error
    if network is None:
        architecture = description["architecture"]
        if not isinstance(architecture, dict):
            raise DirpruneError(
                f"{folder} holds a {description['class']}, which dirprune cannot build by itself: "
                "give the unpruned original, load(path, network=...)"
            )
        try:
            network = build_known(**architecture)
        except (TypeError, AttributeError, RuntimeError, MemoryError, OverflowError) as error:
            raise DirpruneError(f"{folder / DESCRIPTION}: bad architecture: {error}") from error
    for layer in description.get("selected", ()):  # absent in files of an older version
        _restore_selection(network, layer, tensors, folder)
    _check_names(network, tensors, folder)
    replace_tensors(network, tensors)
    for module, widths in description["paddings"].items():
        try:
            before, after = (int(width) for width in widths)
            set_padding(network, module, before, after)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise DirpruneError(f"{folder / DESCRIPTION}: padding {module!r}: {error}") from error
    for module, numbers in description.get("counts", {}).items():
        _restore_counts(network, module, numbers, folder)
    return network.eval()


def read_description(folder: Path) -> dict[str, Any]:
    """The JSON beside the weights, checked for its form."""
    path = folder / DESCRIPTION
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise DirpruneError(
            f"{path}: {error.strerror}. Expected a folder of dirprune.save"
        ) from error
    except ValueError as error:
        raise DirpruneError(f"{path} is damaged: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise DirpruneError(f"{path}: expected format {FORMAT} of dirprune.save")
    missing = {"class", "architecture", "paddings", "notes"} - set(data)
    tables = (data.get("paddings"), data.get("counts", {}))  # without counts: of an older version
    if missing or not all(isinstance(table, dict) for table in tables):
        raise DirpruneError(
            f"{path} is damaged: it lacks {', '.join(sorted(missing)) or 'paddings or counts'}"
        )
    if not isinstance(data.get("selected", []), list):
        raise DirpruneError(f"{path} is damaged: selected is no list of layers")
    return data


def _restore_counts(network: nn.Module, module: str, numbers: Any, folder: Path) -> None:
    """Nothing but whole numbers is written, and only over whole numbers."""
    place = f"{folder / DESCRIPTION}: counts of {module!r}"
    try:
        owner = network.get_submodule(module)
        given = {str(name): number for name, number in numbers.items()}
    except AttributeError as error:
        raise DirpruneError(f"{place}: {error}") from error
    for name, number in given.items():
        # What tensors show (in_channels and the like) is never counted.
        held = None if name in SHOWN else vars(owner).get(name)
        if type(number) is not int or type(held) is not int or not 0 < number <= held:
            raise DirpruneError(f"{place}: {name}={number!r} does not fit, the network has {held}")
        set_count(network, module, name, number)


def _restore_selection(
    network: nn.Module, layer: Any, tensors: Mapping[str, Tensor], folder: Path
) -> None:
    """Let a linear layer select its inputs; the index, which is a tensor, names some of them."""
    place = f"{folder / DESCRIPTION}: selected inputs of {layer!r}"
    try:
        if isinstance(network.get_submodule(layer), SelectedLinear):
            return  # a network that was pruned before
        select_inputs(network, layer)
    except (AttributeError, TypeError, DirpruneError) as error:
        raise DirpruneError(f"{place}: {error}") from error
    whole = network.get_parameter(f"{layer}.weight").shape[1]
    index = tensors.get(f"{layer}.index", torch.empty(0))
    fits = index.dtype == torch.long and index.dim() == 1 and len(index) > 0
    if not fits or int(index.min()) < 0 or int(index.max()) >= whole:
        raise DirpruneError(f"{place}: its index does not name some of the {whole} inputs")


def _is_part(part: Tensor, whole: Tensor) -> bool:
    """Could ``part`` be left of ``whole`` after pruning?"""
    return (
        part.dim() == whole.dim()
        and all(0 < a <= b for a, b in zip(part.shape, whole.shape, strict=True))
        and part.is_floating_point() == whole.is_floating_point()
    )


def _check_names(network: nn.Module, tensors: Mapping[str, Tensor], folder: Path) -> None:
    state = network.state_dict()
    wrong = sorted(set(state) ^ set(tensors))
    if not wrong:
        wrong = [n for n in state if not _is_part(tensors[n], state[n])]
    if wrong:
        raise DirpruneError(
            f"{folder} does not fit {type(network).__name__}: {', '.join(wrong[:3])} "
            f"{'differs' if len(wrong) == 1 else 'differ'}. Give the network it was pruned from."
        )
