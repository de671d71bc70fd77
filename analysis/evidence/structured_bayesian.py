"""Structured Bayesian pruning, and BMRS as its rule without a threshold."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ...guides.distributions import TruncatedLogNormal
from ...model.errors import DirpruneError
from .log_normal_noise import LOG_LOW, Noise, learn_noise
from .material import Material
from .model_reduction import reduced_to_interval, reduced_to_spike
from .scores import Evidence, Scores

# Chosen on 2,000 validation images of one LeNet-5, masked to 50, 40, 30 and 20 % of each layer: on
# average over three seeds 76 % of them are right. After 400 steps it is 70 %, with every SNR above
# 1; step sizes up to .2, some tried on one seed alone, gave less.
STEPS, LR = 800, 0.02
# Above it a unit stays, by the rules of the papers; analysis/threshold.py makes the decision.
SNR_THRESHOLD, BMRS_THRESHOLD = 1.0, 0.0


def structured_bayesian(
    material: Material, *, steps: int = STEPS, lr: float = LR, seed: int = 0
) -> Evidence:
    r"""Keep the units that bear the least noise: SBP's signal-to-noise ratio.

    .. math::
        \text{SNR}_k = E\theta_k / \sqrt{V \theta_k}, \qquad \theta_k \sim
        \text{LogN}_{[e^{-20}, 1]}(\mu_k, \sigma_k^2)

    with the posterior of :func:`~.log_normal_noise.learn_noise`. The paper prunes where SNR < 1,
    after it has learned noise and weights together for many epochs; here the weights are frozen,
    as under all criteria.

    Args:
        material: a model and a loader.
        steps: batches to learn from.
        lr: Adam's first step size, for mu and log sigma.
        seed: of the noise and the order of the images.

    References:
        Kirill Neklyudov, Dmitry Molchanov, Arsenii Ashukha, Dmitry Vetrov, "Structured Bayesian
        Pruning via Log-Normal Multiplicative Noise", 2017, arXiv 1705.07283.
    """
    noise = _learn(material, steps, lr, seed)
    return noise_evidence(noise, lambda q: q.signal_to_noise, "signal-to-noise")


def bmrs(material: Material, *, steps: int = STEPS, lr: float = LR, seed: int = 0) -> Evidence:
    r"""Keep the units for which a spike at zero loses most evidence: :math:`-\Delta F` of BMRS_N.

    The posterior is SBP's, :math:`\Delta F` that of :func:`~.model_reduction.reduced_to_spike`, in
    nats; BMRS prunes where it is at least 0. The spike's place (the lower bound of the noise) and
    its width (1e-6 in log theta) are those of the authors' published code; the formula is derived
    anew, in a form that keeps its digits.

    A unit that the data say nothing of keeps the prior, for which :math:`\Delta F = 0`, and a
    truncated normal has less density at a bound than the exact posterior of a unit that the data
    want gone. With frozen weights the rule therefore removes next to nothing; a threshold of one
    nat removes what no more than a bare mention of evidence would keep.

    Args:
        material: a model and a loader.
        steps: batches to learn from.
        lr: Adam's first step size, for mu and log sigma.
        seed: of the noise and the order of the images.

    References:
        Dustin Wright, Christian Igel, Raghavendra Selvan, "BMRS: Bayesian Model Reduction for
        Structured Pruning", 2024, arXiv 2406.01345.
    """
    noise = _learn(material, steps, lr, seed)
    return noise_evidence(noise, lambda q: -reduced_to_spike(q), "nats")


def bmrs_uniform(
    material: Material,
    *,
    bits: float = 8.0,
    steps: int = STEPS,
    lr: float = LR,
    seed: int = 0,
) -> Evidence:
    r"""Keep the units for which a prior cut to small noise loses most: :math:`-\Delta F` of BMRS_U.

    The posterior is SBP's, :math:`\Delta F` that of
    :func:`~.model_reduction.reduced_to_interval`, in nats; BMRS prunes where it is at least 0. The
    reduced prior is log-uniform on :math:`[a, 2^{-bits}]`, with the lower bound of the full prior.
    (In the authors' published code it begins at :math:`2^{-23}`, so that a unit whose noise is
    below that for sure would stay.)

    Args:
        material: a model and a loader.
        bits: of precision, below which a gain is as good as nothing; fewer prune more.
        steps: batches to learn from.
        lr: Adam's first step size, for mu and log sigma.
        seed: of the noise and the order of the images.

    References:
        Dustin Wright, Christian Igel, Raghavendra Selvan, "BMRS: Bayesian Model Reduction for
        Structured Pruning", 2024, arXiv 2406.01345.
    """
    most = -LOG_LOW / math.log(2)
    if bits >= most:
        raise DirpruneError(
            f"evidence {material.criterion!r}: bits={bits:g}: expected less than {most:.1f}, since "
            "the noise is at least exp(-20)"
        )
    noise = _learn(material, steps, lr, seed)
    return noise_evidence(noise, lambda q: -reduced_to_interval(q, bits), "nats")


def noise_evidence(
    noise: Noise, score: Callable[[TruncatedLogNormal], Tensor], unit: str
) -> Evidence:
    """Scores of a learned noise, so that one that is learned once serves several criteria."""
    return Evidence(
        {site: Scores(score(q), None, unit) for site, q in noise.posterior.items()}, noise.passes
    )


def _learn(material: Material, steps: int, lr: float, seed: int) -> Noise:
    if material.loader is None:
        raise DirpruneError(f"evidence {material.criterion!r} needs a loader of training images")
    return learn_noise(material.model, material.loader, steps=steps, lr=lr, seed=seed)
