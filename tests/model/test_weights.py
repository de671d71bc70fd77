"""Weights from files: every accepted form loads, every bad file says what is wrong with it."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dirprune.model.errors import DirpruneError
from dirprune.model.networks import DigitsCNN, load_weights

State = dict[str, Tensor]


def net(seed: int = 0) -> DigitsCNN:
    torch.manual_seed(seed)
    return DigitsCNN()


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


FORMS: dict[str, Callable[[State, Path], object]] = {
    "plain": lambda s, p: torch.save(s, p),
    "legacy": lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False),
    "state_dict": lambda s, p: torch.save({"state_dict": s, "epoch": 3}, p),
    "model": lambda s, p: torch.save({"model": s, "optimizer": {"lr": 0.1}}, p),
    "module.": lambda s, p: torch.save({f"module.{k}": v for k, v in s.items()}, p),
    "both": lambda s, p: torch.save({"model": {f"module.{k}": v for k, v in s.items()}}, p),
    "half": lambda s, p: torch.save({k: v.half() for k, v in s.items()}, p),
    "safetensors": lambda s, p: save_file(s, p),
}


# A safetensors file is known by its name or by its first bytes.
@pytest.mark.parametrize(
    ("form", "name"), [*((form, "w.pt") for form in FORMS), ("safetensors", "w.safetensors")]
)
def test_accepted_forms(form: str, name: str, tmp_path: Path) -> None:
    source, target = net(1), net(2)
    FORMS[form](source.state_dict(), tmp_path / name)
    load_weights(target, tmp_path / name)
    if form == "half":
        source = source.half().float()
    assert same(source, target)


def test_path_may_be_a_string(tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "w.pt")
    target = net(2)
    load_weights(target, str(tmp_path / "w.pt"))
    assert same(net(1), target)


def refused(path: Path, match: str) -> str:
    """The message, after making sure that nothing was loaded."""
    target = net(2)
    with pytest.raises(DirpruneError, match=match) as caught:
        load_weights(target, path)
    assert same(net(2), target)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.pt", "no such file")
    refused(tmp_path, "it is a folder")


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("form", ["plain", "legacy", "safetensors"])
def test_truncated_file(form: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    FORMS[form](net(1).state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "damaged")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("text", ["hello world\n", "{}", "\n", "weights, which these are not\n"])
def test_text_file(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    refused(tmp_path / name, "damaged or")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("form", ["plain", "legacy", "pickle"])
def test_code_is_refused_and_does_not_run(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content: Any = {"w": torch.ones(1), "x": Payload()}
    path = tmp_path / "w.pt"
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        FORMS[form](content, path)
    refused(path, "weights only are loaded")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(net(1), tmp_path / "w.pt")
    refused(tmp_path / "w.pt", r"weights only are loaded.*state_dict\(\)")


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, {"epoch": 3}, [1, 2], torch.ones(3)])
def test_no_tensors(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "no tensors in")


def test_keys_that_do_not_fit_are_named_up_to_three(tmp_path: Path) -> None:
    state = net(1).state_dict()
    for key in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
        state[f"extra.{key}"] = state.pop(key)
    state["fc2.weight"] = torch.zeros(100, 64)
    torch.save(state, tmp_path / "w.pt")
    message = refused(tmp_path / "w.pt", "do not fit DigitsCNN")
    assert "4 missing: conv1.weight, conv1.bias, conv2.weight, and 1 more" in message
    assert "4 unexpected: extra.conv1.weight" in message
    assert "1 of another shape: fc2.weight is [100, 64] in the file and [10, 64] in the" in message
    assert "Build the network that they were trained for" in message


def test_whole_numbers_do_not_become_weights(tmp_path: Path) -> None:
    state = net(1).state_dict()
    state["fc2.bias"] = torch.ones(10, dtype=torch.int8)
    torch.save(state, tmp_path / "w.pt")
    refused(tmp_path / "w.pt", "1 of another type: fc2.bias is torch.int8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_name_the_tensor(value: float, tmp_path: Path) -> None:
    state = net(1).state_dict()
    state["conv2.weight"][3, 2, 1, 0] = value
    save_file(state, tmp_path / "w.safetensors")
    refused(tmp_path / "w.safetensors", "NaN or infinite values: conv2.weight")


def test_old_files_without_batch_counters_load(tmp_path: Path) -> None:
    source = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    source(torch.randn(4, 1, 5, 5))
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "w.pt")
    target = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    load_weights(target, tmp_path / "w.pt")
    assert torch.equal(target.state_dict()["1.running_mean"], source.state_dict()["1.running_mean"])
