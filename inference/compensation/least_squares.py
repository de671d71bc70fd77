"""Weights that reproduce what a layer computed before its inputs were pruned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ...model.errors import DirpruneError
from ...model.graph.propagation import layer_of
from ..evaluate import eval_mode
from ..loop import call, move_batch
from .equations import Correction, NormalEquations
from .rows import (
    Layer,
    as_weight,
    features_of,
    holder,
    input_rows,
    out_axis,
    output_rows,
    sample_positions,
)
from .task import Report, Task

LARGEST = 8192  # features of a layer: a matrix of their squares in float64 takes 0.5 GB
CHUNK = 2**22  # numbers in the rows that are summed up at a time


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
                found = _Reconstruction(task, network, name, positions, seed).run(images, ridge)
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


class _Done(BaseException):
    """A forward pass has come to its last call of the layer: what follows need not be computed."""


class _Reconstruction:
    """One layer: runs both networks on the images, and sums up what they read and compute."""

    def __init__(
        self, task: Task, network: nn.Module, name: str, positions: int, seed: int
    ) -> None:
        self.task, self.networks, self.name = task, (task.model.network, network), name
        self.layer: Layer = network.get_submodule(name)  # type: ignore[assignment]
        self.positions, self.seed = positions, seed
        self.generator = torch.Generator().manual_seed(seed)
        axis, graph = out_axis(self.layer), task.model.graph
        units = graph.axes.get((f"{name}.weight", axis))
        self.rows = slice(None) if units is None else task.keep[units].nonzero()[:, 0]
        outputs = self.layer.weight.shape[axis]
        self.equations = NormalEquations(
            features_of(self.layer),
            outputs,
            intercept=self.layer.bias is not None,
            device=self.layer.weight.device,
        )
        # The original's outputs at sampled positions, one entry for each call in a forward pass.
        self.wanted: list[tuple[Tensor, Tensor]] = []
        self.calls, self.seen = 0, 0  # in a forward pass, 0 before the first; so far in this one

    def run(self, images: int, ridge: float) -> Correction | None:
        """The correction; None where the network never calls the module."""
        with ExitStack() as stack:
            for network, hook in zip(self.networks, (self._see_original, self._see), strict=True):
                stack.enter_context(eval_mode(network))
                handle = network.get_submodule(self.name).register_forward_hook(
                    hook, with_kwargs=True
                )
                stack.callback(handle.remove)
            loader = stack.enter_context(self.task.seeded(self.seed, self.layer.weight.device))
            for inputs in _first(loader, images, self.layer.weight.device):
                for network in self.networks:
                    self.seen = 0
                    with suppress(_Done):
                        call(network, inputs)
                if self.wanted:
                    raise DirpruneError(
                        f"compensation {self.task.name!r}: the original network calls "
                        f"{self.name!r} more often than the pruned one"
                    )
                self.calls = self.seen
        return self.equations.solve(ridge) if self.equations.count else None

    def _see_original(self, layer: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
        where = sample_positions(layer, out, self.positions, self.generator)
        self.wanted.append((where, output_rows(layer, out, where)))
        self._count()

    def _see(self, layer: nn.Module, args: Any, kwargs: Any, out: Tensor) -> None:
        if not self.wanted:  # called in the pruned network alone: nothing to compare with
            return
        where, wanted = self.wanted.pop(0)
        x = args[0] if args else kwargs["input"]
        step = max(1, CHUNK // (features_of(self.layer) * where.shape[1]))
        wanted = wanted[:, self.rows].unflatten(0, where.shape)
        for part in (slice(i, i + step) for i in range(0, len(where), step)):
            target = wanted[part].flatten(0, 1)
            now = output_rows(layer, out[part], where[part])
            inputs = input_rows(self.layer, x[part], out[part], where[part])
            self.equations.add(inputs, target - now, target)
        self._count()

    def _count(self) -> None:
        self.seen += 1
        if self.seen == self.calls:
            raise _Done


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
