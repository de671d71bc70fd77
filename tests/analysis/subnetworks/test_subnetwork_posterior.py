"""The posterior over sub-networks against enumeration, and what it is made of."""

from __future__ import annotations

import itertools
import json
from typing import Any

import arviz as az
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.subnetworks.masks import masks_of
from dirprune.analysis.subnetworks.posterior import inclusion, subnetwork_posterior
from dirprune.analysis.subnetworks.slopes import mean_log_prob
from dirprune.analysis.tree import load_tree, save_tree
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError

Case = Any  # of conftest.py
START = Decision({"0": torch.tensor([0, 1, 2]), "2": torch.tensor([0, 1])})


def exact(case: Case) -> tuple[dict[str, Tensor], float]:
    """Every unit's inclusion probability and the mean log density, by enumeration."""
    rows, values = [], []
    for a in itertools.combinations(range(6), 3):
        for b in itertools.combinations(range(5), 2):
            masks = masks_of(case.model, Decision({"0": torch.tensor(a), "2": torch.tensor(b)}))
            rows.append(torch.cat(list(masks.values())).double())
            values.append(mean_log_prob(case.model, masks, case.inputs, case.targets))
    # tau N = 0.5 x 60
    log_p = 30 * torch.tensor(values, dtype=torch.float64)
    p = log_p.softmax(0)
    probability = p @ torch.stack(rows)
    return {"0": probability[:6], "2": probability[6:]}, float(p @ log_p)


def test_it_has_the_exact_inclusion_probabilities(case: Case) -> None:
    tree = subnetwork_posterior(
        case.model, START, case.loader, draws=800, warmup=50, chains=2, images=60
    )
    truth, log_p = exact(case)
    errors = az.mcse(tree, method="mean")
    for name, found in inclusion(tree).items():
        # four standard errors of the chains' own; those of a unit that never changes are zero
        spread = torch.from_numpy(np.nan_to_num(errors[name].values))
        assert bool(((found - truth[name]).abs() < 4 * spread + 0.01).all())
        assert float(found.sum()) == pytest.approx({"0": 3, "2": 2}[name], abs=1e-9)
    lp = tree["sample_stats"]["lp"]
    assert float(lp.mean()) == pytest.approx(log_p, abs=4 * float(az.mcse(lp.values)) + 0.05)
    # it says something: the truth is far from the prior's 3 of 6 and 2 of 5
    assert float((truth["0"] - 0.5).abs().max()) > 0.2


def test_the_tree_is_arviz_s(case: Case, tmp_path: Any) -> None:
    tree = subnetwork_posterior(
        case.model, START, case.loader, draws=30, warmup=10, chains=2, images=40
    )
    assert tree["posterior"]["0"].dims == ("chain", "draw", "0_unit")
    assert bool((tree["posterior"]["2"].sum("2_unit") == 2).all())
    settings = json.loads(tree.attrs["settings"])
    # one evaluation at the start and one a step, of 40 images
    assert settings["passes"]["forward"] == settings["passes"]["backward"] <= 40 * 81
    assert settings["passes"]["forward"] > 40 * 60
    stats = tree["sample_stats"]
    assert np.allclose(stats["lp"], 30 * stats["log_prob"])  # tau N = 30 of the 40 images
    save_tree(tree, tmp_path / "subnetworks.nc")
    again = load_tree(tmp_path / "subnetworks.nc")
    assert np.array_equal(again["posterior"]["0"], tree["posterior"]["0"])


def test_no_image_counts_more_than_once(case: Case) -> None:
    """tau N = 30, of which 10 images are looked at."""
    tree = subnetwork_posterior(case.model, START, case.loader, draws=4, warmup=0, images=10)
    stats = tree["sample_stats"]
    assert np.allclose(stats["lp"], 10 * stats["log_prob"])


def test_chains_begin_at_their_own_decisions(case: Case) -> None:
    """Without a step that could be taken: the target allows the starts alone."""
    other = Decision({"0": torch.tensor([3, 4, 5]), "2": torch.tensor([3, 4])})
    tree = subnetwork_posterior(
        case.model, [START, other], case.loader, draws=2, warmup=0, chains=3, images=60
    )
    first = tree["posterior"]["0"][:, 0].values
    # One step swaps at most one unit of one site.
    for chain, start in enumerate((START, other, START)):
        mask = np.zeros(6)
        mask[start.kept["0"].numpy()] = 1
        assert abs(first[chain] - mask).sum() <= 2


def test_the_same_seed_gives_the_same_and_generators_stay(case: Case) -> None:
    loader: Any = DataLoader(TensorDataset(case.inputs, case.targets), batch_size=20, shuffle=True)
    state = torch.random.get_rng_state()
    first, again, other = (
        subnetwork_posterior(
            case.model, START, loader, draws=20, warmup=5, chains=1, images=30, seed=seed
        )
        for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first["posterior"].to_dataset().identical(again["posterior"].to_dataset())
    assert not first["posterior"].to_dataset().identical(other["posterior"].to_dataset())


def test_bad_input_is_refused(case: Case) -> None:
    for options, words in (
        ({"draws": 1}, "draws=1: expected a whole number of at least 2"),
        ({"warmup": -1}, "warmup=-1"),
        ({"chains": 0}, "chains=0"),
        ({"images": 0}, "images=0"),
        ({"chains": 1, "decision": [START, START]}, "chains=1, but 2 decisions"),
        ({"decision": [START, Decision({"0": torch.tensor([0])})]}, "expected the same"),
    ):
        with pytest.raises(DirpruneError, match=words):
            subnetwork_posterior(
                **{"model": case.model, "decision": START, "loader": case.loader, **options}
            )
    with pytest.raises(DirpruneError, match="the loader is empty"):
        subnetwork_posterior(case.model, START, [])
    bad = DataLoader(TensorDataset(case.inputs * torch.nan, case.targets), batch_size=20)
    with pytest.raises(DirpruneError, match="outputs are not finite"):
        subnetwork_posterior(case.model, START, bad)
