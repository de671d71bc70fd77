"""Power-scaling, against the power-scaled posterior itself: of a Dirichlet-multinomial model it is

prior^alpha:       Dir(alpha (a - 1) + 1 + n),      likelihood^alpha:  Dir(a + alpha n)
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from scipy.stats import beta

from dirprune.analysis.diagnostics import power_scaling
from dirprune.analysis.diagnostics.sensitivity import sensitivities
from dirprune.model.errors import DirpruneError


def exact(base, scaled, draws):
    """Sensitivity from the marginals' distribution functions, over the range of the draws.

    The cumulative Jensen-Shannon distance per log2 of alpha, mean of alpha = 0.99 and 1.01; the
    larger one of the variable and its negative (Kallioinen et al. 2024, section 2.3).
    """
    x = np.linspace(draws.min(), draws.max(), 20_001)

    def distance(p, q):
        m = (p + q) / 2

        def half(a):  # integral of a log2(a / m)
            inside = a > 0
            return np.trapezoid(np.where(inside, a * np.log2(np.where(inside, a / m, 1)), 0), x)

        # The terms in the difference of the two integrals cancel in the symmetrised sum.
        return np.sqrt((half(p) + half(q)) / (np.trapezoid(p, x) + np.trapezoid(q, x)))

    out = []
    for alpha, q in scaled.items():
        P, Q = beta.cdf(x, *base), beta.cdf(x, *q)
        d = max(distance(P, Q), distance(1 - P, 1 - Q))
        out.append(d / abs(np.log2(alpha)))
    return np.mean(out)


def marginal(phi, k):
    return phi[k], phi.sum() - phi[k]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_against_the_scaled_posterior(conjugate, temperature):
    a, n = np.array([4.0, 4.0, 2.0]), np.array([2, 10, 6])
    tree = conjugate(a, n, draws=10_000, temperature=temperature)
    found = sensitivities(tree)
    n = temperature * n
    for k in range(3):
        draws = tree["posterior"]["a"].values[..., k]
        base = marginal(a + n, k)
        for name, scaled in (
            ("prior", lambda alpha: alpha * (a - 1) + 1 + n),
            ("likelihood", lambda alpha: a + alpha * n),
        ):
            both = {alpha: marginal(scaled(alpha), k) for alpha in (0.99, 1.01)}
            # 20,000 draws: the weighted ECDF errs by 1 % of the weights' own spread; seen 1-6 %.
            expected = exact(base, both, draws)
            assert found[name]["a"][k] == pytest.approx(expected, rel=0.12, abs=0.004), (name, k)


def test_a_flat_prior_has_no_power(conjugate):
    found = power_scaling(conjugate([1.0] * 3, [5, 3, 1]))
    assert found["value"]["prior"] == {"median": 0, "quantile_95": 0, "share_above": 0}
    assert found["value"]["likelihood"]["median"] > 0.05
    assert found["good"]
    assert "The prior is flat" in found["text"]


def test_conflict_and_weak_data_are_told_apart(conjugate):
    found = power_scaling(conjugate([20.0, 2.0, 2.0], [1, 20, 20]))
    assert found["value"]["conflict"] > 0.5
    assert found["good"] is False
    assert "may pull in different directions" in found["text"]
    # One image at temperature 0.01: the likelihood's power hardly matters.
    found = power_scaling(conjugate([6.0, 3.0, 2.0], [1, 0, 0], temperature=0.01))
    assert found["value"]["weak_likelihood"] > 0.5
    assert found["good"] is False
    assert "speaks louder" in found["text"]


def test_a_part_of_the_images_stands_for_all(conjugate):
    """Each image twice as heavy, half of them: the same likelihood, the same sensitivity."""
    whole = conjugate([4.0, 4.0, 2.0], [2, 10, 6], draws=500)
    half = whole.copy(deep=True)
    images = whole["log_likelihood"]["targets"]
    index = np.repeat([0, 2, 12], [1, 5, 3])  # one of class 0, five of class 1, three of class 2
    half["log_likelihood"] = images.isel(image=index).to_dataset(name="targets")
    for name, found in sensitivities(half).items():
        np.testing.assert_allclose(found["a"], sensitivities(whole)[name]["a"], rtol=1e-9)


def test_a_hyper_prior_is_scaled_with_its_prior_and_the_text_says_so(conjugate):
    tree = conjugate([2.0] * 3, [5, 3, 1], draws=500)
    assert "hyper-prior" not in power_scaling(tree)["text"]
    posterior = tree["posterior"].to_dataset()
    posterior["a_concentration"] = posterior["a"] + 1.0
    tree["posterior"] = xr.DataTree(posterior)
    tree.attrs["sites"] = json.dumps({"a": [[], []]})
    assert "prior and its hyper-prior are scaled together" in power_scaling(tree)["text"]


def test_bad_weights_are_said(conjugate):
    tree = conjugate([2.0] * 3, [5, 3, 1], draws=500)
    rng = np.random.default_rng(0)
    heavy = -150 * rng.exponential(size=(2, 500, 9)).mean(-1, keepdims=True) ** 3 * np.ones(9)
    tree["log_likelihood"]["targets"].values[:] = heavy
    found = power_scaling(tree)
    assert found["good"] is None
    assert "Not reliable" in found["text"]


def test_what_is_missing_is_said(conjugate, point_tree):
    with pytest.raises(DirpruneError, match="point mass"):
        power_scaling(point_tree)
    tree = conjugate([2.0] * 3, [5, 3, 1], draws=500)
    del tree.attrs["num_data"]
    with pytest.raises(DirpruneError, match="does not say its num_data"):
        power_scaling(tree)
    del tree["log_prior"]
    with pytest.raises(DirpruneError, match="no group 'log_prior'"):
        power_scaling(tree)
    with pytest.raises(DirpruneError, match="at least 25 draws"):
        power_scaling(conjugate([2.0] * 3, [5, 3, 1], draws=10))
