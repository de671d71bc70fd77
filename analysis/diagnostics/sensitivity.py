"""Power-scaling: what a little more or less prior, or likelihood, would change."""

from __future__ import annotations

import math

import arviz as az
import numpy as np
import xarray as xr

from ...model.errors import DirpruneError
from ..tree import switches
from .findings import (
    LEAST_DRAWS,
    Finding,
    Floats,
    finding,
    group,
    largest_khat,
    psis,
    spread_draws,
    untied,
)

THRESHOLD = 0.05
ALPHAS = (0.99, 1.01)
COMPONENTS = ("prior", "likelihood")


def power_scaling(tree: xr.DataTree) -> Finding:
    r"""How sensitive the posterior of every switch is to the strength of prior and likelihood.

    .. math:: p_\alpha(s | y) \propto p(s)^\alpha \, L(s) \quad\text{or}\quad p(s) \, L(s)^\alpha,
              \qquad \log L(s) = \tau N/n \sum_i \log p(y_i | x_i, s)

    at alpha 0.99 and 1.01, by re-weighting the draws (PSIS); the sensitivity is the cumulative
    Jensen-Shannon distance from the posterior per doubling of alpha (ArviZ's ``psense``). Diagnosis
    of a unit, as in the paper: both above 0.05, prior and data disagree; the prior's alone, the
    data are weak beside the prior. A density that is constant (the flat Dirichlet(1, ..., 1)) stays
    the same under every power: sensitivity 0. It tells what happens near the prior and the
    temperature of this run, not far from them. The draws are the guide's: it holds as far as the
    guide does, and as far as the n images stand for all N: what is peculiar to a few of them makes
    the likelihood's sensitivity too large. Hyper-priors are scaled together with the prior below
    them, as one density: to learn about the hyper-prior alone, fit another.

    Raises:
        DirpruneError: no density of the prior in the tree, a guide without spread, too few draws.
    """
    found = sensitivities(tree)
    sites = list(found["prior"])
    prior, likelihood = (np.concatenate([found[c][s] for s in sites]) for c in COMPONENTS)
    k = _largest_k(tree)
    number = prior.size
    conflict = float(((prior >= THRESHOLD) & (likelihood >= THRESHOLD)).mean())
    weak = float(((prior >= THRESHOLD) & (likelihood < THRESHOLD)).mean())
    value = {
        **{
            name: {
                "median": float(np.median(v)),
                "quantile_95": float(np.quantile(v, 0.95)),
                "share_above": float((v >= THRESHOLD).mean()),
            }
            for name, v in (("prior", prior), ("likelihood", likelihood))
        },
        "conflict": conflict,
        "weak_likelihood": weak,
        "khat": k if math.isfinite(k) else None,
    }
    draws = math.prod(next(iter(spread_draws(tree, "").values())).shape[:2])
    if not k < largest_khat(draws):
        text = (
            "Not reliable: the weights that stand for a change of 1 % in the power have a Pareto "
            f"k of {k:.2f}, too large for {draws:,} draws: a few of them decide. With that caveat, "
            f"sensitivity to the prior is {np.median(prior):.2g} in the median, to the likelihood "
            f"{np.median(likelihood):.2g}."
        )
        return finding("power_scaling", value, text + _together(tree), None)
    if conflict + weak <= 0.05:
        verdict = "The prior hardly matters"
    elif conflict >= weak:
        verdict = "Prior and data may pull in different directions"
    else:
        verdict = "The prior speaks louder than the data"
    text = (
        f"{verdict}: of {number:,} units {100 * conflict:.0f} % are sensitive to both prior and "
        f"likelihood (conflict) and {100 * weak:.0f} % to the prior alone (weak data). Sensitivity "
        f"to the prior is {np.median(prior):.3f} in the median and {np.quantile(prior, 0.95):.3f} "
        f"at the 95 % quantile, to the likelihood {np.median(likelihood):.3f} and "
        f"{np.quantile(likelihood, 0.95):.3f}."
    )
    if not prior.any():
        text += " The prior is flat: its powers are the same."
    return finding("power_scaling", value, text + _together(tree), conflict + weak <= 0.05)


def _together(tree: xr.DataTree) -> str:
    hyper = set(group(tree, "posterior").data_vars) - set(switches(tree))
    return " The prior and its hyper-prior are scaled together, as one density." if hyper else ""


def sensitivities(tree: xr.DataTree) -> dict[str, dict[str, Floats]]:
    """ "prior" and "likelihood" -> site -> the sensitivity of every unit, [K].

    Raises:
        DirpruneError: as :func:`power_scaling`.
    """
    draws = spread_draws(tree, "no weights can move it")
    if (number := math.prod(next(iter(draws.values())).shape[:2])) < LEAST_DRAWS:
        raise DirpruneError(f"expected at least {LEAST_DRAWS} draws, got {number}")
    parts = components(tree)
    made = xr.DataTree.from_dict(
        {
            "posterior": group(tree, "posterior")[list(draws)],
            "log_prior": untied(parts["prior"]).to_dataset(name="switches"),
            "log_likelihood": untied(parts["likelihood"]).to_dataset(name="targets"),
        }
    )
    out: dict[str, dict[str, Floats]] = {}
    for name, values in parts.items():
        if _constant(values):
            out[name] = {site: np.zeros(s.shape[-1]) for site, s in draws.items()}
        else:
            found = az.psense(made, group=name, alphas=ALPHAS)
            out[name] = {site: np.nan_to_num(found[site].values) for site in draws}
    return out


def components(tree: xr.DataTree) -> dict[str, xr.DataArray]:
    """The log densities [chain, draw] whose powers are taken, as the model has them.

    Raises:
        DirpruneError: one is missing or not finite.
    """
    prior = group(tree, "log_prior")["switches"]
    each = group(tree, "log_likelihood")["targets"]
    if missing := [key for key in ("temperature", "num_data") if key not in tree.attrs]:
        raise DirpruneError(f"the DataTree does not say its {' and '.join(missing)}")
    scale = float(tree.attrs["temperature"]) * float(tree.attrs["num_data"])
    likelihood = scale * each.mean([d for d in each.dims if d not in ("chain", "draw")])
    if not (np.isfinite(prior).all() and np.isfinite(likelihood).all()):
        raise DirpruneError("some draws have an infinite density")
    return {"prior": prior, "likelihood": likelihood}


def _constant(values: xr.DataArray) -> bool:
    return float(values.std()) <= 1e-9 * (1 + float(abs(values).max()))


def _largest_k(tree: xr.DataTree) -> float:
    """Of the weights of either component at either power; NaN where one draw holds all."""
    found = [
        psis((alpha - 1) * values, ["chain", "draw"])[1]
        for values in components(tree).values()
        for alpha in ALPHAS
    ]
    return float(np.max(found))
