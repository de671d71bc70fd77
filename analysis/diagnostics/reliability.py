"""Can the predicted probabilities be taken at their word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from ...model.errors import DirpruneError
from .elpd import held_out_group
from .findings import Finding, Floats, finding

BINS, PER_BIN = 10, 10  # at most so many bins, of at least so many images
RESAMPLED = 2000


def reliability(tree: xr.DataTree) -> Finding:
    r"""The calibration error of the predicted class, and how likely it is for calibrated ones.

    .. math:: ECE = \sum_b \frac{n_b}{n} \, | \text{accuracy}_b - \text{confidence}_b |

    over bins b of equally many images, sorted by confidence (the largest posterior predictive
    probability). It is above 0 for calibrated predictions too, so it is compared with its
    distribution when every image is right with the probability of its confidence: p is the share of
    2,000 such outcomes whose ECE is as large. It looks at the predicted class alone: calibrated
    there, the other classes may be wrong. A small temperature widens the posterior and lowers
    confidence. Beside it the trained network itself, at gains of 1.

    Raises:
        DirpruneError: no classes, no held-out images, or fewer than 20 of them.
    """
    found = {name: calibration(p, t) for name, (p, t) in predictions(tree).items()}
    c = found["posterior"]
    value: dict[str, Any] = {
        "ece": c.ece,
        "p": c.p,
        "confidence": c.mean_confidence,
        "accuracy": c.mean_accuracy,
        "images": c.images,
    }
    low, high = (100 * q for q in np.quantile(c.resampled_ece, (0.05, 0.95)))
    text = (
        f"Predicted probabilities are {c.verdict}, as far as {c.images:,} validation images can "
        f"tell: mean confidence {100 * c.mean_confidence:.1f} %, accuracy "
        f"{100 * c.mean_accuracy:.1f} %; the "
        f"calibration error is {100 * c.ece:.1f} % where calibrated predictions give {low:.1f} to "
        f"{high:.1f} % ({_said(c.p)})."
    )
    if "network" in found:
        own = found["network"]
        value["network"] = {"ece": own.ece, "p": own.p, "confidence": own.mean_confidence}
        text += (
            f" The trained network itself is {own.verdict}: {100 * own.ece:.1f} %, {_said(own.p)}."
        )
    return finding("reliability", value, text, c.p >= 0.05)


def _said(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def predictions(tree: xr.DataTree) -> dict[str, tuple[Floats, np.ndarray[Any, Any]]]:
    """Predicted probabilities [n, C] and targets [n] of the posterior, and of the network.

    Raises:
        DirpruneError: the likelihood predicts no classes, or nothing was held out.
    """
    validation = held_out_group(tree)
    if "probabilities" not in validation:
        raise DirpruneError("the likelihood is not categorical: it predicts no classes")
    targets = validation["targets"].values.astype(int)
    found = {"posterior": (validation["probabilities"].values, targets)}
    if "network_probabilities" in validation:
        found["network"] = (validation["network_probabilities"].values, targets)
    return found


@dataclass(frozen=True)
class Calibration:
    """Confidence against accuracy in bins of equally many images, least confident first.

    Attributes:
        sizes, confidence, accuracy: [bins], images and means.
        resampled_accuracy: [R, bins], the accuracies if every image were right with the
            probability of its confidence.
    """

    sizes: Floats
    confidence: Floats
    accuracy: Floats
    resampled_accuracy: Floats

    @property
    def images(self) -> int:
        return int(self.sizes.sum())

    @property
    def mean_confidence(self) -> float:
        return float(self.sizes @ self.confidence / self.images)

    @property
    def mean_accuracy(self) -> float:
        return float(self.sizes @ self.accuracy / self.images)

    def _ece(self, accuracy: Floats) -> Floats:
        error: Floats = np.abs(accuracy - self.confidence) @ self.sizes / self.images
        return error

    @property
    def ece(self) -> float:
        """The expected calibration error."""
        return float(self._ece(self.accuracy))

    @property
    def resampled_ece(self) -> Floats:
        """[R], that of calibrated predictions."""
        return self._ece(self.resampled_accuracy)

    @property
    def p(self) -> float:
        """P(ECE at least as large | calibrated); the observed one counts as one of them."""
        worse = int((self.resampled_ece >= self.ece - 1e-12).sum())
        return (1 + worse) / (1 + len(self.resampled_ece))

    @property
    def verdict(self) -> str:
        if self.p >= 0.05:
            return "reliable"
        gap = self.mean_confidence - self.mean_accuracy
        chance = (self.resampled_accuracy @ self.sizes / self.images).std()
        if abs(gap) < 2 * chance:
            return "off in both directions"
        return "over-confident" if gap > 0 else "under-confident"


def calibration(
    probabilities: Floats, targets: np.ndarray[Any, Any], *, seed: int = 0
) -> Calibration:
    """How often the most probable class is right, in bins, and how often it would be if calibrated.

    Args:
        probabilities: [n, C].
        targets: [n] of class indices.
        seed: of the resampled outcomes.

    Raises:
        DirpruneError: fewer than 20 images.
    """
    n = len(targets)
    if n < 2 * PER_BIN:
        raise DirpruneError(f"expected at least {2 * PER_BIN} validation images, got {n}")
    confidence = probabilities.max(1)
    order = np.argsort(confidence, kind="stable")
    right = (probabilities.argmax(1) == targets)[order].astype(float)
    confidence = np.minimum(confidence[order], 1.0)
    bins = min(BINS, n // PER_BIN)
    starts = np.linspace(0, n, bins + 1).round().astype(int)[:-1]
    sizes = np.diff(np.append(starts, n)).astype(float)
    rng = np.random.default_rng(seed)
    resampled = np.stack(
        [
            np.add.reduceat((rng.random(n) < confidence).astype(float), starts) / sizes
            for _ in range(RESAMPLED)
        ]
    )
    return Calibration(
        sizes,
        np.add.reduceat(confidence, starts) / sizes,
        np.add.reduceat(right, starts) / sizes,
        resampled,
    )
