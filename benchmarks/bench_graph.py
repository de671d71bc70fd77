"""How long it takes to find what belongs together: our channel graph against torch-pruning's.

``build_channel_graph`` (tracing and propagation) and ``DependencyGraph().build_dependency`` on one
network and the same images, in turn, in one process on one thread; medians of ``--repeats``, in
seconds of the processor. Where torch-pruning fails, the row says how. It needs ``pip install
torch-pruning``, which dirprune does not.

The two do not do the same: torch-pruning follows the gradients of one forward pass and collects a
group when asked for it (``get_all_groups``, timed too), ours reads a traced program, in which it
sees functional calls, views and constants, and knows every unit of every site when it is built.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from common import write_result
from torch import Tensor, nn
from zoo import build, usual_size

from dirprune.model.graph import build_channel_graph

NETWORKS = (
    "resnet18", "resnet50", "resnet152", "vgg16_bn", "mobilenet_v2", "mobilenet_v3_large",
    "densenet121", "efficientnet_b0", "regnet_y_400mf", "resnext50_32x4d", "googlenet",
    "convnext_tiny", "vit_b_16", "swin_t",
)  # fmt: skip


def ours(network: nn.Module, images: Tensor) -> int:
    return len(build_channel_graph(network, (images,)).sites)


def theirs(network: nn.Module, images: Tensor) -> Any:
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_pruning.DependencyGraph().build_dependency(
            network, example_inputs=images, verbose=False
        )


def theirs_with_groups(network: nn.Module, images: Tensor) -> int:
    return len(list(theirs(network, images).get_all_groups()))


def seconds(run: Callable[[nn.Module, Tensor], Any], network: nn.Module, images: Tensor) -> float:
    started = time.process_time()
    run(network, images)
    return time.process_time() - started


def measure(name: str, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    size = usual_size(name)
    network = build(name, size, num_classes=1000)
    images = torch.randn(2, 3, size, size)
    row: dict[str, Any] = {"network": name, "sites": ours(network, images)}
    runs: dict[str, Callable[[nn.Module, Tensor], Any]] = {"dirprune": ours}
    try:
        row["groups"] = theirs_with_groups(network, images)
        runs |= {"torch-pruning": theirs, "torch-pruning with groups": theirs_with_groups}
    except Exception as error:
        row["torch-pruning fails"] = f"{type(error).__name__}: {error}"[:200]
    times: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(repeats):
        for who, run in runs.items():
            times[who].append(seconds(run, network, images))
    for who, found in times.items():
        row[who] = {
            "median": round(statistics.median(found), 3),
            "least": round(min(found), 3),
            "most": round(max(found), 3),
        }
    return row


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.networks:
        rows.append(measure(name, options.repeats))
        print(rows[-1], flush=True)
        write_result(
            "graph",
            {"torch-pruning": version("torch-pruning"), "rows": rows},
            show=False,
        )
