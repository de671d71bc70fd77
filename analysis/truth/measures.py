"""How far a fitted guide, or NUTS, is from a known posterior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from arviz_stats.base import array_stats
from torch import Tensor

from ...inference.fit import Fit, GuideSpec, fit
from ..evidence.switches import Draws, draw_switches, log_likelihood, log_prior
from .problem import Problem
from .references import Floats

LEVELS = (0.5, 0.8, 0.95)
BINS = 20
WEIGHTED = 2_000_000  # draws x examples for the log weights, at most (and 500 draws at least)
ROUNDING = 1e-9
EVALUATED = 65_536  # rows in one forward pass of these tiny networks


def examine(
    problem: Problem, guide: GuideSpec, *, draws: int = 10_000, seed: int = 0, **options: Any
) -> dict[str, Any]:
    """Fit a guide to a problem and hold it against the truth.

    Args:
        problem: of :data:`~dirprune.analysis.truth.PROBLEMS`, say.
        guide: a guide's name, class or factory; what :func:`~dirprune.inference.fit.fit` takes.
        draws: of the guide, from which everything is measured.
        seed: of the fit and of the draws.
        **options: further ones of ``fit`` (epochs, particles, lr, guide_options).

    Returns:
        As :func:`measure`.
    """
    fitted = fit(problem.model, guide, problem.loader, seed=seed, progress=False, **options)
    return measure(problem, fitted, draws=draws, seed=seed)


def measure(problem: Problem, fitted: Fit, *, draws: int = 10_000, seed: int = 0) -> dict[str, Any]:
    r"""What a fit got right and wrong, as JSON can hold it. Lists go over the units of a site.

    ``bias_mean``
        :math:`(E_q[s_k] - E_p[s_k]) / sd_p(s_k)`, in posterior standard deviations.
    ``sd_ratio``
        :math:`sd_q(s_k) / sd_p(s_k)`: below 1, the guide is surer than it should be.
    ``total_variation``
        between the marginals, over 20 bins of equal mass under the posterior: 0 is the same, 1 is
        disjoint. Finite draws make it positive: equal marginals give ``total_variation_noise``.
    ``coverage``
        the posterior's mass inside the guide's central 50, 80 and 95 % intervals.
    ``elbo``, ``elbo_se``, ``elbo_gap``
        mean of the log weights log p(y, s) - log q(s) over draws of q, its standard error, and
        log p(y) less it: the Kullback-Leibler divergence from q to the posterior, in nats.
    ``khat``, ``sd_log_w``
        of the same weights, over all data: the shape of a generalised Pareto distribution fitted
        to their tail (below 0.7 importance sampling can mend the guide; None where they are all
        the same), and their spread.
    ``correlation``
        between sites: of the pair of units where the posterior's is strongest, the posterior's and
        the guide's. None where there is one site.

    A point mass has no density: its ELBO, k-hat and correlation are None. NUTS has no density
    either, and its draws depend on each other: ``effective_draws`` says how many they are worth,
    and the noise of the total variation follows from it.

    Source of k-hat as a measure of guides: Yuling Yao, Aki Vehtari, Daniel Simpson, Andrew Gelman,
    "Yes, but Did It Work?: Evaluating Variational Inference", 2018, arXiv 1802.02538.

    Args:
        problem: with its reference.
        fitted: from ``fit`` or ``sample`` on the problem's model; chains are put together.
        draws: per restart of a guide (NUTS has its own).
        seed: of the draws.
    """
    reference = problem.reference
    drawn = draw_switches(problem.model, fitted, draws, seed)
    switches = {site: s.flatten(0, 1).numpy() for site, s in drawn.switches.items()}
    total = len(next(iter(switches.values())))
    point = all(bool((s == s[:1]).all()) for s in switches.values())
    effective = float(total) if drawn.log_q is not None else _effective(drawn.switches)
    sd = {site: s.std(0) * (np.ptp(s, axis=0) > 0) for site, s in switches.items()}
    report: dict[str, Any] = {
        "problem": problem.name,
        "guide": fitted.settings["guide"],
        "seconds": fitted.seconds,
        "point_mass": point,
        "draws": total,
        "effective_draws": effective,
        "bias_mean": {
            site: ((s.mean(0) - reference.mean[site]) / reference.sd[site]).tolist()
            for site, s in switches.items()
        },
        "sd_ratio": {site: (sd[site] / reference.sd[site]).tolist() for site in switches},
        "total_variation": _each(switches, lambda site, k, x: _variation(problem, site, k, x)),
        "total_variation_noise": variation_noise(effective, reference.effective_draws),
        "coverage": {
            f"{100 * level:.0f}": _each(
                switches, lambda site, k, x, level=level: _covered(problem, site, k, x, level)
            )
            for level in LEVELS
        },
        "correlation": None if point else _correlation(problem, switches),
        "log_evidence": reference.log_evidence,
        **dict.fromkeys(("elbo", "elbo_se", "elbo_gap", "khat", "sd_log_w")),
    }
    if drawn.log_q is not None and not point:
        report |= _weights(problem, drawn, drawn.log_q)
    return report


def worst(report: Mapping[str, Any]) -> dict[str, float | None]:
    """A report's extremes over all units: one row of a table."""

    def values(key: Mapping[str, list[float]]) -> list[float]:
        return [value for units in key.values() for value in units]

    return {
        "bias": max(values(report["bias_mean"]), key=abs),
        "sd_ratio": max(values(report["sd_ratio"]), key=lambda r: abs(np.log(max(r, 1e-300)))),
        "total_variation": max(values(report["total_variation"])),
        **{
            f"coverage_{level}": float(np.mean(values(units)))
            for level, units in report["coverage"].items()
        },
        **{key: report[key] for key in ("elbo_gap", "khat", "seconds")},
    }


def _each(switches: Mapping[str, Floats], function: Any) -> dict[str, list[float]]:
    return {
        site: [float(function(site, k, s[:, k])) for k in range(s.shape[1])]
        for site, s in switches.items()
    }


def _variation(problem: Problem, site: str, unit: int, x: Floats) -> float:
    """Half the sum of |share of draws - 1/20| over bins between the posterior's quantiles."""
    inner = problem.reference.quantile(site, unit, np.arange(1, BINS) / BINS)
    share = np.bincount(np.searchsorted(inner, x), minlength=BINS) / len(x)
    return 0.5 * float(np.abs(share - 1 / BINS).sum())


def variation_noise(*numbers: float) -> float:
    """What equal marginals give: a share of n draws in a bin has the error of a binomial.

    E|share - p| = sqrt(2 / pi) sqrt(p (1 - p) / n), with the error of both sets of draws.
    """
    p = 1 / BINS
    variance = p * (1 - p) * sum(1 / n for n in numbers)
    return 0.5 * BINS * float(np.sqrt(2 / np.pi * variance))


def _covered(problem: Problem, site: str, unit: int, x: Floats, level: float) -> float:
    ends = np.quantile(x, [(1 - level) / 2, (1 + level) / 2])
    low, high = problem.reference.cdf(site, unit, ends)
    return float(high - low)


def _correlation(problem: Problem, switches: Mapping[str, Floats]) -> dict[str, Any] | None:
    """Of the pair of units of different sites that are most correlated under the posterior."""
    if len(switches) < 2:
        return None
    units = [(site, k) for site, s in switches.items() for k in range(s.shape[1])]
    exact = problem.reference.draws(len(next(iter(switches.values()))))
    true, ours = (
        np.corrcoef(np.concatenate([draws[site] for site in switches], axis=1).T)
        for draws in (exact, switches)
    )
    between = np.array([[a[0] != b[0] for b in units] for a in units])
    i, j = np.unravel_index(np.argmax(np.abs(true) * between), true.shape)
    return {
        "units": [list(units[i]), list(units[j])],
        "reference": float(true[i, j]),
        "guide": float(ours[i, j]),
    }


def _weights(problem: Problem, drawn: Draws, log_q: Tensor) -> dict[str, Any]:
    """From the exact log weights: all data, no minibatch."""
    model, inputs, targets = problem.model, problem.inputs, problem.targets
    number = min(log_q.numel(), max(500, WEIGHTED // len(targets)))
    # Evenly over the chains.
    rows = torch.linspace(0, log_q.numel() - 1, number).long()
    latent = {name: value.flatten(0, 1)[rows] for name, value in drawn.latent.items()}
    switches = {site: latent[site] for site in model.sites}
    likelihood = log_likelihood(model, switches, inputs, targets, batch_size=EVALUATED)
    weights = (log_prior(model, latent) + likelihood.sum(1) - log_q.flatten()[rows]).numpy()
    elbo, sd = float(weights.mean()), float(weights.std(ddof=1))
    exact = problem.reference.log_evidence
    khat = None
    if sd > ROUNDING * max(1.0, abs(elbo)):  # else the guide is exact, and there is no tail
        # ArviZ takes the negative of log weights, as it does of a log likelihood.
        khat = float(array_stats.psislw(-weights)[1])
    return {
        "elbo": elbo,
        "elbo_se": sd / np.sqrt(number),
        "elbo_gap": None if exact is None else exact - elbo,
        "khat": khat,
        "sd_log_w": sd,
    }


def _effective(switches: Mapping[str, Tensor]) -> float:
    return min(
        float(array_stats.ess(s[..., k].numpy(), method="bulk"))
        for s in switches.values()
        for k in range(s.shape[-1])
    )
