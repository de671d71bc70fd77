"""DataTrees whose posterior is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from dirprune.analysis.tree import site_dataset


def draw_dirichlet(concentration, *shape, seed=0):
    torch.manual_seed(seed)
    phi = torch.as_tensor(concentration, dtype=torch.float64)
    return torch.distributions.Dirichlet(phi).sample(shape)


def tree_of(posterior, prior=None, concentration=None, lp=None, log_q=None):
    """A DataTree from site -> [chain, draw, K]."""
    chains, draws = next(iter(posterior.values())).shape[:2]
    groups = {"posterior": site_dataset(posterior, ("chain", "draw"))}
    if prior is not None:
        groups["prior"] = site_dataset(prior, ("chain", "draw"))
    if concentration is not None:
        groups["concentration"] = site_dataset(concentration, ("chain",))
    zero = np.zeros((chains, draws))
    stats = {"lp": zero if lp is None else lp, "log_q": zero if log_q is None else log_q}
    groups["sample_stats"] = xr.Dataset({n: (("chain", "draw"), v) for n, v in stats.items()})
    return xr.DataTree.from_dict(groups)


def conjugate_tree(prior, counts, guide=None, *, chains=2, draws=4000, temperature=1.0):
    """The Dirichlet-multinomial model: s ~ Dir(a), y_i ~ Categorical(s), n_k = counts.

    Draws come from Dir(guide), by default from the (tempered) posterior Dir(a + tau n).
    """
    a, n = (torch.as_tensor(v, dtype=torch.float64) for v in (prior, counts))
    q = a + temperature * n if guide is None else torch.as_tensor(guide, dtype=torch.float64)
    s = draw_dirichlet(q, chains, draws)
    y = torch.arange(len(n)).repeat_interleave(n.long())
    each = s.log()[..., y]
    log_prior = torch.distributions.Dirichlet(a).log_prob(s)
    tree = tree_of(
        {"a": s},
        prior={"a": draw_dirichlet(a, 1, draws, seed=1)},
        lp=(log_prior + temperature * each.sum(-1)).numpy(),
        log_q=torch.distributions.Dirichlet(q).log_prob(s).numpy(),
    )
    dims = ("chain", "draw")
    tree["log_prior"] = xr.DataTree(xr.Dataset({"switches": (dims, log_prior.numpy())}))
    tree["log_likelihood"] = xr.DataTree(
        xr.Dataset({"targets": ((*dims, "image"), each.numpy())}).assign_coords(
            chain=np.arange(chains), draw=np.arange(draws)
        )
    )
    tree.attrs = {"temperature": temperature, "num_data": len(y)}
    return tree


@pytest.fixture
def dirichlet():
    return draw_dirichlet


@pytest.fixture
def make_tree():
    return tree_of


@pytest.fixture
def conjugate():
    return conjugate_tree


@pytest.fixture
def point_tree(dirichlet, make_tree):
    """Two restarts of a point-mass guide: equal draws, a constant "density"."""
    point = dirichlet([2.0] * 5, 2, 1).expand(2, 100, 5)
    tree = make_tree({"a": point}, prior={"a": dirichlet([1.0] * 5, 1, 100)})
    tree["log_prior"] = xr.DataTree(
        xr.Dataset({"switches": (("chain", "draw"), np.zeros((2, 100)))})
    )
    tree["log_likelihood"] = xr.DataTree(
        xr.Dataset({"targets": (("chain", "draw", "image"), np.zeros((2, 100, 7)))})
    )
    tree.attrs = {"temperature": 1.0, "num_data": 7}
    return tree


@pytest.fixture
def nuts_tree(conjugate):
    """Independent draws of the posterior, as a perfect sampler would make them."""
    tree = conjugate([1.0] * 4, [9, 5, 3, 1], draws=1000)
    stats = tree["sample_stats"].to_dataset().drop_vars("log_q")
    stats["diverging"] = (("chain", "draw"), np.zeros((2, 1000), dtype=bool))
    tree["sample_stats"] = xr.DataTree(stats)
    return tree
