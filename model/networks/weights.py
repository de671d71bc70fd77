"""Trained weights from a file into a network, with every doubt raised before anything changes."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import DirpruneError

# What training scripts wrap a state dict in, and what wrappers put before every key.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a safetensors file or a plain torch state dict into ``network``.

    Accepted: a mapping of names to tensors, by itself or under "state_dict", "model_state_dict"
    or "model", with or without the "module." of DataParallel. Pickles that hold anything else are
    refused. The network is changed only if everything fits.
    """
    file = Path(path).expanduser()
    state = _tensors(_read(file), file)
    _check_keys(network, state, file)
    _check_finite(state, file)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise DirpruneError(f"the weights of {file} do not fit the network: {error}") from error


def _read(file: Path) -> object:
    """What is in the file, without ever running code from it."""
    if not file.is_file():
        what = "it is a folder" if file.is_dir() else "there is no such file"
        raise DirpruneError(f"cannot read weights from {file}: {what}")
    try:
        with file.open("rb") as stream:
            head = stream.read(9)
    except OSError as error:
        raise DirpruneError(f"cannot read weights from {file}: {error.strerror}") from error
    # A safetensors file begins with eight bytes of length and the brace of a JSON object.
    if file.suffix == ".safetensors" or head[8:] == b"{":
        return _read_safetensors(file)
    return _read_torch(file, head)


def _read_safetensors(file: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise DirpruneError(
            f"{file} is damaged or not a safetensors file ({error}); save or download it again"
        ) from error


def _read_torch(file: Path, head: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what matters is said below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch raises one class for "holds other objects" and for "is no pickle at all". A zip
        # archive or a pickle shows in the first bytes.
        if head.startswith((b"PK", b"\x80")):
            raise DirpruneError(
                f"{file} holds Python objects besides tensors (or is damaged), and weights only "
                f"are loaded, since such objects can run any code; save the weights again with "
                f"torch.save(network.state_dict(), path) or as safetensors"
            ) from error
        raise _damaged(file) from error
    except Exception as error:
        # A damaged file makes the reader fail in almost any way: EOFError, KeyError, ...
        raise _damaged(file) from error


def _damaged(file: Path) -> DirpruneError:
    return DirpruneError(
        f"{file} is damaged or holds no weights: expected a safetensors file or a state dict "
        f"saved with torch.save; save or download it again"
    )


def _tensors(content: object, file: Path) -> dict[str, Tensor]:
    """The state dict in what was read, without wrappers and prefixes."""
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    state: dict[str, Tensor] = {}
    if isinstance(content, Mapping):
        state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if not state:
        raise DirpruneError(
            f"there are no tensors in {file}: expected a mapping of names to tensors, by itself "
            f"or under {', '.join(map(repr, WRAPPERS))}"
        )
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _check_keys(network: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    own = {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    # Files from before torch 0.4.1 have no counters; torch then starts them at zero.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} is {_shape(state[k])} in the file and {_shape(own[k])} in the network"
        for k in own
        if k in state and own[k].shape != state[k].shape
    ]
    kinds = [
        f"{k} is {state[k].dtype} in the file and {own[k].dtype} in the network"
        for k in own
        if k in state and own[k].is_floating_point() != state[k].is_floating_point()
    ]
    found = [
        f"{len(keys)} {what}: {_some(keys, separator)}"
        for what, keys, separator in (
            ("missing", missing, ", "),
            ("unexpected", unexpected, ", "),
            ("of another shape", shapes, "; "),
            ("of another type", kinds, "; "),
        )
        if keys
    ]
    if found:
        raise DirpruneError(
            f"the weights of {file} do not fit {type(network).__name__}: {'. '.join(found)}. "
            f"Build the network that they were trained for (name, number of classes, channels "
            f"and image size), or give the weights of this one"
        )


def _check_finite(state: Mapping[str, Tensor], file: Path) -> None:
    bad = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise DirpruneError(
            f"{len(bad)} tensor(s) in {file} hold NaN or infinite values: {_some(bad)}; "
            f"train the network again or give an earlier checkpoint"
        )


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _some(items: Iterable[str], separator: str = ", ") -> str:
    """The first three, and how many more there are."""
    names = list(items)
    more = f"{separator}and {len(names) - 3} more" if len(names) > 3 else ""
    return separator.join(names[:3]) + more
