"""Exported files: what they compute, what is in them, and that a wrong one is never left."""

from __future__ import annotations

import copy
import io
import json
import logging
import pickle
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.export import FORMATS, Exported, Format, export, onnx_file, program
from dirprune.model.export.reference import FACTOR, make_reference
from dirprune.model.networks import build_network
from dirprune.model.storage import WEIGHTS, load
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Randomise = Callable[[nn.Module], nn.Module]

NAMES = {"onnx": "network.onnx", "torch-export": "network.pt2", "state-dict": "network"}
TRACED = ("onnx", "torch-export")


@pytest.fixture(autouse=True)
def _onnx(request: pytest.FixtureRequest) -> None:
    """What needs the extra skips itself without it."""
    if "onnx" in request.node.name and "without" not in request.node.name:
        for name in onnx_file.NEEDED:
            pytest.importorskip(name, reason="comes with the extra onnx")


def half(network: nn.Module, images: Tensor) -> nn.Module:
    """The network with a random half of its units."""
    model = SwitchedNetwork(network, images, num_data=10)
    kept = {n: torch.randperm(s.size)[: -(-s.size // 2)] for n, s in model.sites.items()}
    return prune(model, Decision(kept))


def as_a_user(format: str, path: Path, *inputs: Tensor, **kwargs: Tensor) -> list[Tensor]:
    """What the file gives, run as its own runtime's documentation says."""
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [value.name for value in session.get_inputs()]
        feed = dict(zip(names, inputs, strict=False)) | kwargs
        return [torch.from_numpy(x) for x in session.run(None, {n: feed[n].numpy() for n in names})]
    module = load(path) if format == "state-dict" else torch.export.load(path).module()
    with torch.no_grad():
        return torch.utils._pytree.tree_leaves(module(*inputs, **kwargs))


def outputs(network: nn.Module, *inputs: Tensor, **kwargs: Any) -> list[Tensor]:
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(network(*inputs, **kwargs))
    return [x for x in leaves if isinstance(x, Tensor)]


class Normed(nn.Module):
    """Train mode shows here: batch norm with statistics of its own, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.out = nn.Dropout(0.5), nn.Linear(4 * 36, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.drop(torch.relu(self.norm(self.conv(images))).flatten(1)))


class Several(nn.Module):
    """Two inputs, one by keyword, numbers beside them, and outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Embedding(10, 6), nn.Linear(6, 3)

    def forward(
        self, x: Tensor, *, tokens: Tensor, mask: Tensor | None = None, scale: float = 1.0
    ) -> dict[str, Any]:
        h = self.a(x) + self.b(tokens).mean(1)
        if mask is not None:
            h = h * mask
        h = torch.relu(h)
        features = h, h.argmax(1)
        return {"logits": scale * self.c(h), "features": features, "x": h.sum(1), "note": None}


class Case:
    """A network, exported once in every format for all the tests of this file."""

    def __init__(
        self, folder: Path, network: nn.Module, *inputs: Tensor, notes: Any = None, **kwargs: Any
    ) -> None:
        self.folder, self.network, self.inputs = folder, network, inputs
        self.kwargs, self.notes = kwargs, notes
        self.found: dict[str, Exported] = {}

    def path(self, format: str) -> Path:
        """Where it is, exported when first asked for."""
        path = self.folder / NAMES[format]
        if format not in self.found:
            self.found[format] = export(
                self.network, self.inputs, path, format=format, example_kwargs=self.kwargs,
                notes=self.notes,
            )  # fmt: skip
        return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Our network for the digits, pruned."""
    torch.manual_seed(0)
    images = torch.randn(4, 1, 8, 8)
    network = half(build_network("digits-cnn", num_classes=7, in_channels=1, size=8), images)
    return Case(tmp_path_factory.mktemp("digits"), network.eval(), images, notes={"mean": [0.5]})


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory, randomise_norms: Randomise) -> Case:
    """In train mode, but for one module."""
    torch.manual_seed(0)
    network = randomise_norms(Normed()).train()
    network.get_submodule("norm").eval()
    network.get_parameter("conv.bias").requires_grad_(False)
    images = torch.full((2, 1, 6, 6), 0.123456789)
    return Case(tmp_path_factory.mktemp("normed"), network, images)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)
    kwargs = {  # not in the order of the signature
        "mask": torch.rand(3, 6) > 0.5, "scale": 2.0, "tokens": torch.randint(10, (3, 5)),
    }  # fmt: skip
    notes = {"mean": [0.5], "classes": ["été", "hiver"]}
    folder = tmp_path_factory.mktemp("several")
    return Case(folder, Several().eval(), torch.randn(3, 4), notes=notes, **kwargs)


# -- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_pruned_network_runs_elsewhere(digits: Case, format: str) -> None:
    path = digits.path(format)
    found = digits.found[format]
    assert found.path == path
    assert found.difference <= found.tolerance < 1e-5
    assert {p.name for p in digits.folder.iterdir()} <= set(NAMES.values())
    for batch in (1, 3):  # one that was compared, and another
        x = torch.randn(batch, 1, 8, 8)
        want = outputs(digits.network, x)[0]
        # Float32, sums in another order: a hundred times what is seen.
        torch.testing.assert_close(as_a_user(format, path, x)[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("name", "channels", "size"), [("lenet5", 1, 28), ("resnet20", 3, 8), ("wrn28_10", 3, 8)]
)
def test_our_other_networks_run_elsewhere(
    tmp_path: Path, randomise_norms: Randomise, format: str, name: str, channels: int, size: int
) -> None:
    network = build_network(name, num_classes=7, in_channels=channels, size=size)
    images = torch.randn(4, channels, size, size)
    pruned = half(randomise_norms(network), images).eval()
    export(pruned, images, tmp_path / NAMES[format], format=format)
    want = outputs(pruned, images)[0]
    got = as_a_user(format, tmp_path / NAMES[format], images)[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("format", TRACED)
def test_a_network_in_train_mode_is_exported_in_eval_mode_and_stays_as_it_was(
    normed: Case, format: str
) -> None:
    before = {name: value.clone() for name, value in normed.network.state_dict().items()}
    path = normed.path(format)
    assert [m.training for m in normed.network.modules()] == [True, True, False, True, True]
    assert [p.requires_grad for p in normed.network.parameters()] == [True, False, *[True] * 4]
    state = normed.network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    x = torch.randn(3, 1, 6, 6)
    want = outputs(copy.deepcopy(normed.network).eval(), x)[0]
    torch.testing.assert_close(as_a_user(format, path, x)[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("format", TRACED)
def test_several_inputs_by_position_and_by_name_and_outputs_by_name(
    several: Case, format: str
) -> None:
    path = several.path(format)
    x, tokens, mask = torch.randn(7, 4), torch.randint(10, (7, 5)), torch.rand(7, 6) > 0.5
    want = outputs(several.network, x, tokens=tokens, mask=mask, scale=2.0)
    if format == "onnx":
        got = as_a_user(format, path, x, tokens=tokens, mask=mask)
    else:
        with torch.no_grad():
            named = torch.export.load(path).module()(x, tokens=tokens, mask=mask, scale=2.0)
        got = [named["logits"], *named["features"], named["x"]]
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_onnx_has_names_and_notes(several: Case) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(several.path("onnx"))
    assert {i.name: i.shape for i in session.get_inputs()} == {
        "x": ["batch", 4], "tokens": ["batch", 5], "mask": ["batch", 6],
    }  # fmt: skip
    assert {o.name: o.shape for o in session.get_outputs()} == {
        "logits": ["batch", 3], "features_0": ["batch", 6], "features_1": ["batch"],
        "x_out": ["batch"],
    }  # fmt: skip
    assert json.loads(session.get_modelmeta().custom_metadata_map["dirprune"]) == several.notes


@pytest.mark.parametrize("format", TRACED)
def test_files_hold_neither_the_examples_nor_paths_of_this_machine(
    normed: Case, format: str
) -> None:
    path = normed.path(format)
    content = path.read_bytes()
    if format == "torch-export":
        with zipfile.ZipFile(path) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    assert b"conv.weight" in content  # this is where it would be found
    assert normed.inputs[0][0, 0, 0].numpy().tobytes() not in content
    assert b".py" not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_a_program_holds_no_pickle_and_the_notes(digits: Case) -> None:
    path = digits.path("torch-export")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            # torch.save writes archives of its own, pickle.dumps starts with its protocol
            assert not content.startswith((b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05")), name
    extra = {program.NOTES: ""}
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra[program.NOTES]) == digits.notes


def test_a_network_of_the_users_own_comes_back_into_its_original(tmp_path: Path) -> None:
    network, x = Normed(), torch.randn(4, 1, 6, 6)
    pruned = half(network, x).eval()
    export(pruned, x, tmp_path / "own", format="state-dict")
    back = load(tmp_path / "own", network=Normed())
    state = back.state_dict()
    assert all(torch.equal(state[name], value) for name, value in pruned.state_dict().items())


@pytest.mark.parametrize("format", ["torch-export", "state-dict"])
def test_what_is_there_is_replaced(tmp_path: Path, format: str) -> None:
    path = tmp_path / NAMES[format]
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = build_network("mlp", num_classes=3, in_channels=1, size=4).eval()
        export(network, torch.randn(2, 1, 4, 4), path, format=format)
    x = torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(as_a_user(format, path, x)[0], outputs(network, x)[0])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_is_printed(
    tmp_path: Path, format: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        export(nn.Linear(3, 2), torch.randn(2, 3), tmp_path / NAMES[format], format=format)
    printed = capfd.readouterr()
    assert (printed.out, printed.err, caplog.messages) == ("", "", [])


# -- what is not written --------------------------------------------------------------------------


def damaged(case: Case, format: str, damage: Callable[[Path], None]) -> Format:
    """A format whose file, a sound one, changes between writing and reading."""
    sound = case.path(format)

    def write(network: nn.Module, reference: Any, path: Path, notes: Any) -> None:
        if sound.is_dir():
            shutil.copytree(sound, path)
        else:
            shutil.copy(sound, path)
        damage(path)

    return Format(write, FORMATS[format].read, FORMATS[format].suffix)


def shift_bias(path: Path) -> None:
    """Add 1e-5 to one number of the last bias: less than any usual tolerance would see."""
    if path.suffix == ".onnx":
        import onnx
        from onnx import numpy_helper

        model = onnx.load(path)
        (bias,) = (t for t in model.graph.initializer if t.name == "fc2.bias")
        value = numpy_helper.to_array(bias).copy()
        value[0] += 1e-5
        bias.CopyFrom(numpy_helper.from_array(value, bias.name))
        onnx.save(model, path)
    elif path.suffix == ".pt2":
        loaded = torch.export.load(path)
        with torch.no_grad():
            loaded.state_dict["fc2.bias"][0] += 1e-5
        loaded.example_inputs = None
        torch.export.save(loaded, path)
    else:
        state = load_file(path / WEIGHTS)
        state["fc2.bias"][0] += 1e-5
        save_file(state, path / WEIGHTS)


def cut_short(path: Path) -> None:
    file = path / WEIGHTS if path.is_dir() else path
    file.write_bytes(file.read_bytes()[:-1000])


def untouched(path: Path) -> None: ...


@pytest.mark.parametrize("damage", [shift_bias, cut_short, untouched])
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_is_not_the_network_is_not_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    digits: Case,
    format: str,
    damage: Callable[[Path], None],
) -> None:
    path = tmp_path / NAMES[format]
    broken = damaged(digits, format, damage)
    monkeypatch.setitem(FORMATS, format, broken)  # type: ignore[arg-type]
    if damage is untouched:  # as a control
        export(digits.network, digits.inputs, path, format=format)
        assert path.exists()
        return
    with pytest.raises(DirpruneError) as caught:
        export(digits.network, digits.inputs, path, format=format)
    message = str(caught.value)
    assert message.startswith(f"{path} is not written, since read back it is not the network: ")
    assert list(tmp_path.iterdir()) == []
    if damage is shift_bias and format == "state-dict":
        assert "fc2.bias comes back with other values" in message
    elif damage is shift_bias:
        # The difference, what is allowed, and why.
        assert "output of a batch of 1 differs by up to 1e-05, and no more than" in message
        assert "16 times the rounding error of the network itself" in message


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_there_before_stays_when_the_new_file_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: Case, format: str
) -> None:
    sound = digits.path(format)
    path = tmp_path / NAMES[format]
    copied = shutil.copytree(sound, path) if sound.is_dir() else shutil.copy(sound, path)
    monkeypatch.setitem(FORMATS, format, damaged(digits, format, cut_short))  # type: ignore[arg-type]
    with pytest.raises(DirpruneError, match="is not written"):
        export(digits.network, digits.inputs, path, format=format)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(as_a_user(format, Path(copied), x)[0], as_a_user(format, sound, x)[0])
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


class Payload:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    """As example inputs, which torch.export.load unpickles where they are not plain."""
    sign, path = tmp_path / "executed", tmp_path / "network.pt2"
    network = nn.Linear(3, 2)
    torch.export.save(torch.export.export(network, (torch.randn(2, 3),)), path)
    with pytest.raises(DirpruneError, match=r"torch\.export stores as pickles"):
        program.read(path, network)  # it holds example inputs, if harmless ones
    hostile = tmp_path / "hostile.pt2"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(hostile, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if "sample_inputs" in name:
                content = pickle.dumps(Payload(sign))
            target.writestr(name, content)
    with pytest.raises(DirpruneError, match=r"torch\.export stores as pickles"):
        program.read(hostile, network)
    assert not sign.exists()
    pickle.load(io.BytesIO(pickle.dumps(Payload(sign))))  # it would have shown
    assert sign.exists()


def test_a_weight_that_is_said_to_be_a_pickle_is_not_loaded(tmp_path: Path, digits: Case) -> None:
    path = digits.path("torch-export")
    forged = tmp_path / "forged.pt2"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(forged, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
            target.writestr(name, content)
    with pytest.raises(DirpruneError, match=r"torch\.export stores as pickles"):
        program.read(forged, digits.network)


# -- the tolerance --------------------------------------------------------------------------------


def deep(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    layers = [m for _ in range(8) for m in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers).to(dtype).eval()


def test_the_tolerance_is_the_networks_own_rounding() -> None:
    x = torch.randn(2, 64)
    single, double = (
        make_reference(deep(dtype), (x.to(dtype),), {}).outputs[0]
        for dtype in (torch.float32, torch.float64)
    )
    errors = [
        float((value - outputs(deep(torch.float64), batch[0][0].double())[0]).abs().max())
        for value, batch in zip(
            single.values, make_reference(deep(torch.float32), (x,), {}).batches, strict=True
        )
    ]
    assert single.tolerance == pytest.approx(FACTOR * max(errors))
    # The same numbers are drawn, and 2^-29 is the ratio of the two precisions.
    assert double.tolerance == pytest.approx(2**-29 * single.tolerance, rel=0.01)


def test_the_last_bit_of_a_result_is_always_allowed() -> None:
    """A network that rounds nothing still has outputs that round."""
    (output,) = make_reference(nn.Identity(), (torch.randn(2, 3),), {}).outputs
    largest = max(float(value.abs().max()) for value in output.values)
    assert output.tolerance == pytest.approx(16 * 2**-24 * largest)


def test_a_network_that_is_not_for_float64_is_held_to_half_the_digits() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.float())

    (output,) = make_reference(Single(), (torch.randn(2, 3),), {}).outputs
    largest = max(float(value.abs().max()) for value in output.values)
    assert output.tolerance == pytest.approx(2**-11.5 * largest)
    assert "does not run in float64" in output.reason


def test_what_overflows_in_half_precision_does_not_widen_the_tolerance() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    reference = make_reference(Square(), (torch.tensor([[1.0, 300.0], [7.0, 300.0]]).half(),), {})
    assert any(bool(value.isinf().any()) for value in reference.outputs[0].values)
    # Of the finite outputs, 1 and 49 without rounding: half a unit in the last place of 49.
    assert reference.outputs[0].tolerance == pytest.approx(16 * 2**-11 * 49)


def test_random_inputs_are_drawn_from_the_examples() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, tokens: Tensor, mask: Tensor, scale: Tensor) -> Tensor:
            return scale * (x + tokens + mask)

    x = torch.rand(2, 5) + 3
    tokens, mask = torch.tensor([[1, 2, 3, 4, 9]] * 2), torch.tensor([[True] * 5, [False] * 5])
    reference = make_reference(Sum(), (x, tokens, mask), {"scale": torch.tensor(2.0)})
    for size, (args, kwargs) in zip((1, 5), reference.batches, strict=True):
        assert [a.shape for a in args] == [(size, 5)] * 3
        assert set(args[0].flatten().tolist()) <= set(x.flatten().tolist())
        assert set(args[1].flatten().tolist()) <= {1, 2, 3, 4, 9}
        assert all(len(set(row.tolist())) == 1 for row in args[2])  # whole examples
        assert kwargs["scale"] == 2
    assert len(reference.batches[1][0][0].unique()) > 5


def test_inputs_of_one_number_are_replaced_by_random_ones(digits: Case) -> None:
    reference = make_reference(digits.network, (torch.zeros(2, 1, 8, 8),), {})
    assert len(reference.batches[1][0][0].unique()) > 300
    assert reference.varies


def test_infinities_are_equal_where_they_have_one_sign() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x.clamp(min=0))

    reference = make_reference(Log(), (torch.tensor([[-1.0, 2.0], [3.0, -4.0]]),), {})
    assert any(bool(v.isinf().any()) for v in reference.outputs[0].values)

    def run(sign: int) -> Callable[..., Sequence[Tensor]]:
        return lambda args, kwargs: [
            torch.where(y.isinf(), sign * y, y) for y in [torch.log(args[0].clamp(min=0))]
        ]

    assert reference.compare(run(1))[0] == 0
    with pytest.raises(DirpruneError, match="differs by up to inf"):
        reference.compare(run(-1))


# -- what cannot be exported ----------------------------------------------------------------------


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 4)


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> None: ...


class NotANumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x - 10)


class Count(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return 2 * x, 3


class Rare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Squeezed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[:, :, None].squeeze())


@pytest.mark.parametrize(
    ("format", "network", "message"),
    [
        ("torch-export", Branch(), "branches on the values of a tensor.* at .*test_export.py:"),
        ("torch-export", FixedBatch(), "FixedBatch takes the example inputs and fails on a batch o"
         r"f 1 with .*: shape '\[2, 4\]' is invalid .* has to take batches of any size"),
        ("state-dict", Nothing(), "Nothing returns no tensor"),
        ("state-dict", NotANumber(), "NotANumber gives NaN on inputs drawn from"),
        ("state-dict", nn.Linear(3, 2), r"Linear fails on the example inputs \(float32\[2, 4\]\)"),
        ("onnx", Count(), "Count returns a number that is no tensor, and ONNX holds tensors alone"),
        ("onnx", Rare(), "cannot convert Rare: No ONNX function found for .*bessel_j0"),
        ("onnx", Squeezed(), r"batch of 1 is torch.float32 \[1, 4\], and the network's is torch.flo"
         r"at32 \[4\]. A squeeze\(\) that names no axis drops the batch too"),
        ("onnx", nn.Linear(4, 2).bfloat16(), r"in bfloat16, in which .* export network.float\(\)"),
        ("onnx", nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 3)).double(),
         r"cannot run it on the CPU: .*Conv.* export network.float\(\)"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)  # fmt: skip
def test_networks_that_cannot_be_exported(
    tmp_path: Path, format: str, network: nn.Module, message: str
) -> None:
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    with pytest.raises(DirpruneError, match=message) as caught:
        export(network, torch.randn(2, 4).to(dtype), tmp_path / NAMES[format], format=format)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("format", ["torch-export", "state-dict"])
def test_other_precisions(tmp_path: Path, format: str, dtype: torch.dtype) -> None:
    network, x = Normed().to(dtype).eval(), torch.randn(2, 1, 6, 6, dtype=dtype)
    export(network, x, tmp_path / NAMES[format], format=format)
    module = (
        load(tmp_path / NAMES[format], network=Normed())
        if format == "state-dict"
        else torch.export.load(tmp_path / NAMES[format]).module()
    )
    assert outputs(module, x)[0].dtype == dtype
    torch.testing.assert_close(outputs(module, x), outputs(network, x))


def test_onnx_in_half_precision(tmp_path: Path) -> None:
    network, x = Normed().half().eval(), torch.randn(2, 1, 6, 6).half()
    export(network, x, tmp_path / "network.onnx", format="onnx")
    got = as_a_user("onnx", tmp_path / "network.onnx", x)[0]
    assert got.dtype == torch.float16
    torch.testing.assert_close(got, outputs(network, x)[0], rtol=0.01, atol=0.01)


def test_outputs_that_never_change_are_said_to_show_little(tmp_path: Path) -> None:
    network = nn.Linear(4, 3)
    nn.init.zeros_(network.weight)
    with pytest.warns(UserWarning, match="gives the same outputs for all inputs, up to rounding"):
        export(network, torch.randn(2, 4), tmp_path / "network.pt2", format="torch-export")


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("a.onnx", "onxx", "unknown format 'onxx'; did you mean 'onnx'"),
        ("a.pt2", "onnx", r"a.pt2: a file of onnx is named \*.onnx"),
        ("a", "torch-export", r"a file of torch-export is named \*.pt2"),
        ("a.safetensors", "state-dict", "state-dict writes a folder"),
        ("folder.onnx", "onnx", "folder.onnx is a folder: onnx writes a file"),
        ("full", "state-dict", "full is there and holds no saved network"),
        ("file", "state-dict", "file is there and holds no saved network"),
        ("file/a.pt2", "torch-export", "cannot write .*a.pt2: (Not a directory|File exists)"),
    ],
)
def test_names_that_do_not_fit(tmp_path: Path, name: str, format: str, message: str) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    with pytest.raises(DirpruneError, match=message):
        export(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / name, format=format)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "file", "folder.onnx", "full", "thesis.tex",
    ]  # fmt: skip


@pytest.mark.parametrize("missing", onnx_file.NEEDED)
def test_without_the_extra_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(onnx_file, "NEEDED", (missing,))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DirpruneError, match=rf"{missing} cannot be imported .* 'dirprune\[onnx\]'"):
        export(nn.Linear(4, 2), torch.randn(2, 4), tmp_path / "a.onnx", format="onnx")


# -- torchvision ----------------------------------------------------------------------------------


@pytest.fixture
def _lenient() -> Iterator[None]:
    """Whatever torchvision's constructors warn of is not of interest here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "convnext_tiny", "vit_b_16", "swin_t"]
)
@pytest.mark.usefixtures("_lenient")
def test_pruned_networks_of_torchvision(
    tmp_path: Path, randomise_norms: Randomise, name: str, format: str
) -> None:
    network = build_network(f"torchvision:{name}", num_classes=10, in_channels=3, size=64)
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)  # a head of zeros would compare nothing
    images = torch.randn(2, 3, 64, 64)
    pruned = half(randomise_norms(network), images).eval()
    path = tmp_path / NAMES[format]
    found = export(pruned, images, path, format=format)
    assert found.difference <= found.tolerance
    x = torch.randn(3, 3, 64, 64)
    want = outputs(pruned, x)[0]
    got = as_a_user(format, path, x)[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
