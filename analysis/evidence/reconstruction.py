"""What a unit's removal costs when the layers that read it may make up for it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from math import inf, nextafter
from typing import Any

import torch
from torch import Tensor, nn

from ...inference.compensation.least_squares import LARGEST
from ...inference.compensation.rows import (
    Layer,
    as_rows,
    channel_axis,
    features_of,
    holder,
    input_rows,
    sample_positions,
)
from ...inference.evaluate import eval_mode
from ...inference.loop import seed_of
from ...model.errors import DirpruneError
from ...model.graph.propagation import layer_of
from ...model.switched import SwitchedNetwork
from .elimination import Elimination, Regression
from .material import Material
from .scores import Evidence, Passes, Scores
from .switches import grid, take, usual_batch

RECONSTRUCTION_IMAGES, POSITIONS, RIDGE = 1024, 10, 1e-3


def reconstruction(
    material: Material,
    *,
    images: int = RECONSTRUCTION_IMAGES,
    positions: int = POSITIONS,
    ridge: float = RIDGE,
    seed: int = 0,
) -> Evidence:
    r"""Keep the units that the others cannot replace: the loss that least squares cannot undo.

    Units of a site go one after the other, each time the one whose removal costs least after the
    layers that read the site got the weights that make up for it best
    (:class:`~.elimination.Elimination`); the score is the rise, in nats, at its turn of

    .. math:: \tfrac12 \sum_o f_o\, E\left[(y_o - \hat y_o)^2\right], \quad
        f_o = E_i \Big[\sum_p (\partial \ell_i / \partial y_{iop})^2\Big]

    with y the outputs o at positions p of these layers, :math:`\hat y` their best
    reconstruction from what is left, and the empirical Fisher information for the curvature of the
    loss. (With a Kronecker-factored Laplace approximation of the posterior of a layer's weights, it
    is what the log density falls by where the unit's weights are zero, for each example.) It is the
    criterion that goes with the compensation "least-squares", whose result in each layer it
    foresees. Each site is taken alone, the others whole; a rise below that of the unit before is
    raised to it, so that the scores keep the order of removal. One forward and backward pass of
    every image, and the inverse of a matrix of each layer's inputs.

    Args:
        material: a model and a loader.
        images: training images.
        positions: of each image's outputs in a layer, drawn at random.
        ridge: added to the diagonal of the inputs' second moments, relative to its mean.
        seed: of the positions.

    Raises:
        DirpruneError: a site that is read by anything but modules of one convolution or linear
            layer, of at most 8,192 inputs.
    """
    model = material.model
    layers = _layers(model, material.criterion)
    inputs, targets = material.images(images)
    moments = _Moments(model, layers, positions, seed)
    moments.run(inputs, targets)
    found = {}
    for site, start in model.graph.offsets.items():
        size, readers = model.sites[site].size, []
        for name, units in ((name, units) for name, kinds in layers.items() for units in kinds):
            own = torch.where((units >= start) & (units < start + size), units - start, -1)
            if bool((own >= 0).any()):
                readers.append(moments.regression(name, own, ridge))
        order, paid = Elimination(size, readers).order()
        scores, last = torch.empty(size, dtype=torch.float64), 0.0
        for unit, cost in zip(order.tolist(), paid.tolist(), strict=True):
            last = max(cost, nextafter(last, inf))
            scores[unit] = last
        found[site] = Scores(scores, unit="nats")
    return Evidence(found, Passes(len(targets), len(targets)))


def _layers(model: SwitchedNetwork, criterion: str) -> dict[str, list[Tensor]]:
    """Module that reads units -> the unit number of each of its input features, -1 for none.

    Twice where they are of two kinds, the channels of a flattened map and their features.
    """
    layers: dict[str, list[Tensor]] = {}
    flattened = {flat.weight for flat in model.graph.flattened}
    refused = {layer_of(p.node.name): "it is a product" for p in model.graph.products}
    for consumer in model.graph.consumers:
        name = holder(model.network, consumer.weight)
        if name is None:
            refused[layer_of(consumer.weight)] = "it is not one convolution or linear module"
            continue
        layer: Any = model.network.get_submodule(name)
        if features_of(layer) > LARGEST:
            refused[name] = f"it has {features_of(layer):,} inputs, more than {LARGEST:,}"
            continue
        units = consumer.units.repeat_interleave(features_of(layer) // len(consumer.units))
        kinds = layers.setdefault(name, [])
        if any(torch.equal(known, units) for known in kinds):
            continue
        if kinds and consumer.weight not in flattened:
            refused[name] = "it reads different units in different calls"
        kinds.append(units)
    if refused:
        reasons = "; ".join(f"{layer}: {why}" for layer, why in refused.items())
        raise DirpruneError(
            f"evidence {criterion!r} needs sites that are read by modules of one convolution or "
            f"linear layer alone ({reasons}): leave such sites out by exclude, or take another "
            "criterion"
        )
    return layers


class _Moments:
    """What each layer reads, its second moments, and the curvature of the loss in its outputs."""

    def __init__(
        self, model: SwitchedNetwork, layers: Collection[str], positions: int, seed: int
    ) -> None:
        self._model, self._positions = model, positions
        self._modules: dict[str, Layer] = {
            name: model.network.get_submodule(name)  # type: ignore[misc]
            for name in layers
        }
        self._generator = torch.Generator().manual_seed(seed_of([seed]))
        self._outputs: list[tuple[str, Tensor]] = []
        self._rows = dict.fromkeys(layers, 0)
        self._examples = 0

        def zeros(name: str, *shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=model.device)

        sizes = {name: features_of(layer) for name, layer in self._modules.items()}
        self._xx = {name: zeros(name, n, n) for name, n in sizes.items()}
        self._x = {name: zeros(name, n) for name, n in sizes.items()}
        self._slopes: dict[str, Tensor] = {}

    def run(self, inputs: Any, targets: Tensor) -> None:
        model = self._model
        with ExitStack() as stack:
            stack.enter_context(eval_mode(model.network))
            for name, module in self._modules.items():
                handle = module.register_forward_hook(
                    lambda module, args, kwargs, out, name=name: self._see(
                        name, module, args[0] if args else kwargs["input"], out
                    ),
                    with_kwargs=True,
                )
                stack.callback(handle.remove)
            for rows in grid(1, len(targets), usual_batch(inputs), "reconstruction"):
                index = rows.to(model.device)
                self._batch(take(inputs, index), targets[index])

    def _batch(self, inputs: Any, targets: Tensor) -> None:
        model = self._model
        self._outputs.clear()
        with torch.enable_grad():
            args, kwargs = model.arguments(inputs)
            outputs = model.picked(model.network(*args, **kwargs))
            log_prob = model.likelihood(outputs).log_prob(targets).sum()
            slopes = torch.autograd.grad(log_prob, [out for _, out in self._outputs])
        for (name, _), slope in zip(self._outputs, slopes, strict=True):
            found = slope.double().movedim(channel_axis(self._modules[name]), -1)
            squares = found.flatten(0, -2).square().sum(0)
            self._slopes[name] = self._slopes.get(name, 0) + squares
        self._outputs.clear()
        self._examples += len(targets)

    @torch.no_grad()
    def _see(self, name: str, module: nn.Module, x: Tensor, out: Tensor) -> Tensor:
        layer = self._modules[name]
        where = sample_positions(layer, out, self._positions, self._generator)
        read = input_rows(layer, x.detach(), out, where).double()
        self._xx[name].addmm_(read.T, read)
        self._x[name] += read.sum(0)
        self._rows[name] += len(read)
        with torch.enable_grad():
            if not out.requires_grad:  # a frozen network
                out.requires_grad_()
            self._outputs.append((name, out))
            return out.clone()  # which an activation may change in place

    def regression(self, name: str, units: Tensor, ridge: float) -> Regression:
        layer, rows = self._modules[name], max(1, self._rows[name])
        second = self._xx[name] / rows
        if layer.bias is not None:
            mean = self._x[name] / rows
            second = second - mean[:, None] * mean
        # A layer that reads zeros alone has no scale; any number will do.
        penalty = ridge * (float(second.diagonal().mean()) or 1.0)
        second = second + penalty * torch.eye(len(second), device=second.device)
        return Regression(
            units, second.cpu(), as_rows(layer).double().cpu(),
            (self._slopes[name] / self._examples).cpu(),
        )  # fmt: skip
