"""How much of the prior is left in the posterior."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import betainc, betaln, expit, log_expit
from scipy.stats import chi2

from ..tree import concentrations
from .findings import Finding, Floats, finding, free_draws, spread_draws


def overlap(tree: xr.DataTree) -> Finding:
    r"""How much of the prior is left in the posterior, site by site.

    .. math:: \eta_k = \int \min(p(s_k), q(s_k)) \, ds_k

    the overlap of the marginals, averaged over a site's units: 1 where the data have said nothing,
    0 for disjoint ones. It tells where the data speak, not whether what they say is right. A
    posterior of concentrations enters by its exact marginals, the prior and any other posterior by
    the Dirichlet with its draws' moments (rough for a hierarchical prior, whose marginals are no
    Betas). Above 0.35 a parameter is called weakly identified, as units of a wide layer
    often are, one by one.

    Raises:
        DirpruneError: no draws of the prior, or a guide without spread.
    """
    known = concentrations(tree) if "concentration" in tree.children else {}
    posterior = spread_draws(tree, "a point overlaps with no prior")
    prior, sites = free_draws(tree, "prior"), {}
    for site, s in posterior.items():
        a = _matched_dirichlet(prior[site].reshape(-1, s.shape[-1]))
        each = known[site].double().numpy() if site in known else map(_matched_dirichlet, s)
        both = [beta_overlap(phi, phi.sum() - phi, a, a.sum() - a) for phi in each]
        sites[site] = float(np.mean(both))
    mean = float(np.mean(list(sites.values())))
    low, high = min(sites, key=sites.__getitem__), max(sites, key=sites.__getitem__)
    verdict = "say next to nothing" if mean > 0.9 else "speak weakly" if mean > 0.35 else "speak"
    between = (
        f"least in {low} ({100 * sites[low]:.0f} %), most in {high} ({100 * sites[high]:.0f} %)"
        if len(sites) > 1
        else f"of which there is one ({low})"
    )
    text = (
        f"Prior and posterior of a switch overlap by {100 * mean:.0f} % in the mean over sites, "
        f"{between}: the data {verdict} about single units."
    )
    return finding("overlap", {"mean": mean, "sites": sites}, text, None if mean <= 0.9 else False)


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
