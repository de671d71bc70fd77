"""Can the posterior be trusted: what each diagnostic says, and what it cannot say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import arviz as az
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import betainc, betaln, expit, log_expit
from scipy.stats import chi2
from torch import Tensor

from ..model.errors import DirpruneError
from .tree import concentrations

Floats = NDArray[np.float64]
Finding = dict[str, Any]  # value, text, threshold, source, good (None: no verdict)

LEAST_DRAWS = 25  # below, the Pareto tail of ArviZ's PSIS is empty
LEAST_STEPS = 32  # below, the late losses have no autocorrelation to speak of

LIMITS = {  # threshold, and its source
    "elpd": ("none: higher is better", "Vehtari, Gelman, Gabry 2017, Stat. Comput. 27"),
    "svi_convergence": (
        "|z| < 2, or R-hat < 1.1 and drift < 1 %",
        "Geweke 1992 (z); Dhaka et al. 2020, arXiv 2009.00666 (R-hat of iterates)",
    ),
    "restart_agreement": ("95 % quantile of R-hat <= 1.01", "Vehtari et al. 2021, Bayesian Anal."),
    "importance": ("k-hat < 0.7", "Vehtari et al. 2024, JMLR 25(72); Yao et al. 2018, ICML"),
    "overlap": ("above 35 %: weakly identified", "Garrett & Zeger 2000, Biometrics 56(4)"),
}


def restart_agreement(tree: xr.DataTree) -> Finding:
    r"""How far the restarts differ, unit by unit.

    .. math:: d_k = (\max_c \bar s_{ck} - \min_c \bar s_{ck}) / sd(s_k), \quad
              \hat R_k = \sqrt{\hat V_k / W_k}

    with :math:`\bar s_{ck}` the mean switch of unit k in restart c, sd the posterior's within a
    restart, and R-hat ArviZ's rank-normalised one. It tells how much the optimiser's noise moves
    the answer. It cannot tell whether the guide's family holds the posterior: restarts share the
    bias of their family. Threshold: the 95 % quantile of R-hat over units, not its maximum: of
    hundreds of units some pass 1.01 by chance.

    Raises:
        DirpruneError: fewer than two restarts.
    """
    draws = _draws(tree, "posterior")
    if (restarts := len(next(iter(draws.values())))) < 2:
        raise DirpruneError(f"expected at least 2 restarts to compare, got {restarts}: restarts=2")
    ratios = az.rhat(tree["posterior"].to_dataset(), method="rank")
    spread = {
        site: np.ptp(s.mean(1), axis=0) / np.maximum(np.sqrt(s.var(1).mean(0)), 1e-300)
        for site, s in draws.items()
    }
    d = np.concatenate(list(spread.values()))
    r = np.concatenate([np.nan_to_num(ratios[site].values, nan=1.0) for site in draws])
    worst = max(spread, key=lambda site: float(spread[site].max()))
    value = {
        "restarts": restarts,
        "difference_median": float(np.median(d)),
        "difference_max": float(d.max()),
        "rhat_median": float(np.median(r)),
        "rhat_95": float(np.quantile(r, 0.95)),
        "rhat_max": float(r.max()),
    }
    good = value["rhat_95"] <= 1.01
    verdict = "agree" if good else "differ by more than draws of one guide would"
    text = (
        f"The {restarts} restarts {verdict}: mean switches by {np.median(d):.2f} posterior sds in "
        f"the median and {d.max():.2f} at most (in {worst}); R-hat exceeds 1.01 for "
        f"{100 * (r > 1.01).mean():.0f} % of the units. This is optimiser noise; agreement is no "
        "evidence against the bias of a mean-field guide."
    )
    return _finding("restart_agreement", value, text, good)


def svi_convergence(history: Mapping[str, Any]) -> Finding:
    r"""Has the ELBO come to rest: the two halves of the last half of the losses, compared.

    .. math:: z = (\bar L_3 - \bar L_4) / \sqrt{se_3^2 + se_4^2}, \quad se^2 = var(L) / ESS(L)

    with L_3, L_4 the losses of the third and fourth quarter of the steps and ESS their effective
    number, which accounts for autocorrelation; beside it R-hat with the two quarters as chains, and
    the drift in nats. It tells whether the loss still falls, or rises again. It cannot tell whether
    another start would have ended elsewhere, and a step size that falls to zero brings any run to
    rest. Threshold: |z| < 2, or R-hat < 1.1 with a drift below 1 %. ``history`` is ``{"svi":
    [losses of each restart]}``.
    """
    runs = [np.asarray(losses, dtype=float) for losses in history.get("svi", [])]
    if (short := min(map(len, runs), default=0)) < LEAST_STEPS:
        raise DirpruneError(f"expected at least {LEAST_STEPS} steps of SVI, got {short}")
    found = []
    for losses in runs:
        quarter = len(losses) // 4
        third, fourth = losses[-2 * quarter : -quarter], losses[-quarter:]
        drift, loss = float(third.mean() - fourth.mean()), float(fourth.mean())
        error = math.hypot(_standard_error(third), _standard_error(fourth))
        z = drift / error if error else math.copysign(1e9, drift) if drift else 0.0
        rhat = float(az.rhat(np.stack([third, fourth]), method="rank")) if error else 1.0
        relative = drift / max(abs(loss), 1e-12)
        found.append({"z": z, "drift": drift, "relative": relative, "rhat": rhat, "loss": loss})
    worst = max(found, key=lambda f: abs(f["z"]))
    good = abs(worst["z"]) < 2 or (worst["rhat"] < 1.1 and abs(worst["relative"]) < 0.01)
    verdict, advice = "was still improving", " More epochs would help."
    if worst["z"] < 0:
        verdict, advice = "was getting worse", " A smaller lr would help."
    text = (
        f"SVI {'came to rest' if good else verdict}: from the third to the fourth "
        f"quarter of the steps the loss changed by {-worst['drift']:+.3g} nats "
        f"({-100 * worst['relative']:+.1f} %, {abs(worst['z']):.1f} standard errors), R-hat is "
        f"{worst['rhat']:.2f}.{'' if good else advice}"
    )
    return _finding("svi_convergence", {"restarts": found}, text, good)


def importance(tree: xr.DataTree) -> Finding:
    r"""The Pareto k-hat of the draws' importance weights, by ArviZ's PSIS, restart by restart.

    .. math:: \log w_s = \log p(s) + \tau N/n \sum_i \log p(y_i | x_i, s) - \log q(s)

    and sd(log w), which is 0 where the guide is the posterior. A small k-hat is strong evidence for
    the joint posterior. A large one says little in hundreds of dimensions: with 570 a 10 % error of
    the concentrations is enough to exceed 0.7, although every marginal is nearly right; and ``lp``
    scales n images up to all N, so the choice of the n counts as an error of the guide.
    Threshold: k-hat < 0.7.
    """
    if "sample_stats" not in tree.children:
        raise DirpruneError("the DataTree has no group 'sample_stats' with lp and log_q")
    stats = tree["sample_stats"].to_dataset()
    log_w = (stats["lp"] - stats["log_q"]).transpose("chain", "draw")
    number, finite = log_w.sizes["draw"], bool(np.isfinite(log_w).all())
    if number < LEAST_DRAWS or not finite:
        raise DirpruneError(
            f"k-hat: expected at least {LEAST_DRAWS} draws per restart with finite densities, got "
            f"{number}{'' if finite else ', some not finite'}"
        )
    sd = float(log_w.std("draw", ddof=1).max())
    k = 0.0  # of constant weights, whose tail has no shape
    if sd > 1e-9 * (1 + float(abs(stats["lp"]).max())):
        # ArviZ takes log likelihoods here, that is minus the log weights.
        k = float((-log_w).azstats.psislw(dim="draw")[1].max())
    dimensions = sum(s.shape[-1] - 1 for s in _draws(tree, "posterior").values())
    good = k < 0.7  # ArviZ returns NaN where a draw or two hold all the weight
    size = f"{k:.2f}" if math.isfinite(k) else "beyond measure"
    text = f"The joint k-hat over {dimensions} dimensions is {size}, sd(log w) {sd:.3g} nats: " + (
        "the guide is close to the posterior as a whole."
        if good
        else "draws cannot be re-weighted to the posterior. In hundreds of dimensions a 10 % error "
        "of the concentrations alone exceeds 0.7 while every marginal is nearly right, so this is "
        "no verdict on single units."
    )
    khat = k if math.isfinite(k) else None
    value = {"khat": khat, "sd_log_w": sd, "dimensions": dimensions}
    return _finding("importance", value, text, good)


def overlap(tree: xr.DataTree) -> Finding:
    r"""How much of the prior is left in the posterior, site by site.

    .. math:: \eta_k = \int \min(p(s_k), q(s_k)) \, ds_k

    the overlap of the marginals, averaged over a site's units: 1 where the data have said nothing,
    0 for disjoint ones. It tells where the data speak, not whether what they say is right. Exact
    for Dirichlets; a prior, or a posterior without concentrations, enters by the Dirichlet with its
    draws' moments. Above 0.35 a parameter is called weakly identified, as units of a wide layer
    often are, one by one.
    """
    known = concentrations(tree) if "concentration" in tree.children else {}
    prior, sites = _draws(tree, "prior"), {}
    for site, s in _draws(tree, "posterior").items():
        a = _matched_dirichlet(prior[site].reshape(-1, s.shape[-1]))
        each = known[site].double().numpy() if site in known else map(_matched_dirichlet, s)
        both = [beta_overlap(phi, phi.sum() - phi, a, a.sum() - a) for phi in each]
        sites[site] = float(np.mean(both))
    mean = float(np.mean(list(sites.values())))
    low, high = min(sites, key=sites.__getitem__), max(sites, key=sites.__getitem__)
    verdict = "say next to nothing" if mean > 0.9 else "speak weakly" if mean > 0.35 else "speak"
    text = (
        f"Prior and posterior of a switch overlap by {100 * mean:.0f} % in the mean over sites, "
        f"least in {low} ({100 * sites[low]:.0f} %), most in {high} ({100 * sites[high]:.0f} %): "
        f"the data {verdict} about single units."
    )
    return _finding("overlap", {"mean": mean, "sites": sites}, text, None if mean <= 0.9 else False)


def elpd(log_likelihood: Tensor) -> tuple[float, float]:
    r"""The expected log predictive density of an image, and its standard error, in nats.

    .. math:: \frac{1}{n} \sum_i \log \frac{1}{S} \sum_s p(y_i | x_i, s), \quad se = sd_i / \sqrt{n}

    On images that neither switches nor weights have seen it compares guides, priors and
    temperatures. It is no absolute measure, and the error covers the choice of images alone.
    ``log_likelihood`` is [S, n] and untempered.
    """
    if log_likelihood.dim() != 2 or 0 in log_likelihood.shape:
        raise DirpruneError(f"elpd: expected [draws, images], got {list(log_likelihood.shape)}")
    number, n = log_likelihood.shape
    each = log_likelihood.double().logsumexp(0) - math.log(number)
    return float(each.mean()), float(each.std()) / math.sqrt(n) if n > 1 else math.nan


def diagnose(
    tree: xr.DataTree,
    history: Mapping[str, Any],
    validation_log_likelihood: Tensor | None = None,
) -> dict[str, Finding]:
    """All diagnostics by name. One that cannot be computed has no value and a text that says why.

    Each has ``value``, ``text`` (the verdict), ``threshold``, ``source`` and ``good`` (None: no
    verdict), all of which JSON can hold.
    """

    def predictive() -> Finding:
        if validation_log_likelihood is None:
            raise DirpruneError("no log likelihood of validation images was given")
        (value, se), n = elpd(validation_log_likelihood), validation_log_likelihood.shape[1]
        text = (
            f"The expected log predictive density is {value:.4f} nats per image, standard error "
            f"{se:.4f}, over {n:,} validation images: to compare with that of other guides, priors "
            "and temperatures on the same images."
        )
        found = {"elpd": value, "se": se if n > 1 else None, "images": n}
        return _finding("elpd", found, text, None)

    tasks: dict[str, Callable[[], Finding]] = {
        "elpd": predictive,
        "svi_convergence": lambda: svi_convergence(history),
        "restart_agreement": lambda: restart_agreement(tree),
        "importance": lambda: importance(tree),
        "overlap": lambda: overlap(tree),
    }
    out = {}
    for name, task in tasks.items():
        try:
            out[name] = task()
        except DirpruneError as error:
            out[name] = _finding(name, None, f"Not computed: {error}.", None)
    return out


def beta_overlap(a: Floats, b: Floats, c: Floats, d: Floats) -> Floats:
    """The overlapping coefficients of Beta(a, b) and Beta(c, d), elementwise, exact.

    The log ratio of the densities has one stationary point at most; between the points lo and hi
    where it is zero one density is above the other, and 1 - overlap is the difference of their
    masses there.
    """
    p, q, constant = a - c, b - d, betaln(a, b) - betaln(c, d)
    peak = p * q > 0
    far = np.full_like(p, 700.0)  # in logits: beyond all that a double can tell from 0 and 1
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = np.where(peak, np.log(p / q), far)

    def root(left: Floats, right: Floats) -> Floats:
        sign = p * log_expit(right) + q * log_expit(-right) > constant
        for _ in range(60):
            x = (left + right) / 2
            same = (p * log_expit(x) + q * log_expit(-x) > constant) == sign
            left, right = np.where(same, left, x), np.where(same, x, right)
        return (left + right) / 2

    lo, hi = expit(root(-far, middle)), expit(np.where(peak, root(middle, far), far))
    masses = betainc(a, b, hi) - betainc(a, b, lo), betainc(c, d, hi) - betainc(c, d, lo)
    return 1 - np.abs(masses[0] - masses[1])


def _matched_dirichlet(draws: Floats) -> Floats:
    """The Dirichlet with the moments of draws [S, K]; symmetric unless the draws contradict it."""
    number, k = draws.shape
    mean, variance = draws.mean(0), draws.var(0, ddof=1)
    total = max((mean * (1 - mean)).sum() / max(variance.sum(), 1e-300) - 1, 1e-12)
    if number * k * (total + 1) * ((mean - 1 / k) ** 2).sum() < chi2.ppf(0.999, max(k - 1, 1)):
        mean = np.full(k, 1 / k)
    return total * np.maximum(mean, 1e-12)


def _draws(tree: xr.DataTree, group: str) -> dict[str, Floats]:
    """Site -> [chain, draw, K]."""
    if group not in tree.children:
        raise DirpruneError(f"the DataTree has no group {group!r}")
    return {str(n): a.values.astype(np.float64) for n, a in tree[group].to_dataset().items()}


def _standard_error(values: Floats) -> float:
    """Of the mean of one autocorrelated series."""
    ess = float(az.ess(values[None], method="mean"))
    return float(values.std(ddof=1)) / math.sqrt(ess) if ess > 0 else 0.0


def _finding(name: str, value: Any, text: str, good: bool | None) -> Finding:
    threshold, source = LIMITS[name]
    return {"value": value, "text": text, "threshold": threshold, "source": source, "good": good}
