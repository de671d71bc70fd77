"""The cost of one SVI step, as a multiple of one forward and backward of the frozen network.

Step and floor alternate in one run on one thread: the floor is timed inside the loader that feeds
``fit``, so that a noisy machine hits both alike. Two floors are timed:

- ``to the input``: forward, backward to the images; no weight gradients;
- ``to the first switch``: forward, backward to the first value that a gain multiplies and no
  further, which is all that the switches' gradient needs.

Weights are random: they do not change what is computed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from common import write_result
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune import SwitchedNetwork, fit
from dirprune.model.networks import build_network

NETWORKS = {"lenet5": (1, 28), "resnet20": (3, 32), "resnet56": (3, 32), "vgg16": (3, 32)}


class Alternating:
    """Yields one batch again and again; times the floors before, and the step while it is out."""

    def __init__(self, model: SwitchedNetwork, images: Tensor, labels: Tensor, steps: int) -> None:
        self.network, self.steps = model.network, steps
        self.images, self.labels = images, labels
        self.first = first_switched_layer(model)
        self.seconds: dict[str, list[float]] = {"step": [], "input": [], "first switch": []}

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(self.steps):
            for name, floor in (("input", self.to_input), ("first switch", self.to_switch)):
                started = time.perf_counter()
                floor()
                self.seconds[name].append(time.perf_counter() - started)
            started = time.perf_counter()
            yield self.images, self.labels
            self.seconds["step"].append(time.perf_counter() - started)

    def to_input(self) -> None:
        images = self.images.detach().requires_grad_()
        F.cross_entropy(self.network(images), self.labels).backward()

    def to_switch(self) -> None:
        def cut(module: nn.Module, args: Any) -> tuple[Tensor]:
            return (args[0].detach().requires_grad_(),)

        handle = self.first.register_forward_pre_hook(cut)
        F.cross_entropy(self.network(self.images), self.labels).backward()
        handle.remove()


def first_switched_layer(model: SwitchedNetwork) -> nn.Module:
    """The first layer, in the order of the forward pass, whose input has a gain."""
    name = model.graph.consumers[0].weight.rpartition(".")[0]
    return model.network.get_submodule(name)


def measure(name: str, batch: int, steps: int, particles: int) -> dict[str, Any]:
    channels, size = NETWORKS[name]
    torch.manual_seed(0)
    network = build_network(name, num_classes=10, in_channels=channels, size=size)
    network.eval().requires_grad_(False)
    images, labels = torch.randn(batch, channels, size, size), torch.randint(10, (batch,))
    model = SwitchedNetwork(network, images[:2], num_data=60_000, temperature=0.01)
    loader = Alternating(model, images, labels, steps + 3)
    fit(model, "dirichlet", loader, particles=particles, progress=False)
    seconds = {what: statistics.median(times[3:]) for what, times in loader.seconds.items()}
    ratios = {
        what: [a / b for a, b in zip(loader.seconds["step"], loader.seconds[what], strict=True)][3:]
        for what in ("input", "first switch")
    }
    quartiles = {what: statistics.quantiles(r, n=4) for what, r in ratios.items()}
    return {
        "network": name, "batch": batch, "particles": particles, "steps": steps,
        "step_ms": round(1e3 * seconds["step"], 2),
        **{
            f"floor to the {what}": {
                "ms": round(1e3 * seconds[what], 2),
                "ratio_median": round(q[1], 3),
                "ratio_quartiles": [round(q[0], 3), round(q[2], 3)],
            }
            for what, q in quartiles.items()
        },
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--particles", type=int, default=8)
    options = parser.parse_args()
    torch.set_num_threads(1)
    write_result(
        "step",
        {
            "results": [
                measure(name, options.batch, options.steps, options.particles)
                for name in options.networks
            ]
        },
    )
