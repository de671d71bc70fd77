"""What a unit's removal costs when the layers that read it may make up for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf, nextafter

import torch
from torch import Tensor
from torch.distributions import Dirichlet
from tqdm import tqdm

from ...inference.compensation.rows import (
    Layer,
    as_rows,
    features_of,
    input_rows,
    sample_positions,
)
from ...inference.loop import seed_of
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from .curvature import curvature
from .elimination import Elimination, Regression
from .material import Material
from .readers import of_site, reading_layers
from .scores import Evidence, Passes, Scores

RECONSTRUCTION_IMAGES, POSITIONS, RIDGE = 1024, 10, 1e-3


def reconstruction(
    material: Material,
    *,
    images: int = RECONSTRUCTION_IMAGES,
    positions: int = POSITIONS,
    ridge: float = RIDGE,
    seed: int = 0,
    draws: int = 0,
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
    raised to it, so that the scores keep the order of removal; a unit that is zero on all images
    scores zero. One forward and backward pass of
    every image, and the inverse of a matrix of each layer's inputs.

    Args:
        material: a model and a loader.
        images: training images.
        positions: of each image's outputs in a layer, drawn at random.
        ridge: added to the diagonal of the inputs' second moments, relative to its mean.
        seed: of the positions and the draws.
        draws: of the scores' posterior under the Bayesian bootstrap, with which a decision has
            inclusion probabilities. Scores are functions of the distribution of images; of that, a
            draw gives the images seen weights from a Dirichlet distribution of concentration one,
            and takes one more pass of each. The network is given: that its weights would be others
            too is not in it.

    Raises:
        DirpruneError: a site that is read by anything but modules of one convolution or linear
            layer, of at most 8,192 inputs; draws that are no whole number of at least 0.

    References:
        Donald Rubin, "The Bayesian Bootstrap", The Annals of Statistics 9 (1), 1981 (no arXiv id).
    """
    if type(draws) is not int or draws < 0:
        raise DirpruneError(f"draws={draws!r}: expected a whole number of at least 0")
    model = material.model
    what = f"evidence {material.criterion!r}"
    layers = reading_layers(model, what)
    inputs, targets = material.images(images)

    def scored(weights: Tensor | None) -> dict[str, Tensor]:
        moments = _Moments(model, layers, positions, seed)
        slopes = curvature(model, layers, inputs, targets, what, moments.see, weights)
        return _scores(model, layers, moments, slopes, ridge)

    scores = scored(None)
    under = [
        scored(weights)
        for weights in tqdm(
            bootstrap_weights(len(targets), draws, seed),
            desc="reconstruction", unit="draw", disable=None if draws else True, leave=False,
        )
    ]  # fmt: skip
    found = {
        site: Scores(s, torch.stack([one[site] for one in under]) if draws else None, unit="nats")
        for site, s in scores.items()
    }
    passes = (1 + draws) * len(targets)
    return Evidence(found, Passes(passes, passes))


def bootstrap_weights(images: int, draws: int, seed: int) -> Tensor:
    """[draws, images], float64: from a Dirichlet distribution of concentration one, times n."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed_of([seed, 1]))
        return images * Dirichlet(torch.ones(images, dtype=torch.float64)).sample([draws])


def _scores(
    model: SwitchedNetwork,
    layers: Mapping[str, list[Tensor]],
    moments: _Moments,
    slopes: Mapping[str, Tensor],
    ridge: float,
) -> dict[str, Tensor]:
    """Site -> [K]."""
    found = {}
    for site in model.sites:
        size, readers = model.sites[site].size, []
        for name, units in ((name, units) for name, kinds in layers.items() for units in kinds):
            own = of_site(model, site, units)
            if bool((own >= 0).any()):
                readers.append(moments.regression(name, own, slopes[name], ridge))
        order, paid = Elimination(size, readers).order()
        scores, last = torch.empty(size, dtype=torch.float64), 0.0
        for unit, cost in zip(order.tolist(), paid.tolist(), strict=True):
            last = max(cost, nextafter(last, inf)) if cost or last else 0.0
            scores[unit] = last
        found[site] = scores
    return found


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
        self._rows = dict.fromkeys(layers, 0.0)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=model.device)

        sizes = {name: features_of(layer) for name, layer in self._modules.items()}
        self._xx = {name: zeros(n, n) for name, n in sizes.items()}
        self._x = {name: zeros(n) for name, n in sizes.items()}

    def see(self, name: str, x: Tensor, out: Tensor, weights: Tensor) -> None:
        """A call of a layer, and the weights of its output's rows."""
        layer = self._modules[name]
        where = sample_positions(layer, out, self._positions, self._generator)
        read = input_rows(layer, x, out, where).double()
        of_rows = weights.repeat_interleave(where.shape[1])
        self._xx[name].addmm_(read.T, read * of_rows[:, None])
        self._x[name] += of_rows @ read
        self._rows[name] += float(of_rows.sum())

    def regression(self, name: str, units: Tensor, slopes: Tensor, ridge: float) -> Regression:
        layer, rows = self._modules[name], self._rows[name] or 1.0
        second = self._xx[name] / rows
        if layer.bias is not None:
            mean = self._x[name] / rows
            second = second - mean[:, None] * mean
        # What is always zero is worth nothing, and the penalty is not to say otherwise.
        weight = as_rows(layer).double() * (second.diagonal() > 0)[:, None]
        return Regression(units, ridged(second, ridge).cpu(), weight.cpu(), slopes.cpu())


def ridged(second: Tensor, ridge: float) -> Tensor:
    """Second moments with the penalty of their mean diagonal on the diagonal."""
    # A layer that reads zeros alone has no scale; any number will do.
    penalty = ridge * (float(second.diagonal().mean()) or 1.0)
    return second + penalty * torch.eye(len(second), dtype=second.dtype, device=second.device)
