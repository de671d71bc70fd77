"""All classification networks of torchvision: graphs, and masked = pruned in every family."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from dirprune import SwitchedNetwork, prune
from dirprune.model.graph import ChannelGraph

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


zoo = _load("zoo")

# Of each family the network with the fewest parameters.
SMALLEST = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18",
    "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_16",
)  # fmt: skip
# Deeper or wider than others of their family, and made of the same kinds of modules (which
# `test_what_is_only_deeper_or_wider_has_no_other_modules` holds them to): their graphs take most of
# the time and are slow tests.
DEEPER_OR_WIDER = (
    "convnext_small", "convnext_base", "convnext_large",
    "densenet161", "densenet169", "densenet201",
    *(f"efficientnet_b{i}" for i in range(1, 8)), "efficientnet_v2_m", "efficientnet_v2_l",
    "mnasnet0_75", "mnasnet1_0", "mnasnet1_3", "mobilenet_v3_large",
    "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf", "regnet_x_16gf", "regnet_x_32gf",
    "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf", "regnet_y_8gf", "regnet_y_16gf",
    "regnet_y_32gf", "regnet_y_128gf",
    "resnet34", "resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d",
    "wide_resnet50_2", "wide_resnet101_2",
    "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0",
    "swin_s", "swin_b", "swin_v2_s", "swin_v2_b",
    "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14",
)  # fmt: skip
# What dirprune holds every cut to. Float64 rounds at 2e-16, a sum of n terms in another order
# loses about sqrt(n), and the deepest of these networks has 200 layers of up to 25088 terms.
EXACT = 1e-10


def test_every_family_is_tried() -> None:
    assert {zoo.family(name) for name in SMALLEST} == {zoo.family(name) for name in zoo.NAMES}
    assert len(zoo.NAMES) >= 80


def _kinds(name: str) -> set[tuple[Any, ...]]:
    """What a network is made of, numbers of modules and of channels aside."""
    with zoo.skeletons():
        network = zoo.build(name, zoo.usual_size(name), num_classes=1000)
    found: set[tuple[Any, ...]] = set()
    for module in network.modules():
        # Children of a list or a sequence, and of blocks numbered 1, 2, ..., are counted by depth.
        parts = {part for part, _ in module.named_children() if not any(map(str.isdigit, part))}
        found.add((type(module), *sorted(parts)))
        if isinstance(module, nn.Linear):
            found.add((nn.Linear, module.bias is None))
        if isinstance(module, nn.Conv2d):
            patches = module.kernel_size == module.stride  # of whatever size
            size = () if patches else (module.kernel_size, module.stride, module.padding)
            groups = {1: "one", module.in_channels: "each"}.get(module.groups, "some")
            found.add((nn.Conv2d, size, module.dilation, groups, module.bias is None))
    return found


def test_what_is_only_deeper_or_wider_has_no_other_modules() -> None:
    """Than the networks of its family whose graphs are built by default."""
    assert set(DEEPER_OR_WIDER) <= set(zoo.NAMES) - set(SMALLEST)
    tried: dict[str, set[tuple[Any, ...]]] = {}
    for name in set(zoo.NAMES) - set(DEEPER_OR_WIDER):
        tried.setdefault(zoo.family(name), set()).update(_kinds(name))
    for name in DEEPER_OR_WIDER:
        assert _kinds(name) <= tried[zoo.family(name)], name
    # It tells kinds apart: these two have blocks, or groups, that their family's smallest lacks.
    for name, smallest in (("resnext50_32x4d", "resnet18"), ("swin_v2_t", "swin_t")):
        assert not _kinds(name) <= _kinds(smallest)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in DEEPER_OR_WIDER else [])
        for name in zoo.NAMES
        if name not in SMALLEST
    ],
)
def test_most_parameters_are_prunable(name: str) -> None:
    """Of all others, on the meta device: shapes alone, whatever the size of the network."""
    network, graph = zoo.graph_of(name)
    assert all(p.is_meta for p in network.parameters())
    _check_shares(name, network, graph)


def _check_shares(name: str, network: nn.Module, graph: ChannelGraph) -> None:
    shares = zoo.shares(network, graph)
    assert shares["params"] >= zoo.target(name)
    assert shares["macs"] >= zoo.target(name)
    # What is left alone has a reason.
    assert all(graph.unprunable.values())
    assert set(graph.unprunable).isdisjoint(graph.layer_sites())


@pytest.mark.parametrize("name", SMALLEST)
def test_pruned_is_masked(name: str) -> None:
    """Thirty per cent of all units at random; then training, saving and loading."""
    model = zoo.switched(name)
    decision = zoo.random_decision(model)
    network = prune(model, decision)
    _check_shares(name, model.network, model.graph)
    assert not [why for why in model.unprunable.values() if "cannot be cut" in why]
    found = zoo.differences(model, decision, network)
    assert found["exact"] <= EXACT
    assert found["effect"] > 1e-3  # or the first would hold for a mask that does nothing
    for name, site in model.sites.items():
        assert len(decision.kept[name]) >= round(0.7 * site.size)
    zoo.check_storage(model, network)
    zoo.check_training(network, *model.example_inputs)


@pytest.mark.slow
def test_auxiliary_heads_keep_what_they_read() -> None:
    """They run in train mode alone, where no tracing sees them; trying does.

    Of the two networks that have them, the one whose heads take small images.
    """
    size = zoo.small_size("googlenet")
    network = models.get_model("googlenet", weights=None, num_classes=10, init_weights=False)
    images = torch.randn(2, 3, size, size)
    model = SwitchedNetwork(zoo.randomise(network), images, num_data=2)
    failed = [layer for layer, why in model.unprunable.items() if "cannot be cut" in why]
    # The last layers of the four branches of each of the two blocks that a head reads.
    assert {layer.split(".")[0] for layer in failed} == {"inception4a", "inception4d"}
    assert len(failed) == 8
    decision = zoo.random_decision(model)
    smaller = prune(model, decision)
    assert zoo.differences(model, decision, smaller)["exact"] <= EXACT
    zoo.check_training(smaller, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo.NAMES if name not in SMALLEST])
def test_the_large_ones_too(name: str) -> None:
    """In a process each, which gives all memory back."""
    script = [sys.executable, str(BENCHMARKS / "bench_zoo.py"), "--examine", name]
    done = subprocess.run(script, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    # Torch and what else is imported takes 700 MB; the largest network would take 2600 more.
    assert row["peak_mb"] <= 1500
    if row["verified"] is None:
        pytest.skip(row["why_not"])
    assert row["verified"] <= EXACT
    assert row["effect"] > 1e-3
    assert not row["sites_that_failed"]
    assert row["parameters_left"] < 0.95


def _relative(want: Tensor, got: Tensor) -> float:
    return float((want - got).abs().max() / want.abs().max())


# 1e-4 for what follows: float32 rounds at 6e-8, fused kernels sum in another order, and random
# networks without training grow what was rounded from layer to layer.
@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_the_pruned_network_is_exported_and_compiled(name: str, tmp_path: Path) -> None:
    model = zoo.switched(name)
    network = prune(model, zoo.random_decision(model)).eval().requires_grad_(False)
    images = torch.randn_like(model.example_inputs[0])
    want = network(images)

    batch = torch.export.Dim.DYNAMIC
    program = torch.export.export(network, (images,), dynamic_shapes=({0: batch},))
    assert _relative(want, program.module()(images)) <= 1e-4

    session = _onnx_session(network, images, tmp_path / "network.onnx")
    (got,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert _relative(want, torch.from_numpy(got)) <= 1e-4

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own, about what it calls itself
        compiled = torch.compile(network, fullgraph=True)
        assert _relative(want, compiled(images)) <= 1e-4
    torch._dynamo.reset()


def _onnx_session(network: nn.Module, images: Tensor, path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own, about what it calls itself
        torch.onnx.export(network, (images,), path, dynamo=True)
    return runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
