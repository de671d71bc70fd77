"""What a unit's removal costs when the layers that read it may make up for it."""

from __future__ import annotations

from collections.abc import Collection
from math import inf, nextafter

import torch
from torch import Tensor

from ...inference.compensation.rows import (
    Layer,
    as_rows,
    features_of,
    input_rows,
    sample_positions,
)
from ...inference.loop import seed_of
from ...model.switched import SwitchedNetwork
from .curvature import curvature
from .elimination import Elimination, Regression
from .material import Material
from .readers import reading_layers
from .scores import Evidence, Passes, Scores

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
    what = f"evidence {material.criterion!r}"
    layers = reading_layers(model, what)
    inputs, targets = material.images(images)
    moments = _Moments(model, layers, positions, seed)
    slopes = curvature(model, layers, inputs, targets, what, moments.see)
    found = {}
    for site, start in model.graph.offsets.items():
        size, readers = model.sites[site].size, []
        for name, units in ((name, units) for name, kinds in layers.items() for units in kinds):
            own = torch.where((units >= start) & (units < start + size), units - start, -1)
            if bool((own >= 0).any()):
                readers.append(moments.regression(name, own, slopes[name], ridge))
        order, paid = Elimination(size, readers).order()
        scores, last = torch.empty(size, dtype=torch.float64), 0.0
        for unit, cost in zip(order.tolist(), paid.tolist(), strict=True):
            last = max(cost, nextafter(last, inf))
            scores[unit] = last
        found[site] = Scores(scores, unit="nats")
    return Evidence(found, Passes(len(targets), len(targets)))


class _Moments:
    """What each layer reads, and its second moments."""

    def __init__(
        self, model: SwitchedNetwork, layers: Collection[str], positions: int, seed: int
    ) -> None:
        self._positions = positions
        self._modules: dict[str, Layer] = {
            name: model.network.get_submodule(name)  # type: ignore[misc]
            for name in layers
        }
        self._generator = torch.Generator().manual_seed(seed_of([seed]))
        self._rows = dict.fromkeys(layers, 0)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=model.device)

        sizes = {name: features_of(layer) for name, layer in self._modules.items()}
        self._xx = {name: zeros(n, n) for name, n in sizes.items()}
        self._x = {name: zeros(n) for name, n in sizes.items()}

    def see(self, name: str, x: Tensor, out: Tensor) -> None:
        """A call of a layer."""
        layer = self._modules[name]
        where = sample_positions(layer, out, self._positions, self._generator)
        read = input_rows(layer, x, out, where).double()
        self._xx[name].addmm_(read.T, read)
        self._x[name] += read.sum(0)
        self._rows[name] += len(read)

    def regression(self, name: str, units: Tensor, slopes: Tensor, ridge: float) -> Regression:
        layer, rows = self._modules[name], max(1, self._rows[name])
        second = self._xx[name] / rows
        if layer.bias is not None:
            mean = self._x[name] / rows
            second = second - mean[:, None] * mean
        return Regression(
            units, ridged(second, ridge).cpu(), as_rows(layer).double().cpu(), slopes.cpu()
        )


def ridged(second: Tensor, ridge: float) -> Tensor:
    """Second moments with the penalty of their mean diagonal on the diagonal."""
    # A layer that reads zeros alone has no scale; any number will do.
    penalty = ridge * (float(second.diagonal().mean()) or 1.0)
    return second + penalty * torch.eye(len(second), dtype=second.dtype, device=second.device)
