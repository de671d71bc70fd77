"""The classification networks of torchvision: what their tests and their benchmark share."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._pytree import tree_leaves
from torchvision import models

from dirprune import Decision, SwitchedNetwork, load, mask, save
from dirprune.model.graph import ChannelGraph, build_channel_graph
from dirprune.model.surgery import without_empty_layers

NAMES: tuple[str, ...] = tuple(models.list_models(module=models))
STREAMS_WITH_LAYER_NORM = ("convnext", "maxvit", "swin_transformer", "vision_transformer")
OUTPUT = "it is the network's output"


def family(name: str) -> str:
    """The file of torchvision that a network comes from, such as ``resnet`` for ResNeXt too."""
    return models.get_model_builder(name).__module__.rpartition(".")[2]


def target(name: str) -> float:
    """The share of parameters outside the output layer that has to be prunable."""
    return 0.6 if family(name) in STREAMS_WITH_LAYER_NORM else 0.9


def usual_size(name: str) -> int:
    return 299 if name == "inception_v3" else 224


def small_size(name: str) -> int:
    """Images that the network takes and that cost little; what is exact does not depend on them."""
    if family(name) == "vision_transformer":
        return 2 * int(name.rpartition("_")[2])  # four patches
    sizes = {"alexnet": 63, "inception": 75, "maxvit": 64, "swin_transformer": 64}
    return sizes.get(family(name), 32)


def build(name: str, size: int, num_classes: int = 10) -> nn.Module:
    """A network with random weights, without auxiliary heads, in eval mode."""
    options: dict[str, Any] = {}
    if name == "maxvit_t":
        return _maxvit(size, num_classes).eval()
    if family(name) == "vision_transformer":
        options["image_size"] = size
    elif name in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=False)
    network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return network.eval()


def _maxvit(size: int, num_classes: int) -> nn.Module:
    """``maxvit_t`` for images of any multiple of 32: with 7 x 7 windows at 224, as it is there."""
    return models.MaxVit(
        input_size=(size, size), partition_size=size // 32, stem_channels=64,
        block_channels=[64, 128, 256, 512], block_layers=[2, 2, 5, 2], head_dim=32,
        stochastic_depth_prob=0.2, num_classes=num_classes,
    )  # fmt: skip


@contextmanager
def skeletons() -> Iterator[None]:
    """Within it, modules are built with shapes alone: a second and no memory for the largest.

    ``torch.device("meta")`` would do the same to all tensors, but some constructors compute with
    theirs (RegNet's widths, Swin's dropout rates).
    """

    def parameter(module: nn.Module, name: str, value: nn.Parameter | None) -> nn.Parameter | None:
        return value if value is None else nn.Parameter(value.to("meta"), value.requires_grad)

    def buffer(module: nn.Module, name: str, value: Tensor | None) -> Tensor | None:
        return value if value is None else value.to("meta")

    handles = (
        register_module_parameter_registration_hook(parameter),
        register_module_buffer_registration_hook(buffer),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def skeleton(name: str) -> tuple[nn.Module, tuple[Tensor]]:
    """A network of 1000 classes and its usual images, on the meta device."""
    size = usual_size(name)
    with skeletons():
        network = build(name, size, num_classes=1000)
    return network, (torch.empty(2, 3, size, size, device="meta"),)


def shares(network: nn.Module, graph: ChannelGraph) -> dict[str, float]:
    """How much of the parameters outside the output layer, and of all multiply-adds, can shrink.

    A parameter counts if one of its axes is one of units, a layer's multiply-adds if its rows or
    columns are.
    """
    ends = tuple(f"{layer}." for layer, reason in graph.unprunable.items() if reason == OUTPUT)
    inside = {n: p.numel() for n, p in network.named_parameters() if not n.startswith(ends)}
    prunable = {name for name, _ in graph.axes}
    work = {True: 0, False: 0}
    for term in graph.macs:
        columns = torch.zeros(1) if term.columns is None else term.columns
        shrinks = bool((term.rows >= 0).any()) or bool((columns[term.columns is None :] >= 0).any())
        work[shrinks] += term.coefficient * len(term.rows) * len(columns)
    return {
        "params": sum(n for name, n in inside.items() if name in prunable) / sum(inside.values()),
        "macs": work[True] / sum(work.values()),
    }


def randomise(network: nn.Module) -> nn.Module:
    """Give what starts at one number (norms, biases, layer scales, tokens) values that differ.

    As they come, batch norms are nearly the identity, layer scales of 1e-6 hide whole blocks, and a
    head of zeros hides everything.
    """
    generator = torch.Generator().manual_seed(1)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        values = torch.rand(tensor.shape, generator=generator)
        tensor.copy_(low + (high - low) * values)

    with torch.no_grad():
        for parameter in network.parameters():
            first = float(parameter.flatten()[0])
            if bool((parameter == first).all()):
                uniform(parameter, *((-0.5, 0.5) if first == 0 else (0.5, 1.5)))
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                uniform(module.running_mean, -0.5, 0.5)
                uniform(module.running_var, 0.5, 2.0)
                module.weight.mul_(torch.randn(module.weight.shape, generator=generator).sign())
    return network


def random_decision(model: SwitchedNetwork, share: float = 0.3, seed: int = 0) -> Decision:
    """Remove ``share`` of each site's units at random."""
    generator = torch.Generator().manual_seed(seed)
    kept = {
        name: torch.randperm(site.size, generator=generator)[
            : max(1, round((1 - share) * site.size))
        ]
        for name, site in model.sites.items()
    }
    return Decision(without_empty_layers(model.graph, kept))


def switched(name: str) -> SwitchedNetwork:
    """A network of ten classes on small images, with the sites that pass the comparison."""
    torch.manual_seed(0)
    size = small_size(name)
    return SwitchedNetwork(randomise(build(name, size)), torch.randn(2, 3, size, size), num_data=2)


def differences(model: SwitchedNetwork, decision: Decision, pruned: nn.Module) -> dict[str, float]:
    """In float64, relative to the largest output, on images that the model has not seen.

    ``exact``: of the pruned network from the masked one; ``effect``: of the masked one from the
    network itself.
    """
    images = torch.rand(model.example_inputs[0].shape, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        whole = copy.deepcopy(model.network).double().eval()(images)
        want = mask(model, decision).double().eval()(images)
        got = copy.deepcopy(pruned).double().eval()(images)
    scale = float(want.abs().max())
    return {
        "exact": float((want - got).abs().max()) / scale,
        "effect": float((want - whole).abs().max()) / scale,
    }


def check_training(pruned: nn.Module, images: Tensor) -> None:
    """A forward and backward pass in train mode; every parameter gets a finite gradient."""
    outputs = tree_leaves(pruned.train()(images))
    sum(output.square().mean() for output in outputs).backward()
    for name, parameter in pruned.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
    pruned.zero_grad()
    pruned.eval()


def check_storage(model: SwitchedNetwork, pruned: nn.Module) -> None:
    """Saved and loaded, every tensor is the same bit for bit.

    The outputs may differ by rounding: tensors elsewhere in memory can get another kernel.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        save(path, pruned)
        loaded = load(path, network=copy.deepcopy(model.network))
    same: Mapping[str, Tensor] = pruned.state_dict()
    state = loaded.state_dict()
    assert set(state) == set(same)
    assert all(torch.equal(tensor, state[name]) for name, tensor in same.items())
    with torch.no_grad():
        want, got = pruned.eval()(*model.example_inputs), loaded(*model.example_inputs)
    assert float((want - got).abs().max()) <= 1e-4 * float(want.abs().max())


def graph_of(name: str) -> tuple[nn.Module, ChannelGraph]:
    network, images = skeleton(name)
    return network, build_channel_graph(network, images)
