"""A two-layer linear network with Gaussian noise: the layers' switches trade off."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ...model.priors import Symmetric
from ...model.switched import SwitchedNetwork
from .problem import Problem, frozen
from .references import Floats, GridReference, Switches

FIRST = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
SECOND = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5]])
OUTPUT = np.array([[1.0, 1.0]])
TRUE = {"0": (0.5, 0.3, 0.2), "1": (0.6, 0.4)}
NOISE, NUMBER, ALPHA = 0.7, 24, 2


def linear_gaussian(seed: int = 0) -> Problem:
    r"""A linear network 2 - 3 - 2 - 1 with noise of known size, and its posterior by quadrature.

    .. math::
        y_i &\sim \text{Normal}\big(W_3\, \text{diag}(2 s_2)\, W_2\, \text{diag}(3 s_1)\, W_1 x_i,
        \; 0.7\big), \quad i = 1..24 \\
        s_1 &\sim \text{Dirichlet}(2, 2, 2), \quad s_2 \sim \text{Dirichlet}(2, 2)

    The data know the two slopes, products of gains of both layers, and not the three dimensions
    behind them: a unit of the first layer is large where its reader is small. The posterior
    correlation of the first units' switches is -0.65, which a guide that takes the
    layers for independent cannot hold.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((NUMBER, 2))
    true = {site: np.array([s]) for site, s in TRUE.items()}
    y = (x * slopes(true)).sum(1) + NOISE * rng.standard_normal(NUMBER)
    network = nn.Sequential(
        nn.Linear(2, 3, bias=False), nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False)
    )
    with torch.no_grad():
        for layer, weight in zip(network, (FIRST, SECOND, OUTPUT), strict=True):
            layer.weight.copy_(torch.from_numpy(weight))  # type: ignore[operator]
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)[:, None]
    model = SwitchedNetwork(
        frozen(network),
        inputs[:2],
        num_data=NUMBER,
        prior=Symmetric(ALPHA),
        likelihood=known_noise,
    )
    sizes = {name: site.size for name, site in model.sites.items()}
    best = np.linalg.lstsq(x, y, rcond=None)[0]

    def log_likelihood(switches: Switches) -> Floats:
        return _log_likelihood(slopes(switches), x, y)

    # Least squares over all slopes: none that switches can make fits better.
    bound = float(_log_likelihood(best[None], x, y)[0])
    reference = GridReference(sizes, ALPHA, log_likelihood, bound)
    return Problem("linear-gaussian", model, [(inputs, targets)], reference)


def known_noise(outputs: Tensor) -> dist.TorchDistribution:
    """y_i ~ Normal(f(x_i), 0.7)."""
    return dist.Normal(outputs, NOISE).to_event(1)


def slopes(switches: Switches) -> Floats:
    """The network as a linear map, [points, 2]: the products of its weights and gains."""
    first, second = 3 * switches["0"], 2 * switches["1"]
    return np.asarray((((OUTPUT * second) @ SECOND) * first) @ FIRST)


def _log_likelihood(slope: Floats, x: Floats, y: Floats) -> Floats:
    """[points], from the sums of squares and products."""
    rss = y @ y - 2 * slope @ (x.T @ y) + np.einsum("ni,ij,nj->n", slope, x.T @ x, slope)
    constant = -len(y) * (np.log(NOISE) + 0.5 * np.log(2 * np.pi))
    return np.asarray(constant - 0.5 * rss / NOISE**2)
