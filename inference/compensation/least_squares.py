"""Weights that reproduce what a layer computed before its inputs were pruned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ...model.errors import DirpruneError
from ...model.graph.propagation import layer_of
from ..loop import move_batch
from .equations import Correction
from .paired import PairedLayers
from .rows import as_weight, features_of, holder, out_axis
from .task import Report, Task

LARGEST = 8192  # features of a layer: a matrix of their squares in float64 takes 0.5 GB


@torch.no_grad()
def least_squares(
    task: Task,
    network: nn.Module,
    *,
    images: int = 2000,
    positions: int = 10,
    ridge: float = 1e-3,
    seed: int = 0,
) -> Report:
    r"""Reconstruct what the consumers of pruned sites computed in the original network.

    In the order of the graph, each convolution and linear layer that lost inputs gets the weights

    .. math:: \min_W \sum_n \|y_n - W x_n\|^2 + \lambda \|W - W_0\|^2

    where y_n is the *original* network's output of the layer, at a sampled position of a training
    image, x_n what the layer reads there in the *pruned* network, with all layers before it
    reconstructed already, and W_0 its present weight; a bias is fitted too where there is one. A
    batch norm that follows is not looked at (``recalibrate`` after it), and of a residual stream
    the branch's own outputs are matched.

    Layers that read no pruned site, and grouped convolutions, through which units pass one by one,
    have all their inputs and are left as they are.

    Args:
        task: with a loader of training images.
        network: changed in place.
        images: how many training images to reconstruct on, at the most.
        positions: of each image's outputs in a layer, drawn at random; all, where there are fewer.
        ridge: lambda over the mean square of an input, summed over the rows.
        seed: of images and positions.

    Returns:
        For each layer, the mean squared error over the variance of the wanted outputs, "before" and
        "after"; and which layers have no convolution or linear module that could be changed.

    References:
        Yihui He, Xiangyu Zhang, Jian Sun, "Channel Pruning for Accelerating Very Deep Neural
        Networks", 2017, arXiv 1707.06168. Jian-Hao Luo, Jianxin Wu, Weiyao Lin, "ThiNet", 2017,
        arXiv 1707.06342 (which reconstructs from the original's inputs).
    """
    figures: dict[str, dict[str, float]] = {}
    left_alone: dict[str, str] = {}
    for weight in _incomplete(task):
        reason, found = None, None
        name = holder(network, weight)
        if name is None:
            reason = f"{weight} is not the weight of one convolution or linear module"
        else:
            layer: Any = network.get_submodule(name)
            if features_of(layer) > LARGEST:
                reason = f"it has {features_of(layer):,} inputs, more than {LARGEST:,}"
            else:
                found = _reconstruct(task, network, name, images, positions, ridge, seed)
                if found is None:
                    reason = f"the network uses {weight} without calling its module"
        if found is None:
            left_alone[layer_of(weight)] = reason or ""
            continue
        layer.weight.add_(as_weight(layer, found.weight).to(layer.weight.dtype))
        if found.bias is not None:
            layer.bias.add_(found.bias.to(layer.bias.dtype))
        figures[layer_of(weight)] = {"before": found.before, "after": found.after}
    return Report(figures, left_alone)


def _incomplete(task: Task) -> list[str]:
    """The weights that lost columns, in the order of the graph."""
    keep = task.keep
    order = {node: i for i, node in enumerate(task.model.graph.module.graph.nodes)}
    readers = sorted(task.model.graph.consumers, key=lambda c: order[c.node])
    return list(dict.fromkeys(c.weight for c in readers if not bool(keep[c.units].all())))


def _reconstruct(
    task: Task, network: nn.Module, name: str, images: int, positions: int, ridge: float, seed: int
) -> Correction | None:
    """The correction of a layer; None where the network never calls the module."""
    layer: Any = network.get_submodule(name)
    units = task.model.graph.axes.get((f"{name}.weight", out_axis(layer)))
    rows = {} if units is None else {name: task.keep[units].nonzero()[:, 0]}
    pair = PairedLayers(
        f"compensation {task.name!r}", task.model, network, [name], rows=rows,
        positions=positions, seed=seed,
    )  # fmt: skip
    device = layer.weight.device
    with task.seeded(seed, device) as loader:
        equations = pair.run(_first(loader, images, device))[name]
    return equations.solve(ridge) if equations.count else None


def _first(loader: Any, number: int, device: torch.device) -> Iterator[Any]:
    """The inputs of batches, up to so many examples."""
    seen = 0
    for batch in loader:
        inputs, targets = move_batch(batch, device)
        left = number - seen
        if left <= 0:
            return
        if len(targets) > left:
            inputs = tree_map(lambda x, n=left: x[:n] if isinstance(x, Tensor) else x, inputs)
        seen += len(targets)
        yield inputs
    if not seen:
        raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")
