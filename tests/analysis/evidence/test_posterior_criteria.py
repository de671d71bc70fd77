"""Mean, signal-to-noise and rank of the switches, against closed forms of Dirichlets."""

from typing import Any

import pytest
import torch
import xarray as xr
from scipy.special import betainc
from torch import Tensor
from torch.distributions import Dirichlet

from dirprune.analysis.evidence import Passes, evidence
from dirprune.analysis.tree import site_dataset
from dirprune.model.errors import DirpruneError

Case = Any  # of ../conftest.py
NAMES = ["mean", "snr", "among-best"]
DRAWS = 20_000


def tree_of(**draws: Tensor) -> xr.DataTree:
    """A DataTree with these draws, site -> [chain, draw, K], and nothing else."""
    return xr.DataTree.from_dict({"posterior": site_dataset(draws, ("chain", "draw"))})


def dirichlet(*phi: float, chains: int = 1) -> Tensor:
    return Dirichlet(torch.tensor(phi, dtype=torch.float64)).sample((chains, DRAWS // chains))


def test_moments_of_a_dirichlet() -> None:
    phi = torch.tensor([0.5, 2.0, 7.5], dtype=torch.float64)
    total = phi.sum()
    tree = tree_of(a=dirichlet(*phi.tolist(), chains=2))
    # E[K s_k] = K phi_k / Phi; five standard errors of at most 3 x 0.15 / sqrt(20,000)
    mean = evidence("mean", None, tree, draws=DRAWS)["a"]
    torch.testing.assert_close(mean.scores, 3 * phi / total, rtol=0, atol=0.016)
    assert mean.draws is not None
    assert mean.draws.shape == (DRAWS, 3)
    torch.testing.assert_close(mean.draws.sum(1), torch.full((DRAWS,), 3.0).double())
    # E/sd = sqrt(phi_k (Phi + 1) / (Phi - phi_k)); an sd's relative error is about
    # sqrt((kurtosis - 1) / 4 / 20,000), 1.2 % for Beta(.5, 9.5), whose kurtosis is below 13
    snr = evidence("snr", None, tree, draws=DRAWS)["a"]
    exact = (phi * (total + 1) / (total - phi)).sqrt()
    torch.testing.assert_close(snr.scores, exact, rtol=0.05, atol=0)
    assert snr.draws is None
    assert not mean.across_sites
    assert not snr.across_sites


def test_the_probability_to_be_the_better_of_two() -> None:
    # P(s_0 > 1/2), s_0 ~ Beta(2, 3); five standard errors of a share are at most 2.5/sqrt(20,000)
    found = evidence("among-best", None, tree_of(a=dirichlet(2, 3)), draws=DRAWS)["a"]
    exact = 1 - betainc(2, 3, 0.5)
    assert found.scores.tolist() == pytest.approx([exact, 1 - exact], abs=0.018)
    assert found.unit == "probability"
    assert not found.across_sites


def test_ranks_are_those_of_each_draw() -> None:
    s = torch.tensor([[.4, .3, .2, .06, .04], [.1, .5, .2, .05, .15]]).double()[None]  # fmt: skip
    for share, expected in (
        (0.5, [0.5, 1, 0.5, 0, 0]),  # round(2.5) = 2 of 5
        (0.55, [0.5, 1, 1, 0, 0.5]),  # round(2.75) = 3
        (0.01, [0.5, 0.5, 0, 0, 0]),  # at least one
        (1, [1, 1, 1, 1, 1]),
    ):
        found = evidence("among-best", None, tree_of(a=s), share=share)["a"]
        assert found.scores.tolist() == expected
        assert found.draws is not None
        torch.testing.assert_close(found.draws.mean(0), found.scores)


@pytest.mark.parametrize("name", NAMES)
def test_a_fit_and_its_tree_give_the_same(case: Case, name: str) -> None:
    from_fit = evidence(name, case.model, case.fit)
    for model in (case.model, None):
        from_tree = evidence(name, model, case.tree)
        for site, scores in from_fit.items():
            assert torch.equal(scores.scores, from_tree[site].scores)
        assert from_tree.passes == Passes()
        assert from_tree.learning == from_fit.learning
    assert from_fit.learning is not None
    assert from_fit.learning.forward > 0


def test_draws_are_the_first_of_each_restart(case: Case) -> None:
    found = evidence("mean:draws=3", None, case.tree)["2"]
    values = torch.from_numpy(case.tree["posterior"]["2"].values[:, :3].reshape(6, 5))
    assert found.draws is not None
    torch.testing.assert_close(found.draws, 5 * values)


def test_a_switch_that_is_off_for_sure_scores_lowest() -> None:
    s = torch.tensor([[0.0, 0.4, 0.6], [0.0, 0.5, 0.5]]).double()[None]
    scores = evidence("snr", None, tree_of(a=s))["a"].scores
    assert scores[0] == 0
    assert bool(scores.isfinite().all())


def test_what_is_wrong_is_named(case: Case) -> None:
    with pytest.raises(DirpruneError, match=r"share=1.5: expected a share .* in \(0, 1\]"):
        evidence("among-best:share=1.5", None, case.tree)
    with pytest.raises(DirpruneError, match="'snr' needs at least 2 draws, got 1"):
        evidence("snr", None, tree_of(a=dirichlet(1, 1)[:, :1]))
    for name in NAMES:
        with pytest.raises(DirpruneError, match=rf"'{name}' needs a posterior"):
            evidence(name, case.model, None, case.loader)
