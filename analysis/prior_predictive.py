"""What a prior believes before data: how many units matter, and how well its networks predict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..inference.fingerprint import readable
from ..inference.loop import Loader
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .evidence.switches import fixed_images, prior_draws
from .held_out import predict

MASS = 0.95
DRAWS, IMAGES = 200, 500


@dataclass(frozen=True)
class Spread:
    """A quantity over the draws: its mean, and its 5 % and 95 % quantiles."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: NDArray[Any]) -> Spread:
        # Quantiles that are draws: a number of units lies between no two whole numbers.
        low, high = np.quantile(draws, [0.05, 0.95], method="inverted_cdf")
        return cls(float(draws.mean()), float(low), float(high))


@dataclass(frozen=True)
class HeldOut:
    r"""How the prior predicts n images that the network was not trained on.

    Attributes:
        images: n.
        accuracies: per draw, in percent of the images; None where the likelihood is of no classes.
        mixture: accuracy of :math:`\frac{1}{S} \sum_s p(c | x_i, s)`, in percent, or None.
        network: accuracy of the network itself (gains of 1), in percent, or None.
        log_density: :math:`\frac{1}{n} \sum_i \log \frac{1}{S} \sum_s p(y_i | x_i, s)`, in nats an
            image.
        log_density_error: its standard error, over the choice of images alone.
        network_log_density: the same of the network itself.
    """

    images: int
    accuracies: NDArray[np.float64] | None
    mixture: float | None
    network: float | None
    log_density: float
    log_density_error: float
    network_log_density: float

    @property
    def accuracy(self) -> Spread | None:
        """The accuracy of a draw."""
        return None if self.accuracies is None else Spread.of(self.accuracies)


@dataclass(frozen=True)
class PriorPredictive:
    """What :func:`prior_predictive` found.

    Attributes:
        prior: the prior, in its own words.
        sizes: site -> K.
        counts: site -> units with 95 % of the mass, for each draw.
        held_out: predictions, where a loader was given.
    """

    prior: str
    sizes: dict[str, int]
    counts: dict[str, NDArray[np.int64]]
    held_out: HeldOut | None

    @property
    def units(self) -> dict[str, Spread]:
        """Site -> units with 95 % of the mass."""
        return {site: Spread.of(count) for site, count in self.counts.items()}

    @property
    def uniform(self) -> dict[str, int]:
        """The same under the uniform switch, the trained network: .95 K, rounded up."""
        return {site: -(-19 * size // 20) for site, size in self.sizes.items()}

    def to_dict(self) -> dict[str, Any]:
        """The summaries, for JSON."""
        held_out: dict[str, Any] | None = None
        if self.held_out is not None:
            spread = self.held_out.accuracy
            held_out = asdict(self.held_out)
            held_out["accuracy"] = None if spread is None else asdict(spread)
            del held_out["accuracies"]
        return {
            "prior": self.prior,
            "draws": len(next(iter(self.counts.values()))),
            "sites": [
                {
                    "name": site,
                    "units": self.sizes[site],
                    "units_with_mass": asdict(spread),
                    "uniform": self.uniform[site],
                }
                for site, spread in self.units.items()
            ],
            "held_out": held_out,
        }


def prior_predictive(
    model: SwitchedNetwork,
    loader: Loader | None = None,
    *,
    draws: int = DRAWS,
    images: int = IMAGES,
    seed: int = 0,
) -> PriorPredictive:
    """Draw switches from the model's prior, and see what they make of the network.

    The number of units with 95 % of the mass is the least number of a site's units whose switches
    sum to at least .95. The uniform switch, which is the trained network, needs .95 K of them.

    A prior under which most draws predict at chance says that the trained network is unlikely; the
    likelihood then has to win against it, at a low temperature all the more.

    Args:
        model: the switched network, with the prior in question.
        loader: held-out images, for the predictions; without, only the units are counted.
        draws: S, from the prior.
        images: at most so many images, the first ones of the loader under a fixed seed.
        seed: of the draws and of the choice of images.

    Raises:
        DirpruneError: fewer than two draws or images asked for, or an empty loader.

    Source: Andrew Gelman, Daniel Simpson, Michael Betancourt, "The prior can often only be
    understood in the context of the likelihood", 2017, arXiv 1708.07487.
    """
    for name, value in (("draws", draws), ("images", images)):
        if value < 2:
            raise DirpruneError(f"{name}: expected at least 2, got {value}")
    drawn = prior_draws(model, draws, seed)
    switches = {site: drawn[site] for site in model.sites}
    return PriorPredictive(
        prior=readable(model.prior),
        sizes={name: site.size for name, site in model.sites.items()},
        counts={site: units_with_mass(s).numpy() for site, s in switches.items()},
        held_out=None
        if loader is None
        else _held_out(model, switches, *fixed_images(model, loader, images, seed)),
    )


def units_with_mass(switches: Tensor, mass: float = MASS) -> Tensor:
    """The least number of units whose switches sum to at least ``mass``: [S, K] -> [S].

    >>> units_with_mass(Tensor([[0.2, 0.5, 0.3], [0.0, 0.02, 0.98]])).tolist()
    [3, 1]
    """
    largest_first = switches.sort(-1, descending=True).values.cumsum(-1)
    # All units are enough, also where their sum is rounded.
    return ((largest_first < mass).sum(-1) + 1).clamp(max=switches.shape[-1])


def _held_out(
    model: SwitchedNetwork, switches: Mapping[str, Tensor], inputs: Any, targets: Tensor
) -> HeldOut:
    label = "prior predictive"
    prior = predict(model, model.gains(switches), inputs, targets, label=label)
    own = predict(model, model.unit_gains(), inputs, targets, label=label)
    each = prior.log_likelihood.logsumexp(0) - math.log(len(prior.log_likelihood))
    return HeldOut(
        images=len(targets),
        accuracies=None if prior.right is None else 100 * prior.right.mean(1).numpy(),
        mixture=_accuracy(prior.probabilities, targets),
        network=_accuracy(own.probabilities, targets),
        log_density=float(each.mean()),
        log_density_error=float(each.std()) / math.sqrt(len(each)),
        network_log_density=float(own.log_likelihood.mean()),
    )


def _accuracy(probabilities: Tensor | None, targets: Tensor) -> float | None:
    """In percent; None without classes."""
    if probabilities is None:
        return None
    return 100 * float((probabilities.argmax(1) == targets.cpu()).double().mean())
