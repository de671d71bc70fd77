"""Mean gains: K times the mean of the switches' draws."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dirprune.analysis.gains import mean_gains
from dirprune.model.errors import DirpruneError


def test_mean_gains_are_the_means_of_the_draws(case: Any) -> None:
    found = mean_gains(case.model, case.tree)
    assert list(found) == list(case.model.sites)
    for name, site in case.model.sites.items():
        draws = torch.from_numpy(case.tree["posterior"][name].values.copy())
        # 1e-12: means of 800 numbers in float64
        want = site.size * draws.double().flatten(0, 1).mean(0)
        torch.testing.assert_close(found[name], want, rtol=1e-12, atol=1e-12)
        assert float(found[name].mean()) == pytest.approx(1, rel=1e-9)  # draws are on the simplex


def test_a_fit_has_those_of_its_guides(case: Any) -> None:
    found = mean_gains(case.model, case.fit)
    for name, site in case.model.sites.items():
        means = [guide.mean()[name].double() for guide in case.fit.guides]
        sds = [guide.variance()[name].double().sqrt() for guide in case.fit.guides]
        want = site.size * torch.stack(means).mean(0)
        # Five standard errors of a mean over 400 draws of each of the two guides.
        error = site.size * torch.stack(sds).mean(0) / 800**0.5
        assert bool(((found[name] - want).abs() <= 5 * error).all())


def test_without_a_posterior_there_are_none(case: Any) -> None:
    with pytest.raises(DirpruneError, match="needs a posterior"):
        mean_gains(case.model, None)
