"""Names in the tree, and how a site's tensor becomes a variable."""

import numpy as np
import torch

from dirprune.analysis.tree import evidence_draws, evidence_group, site_dataset, unit_dim


def test_names() -> None:
    assert unit_dim("layer1.0.conv1") == "layer1.0.conv1_unit"
    assert evidence_group("removal-cost") == "evidence"
    assert evidence_group("fisher") == "evidence_fisher"


def test_a_sites_tensor_is_a_variable_over_its_units() -> None:
    values = {"a": torch.arange(24.0).view(2, 3, 4), "b": torch.zeros(2, 3, 1).requires_grad_()}
    dataset = site_dataset(values, ("chain", "draw"))
    assert dict(dataset.sizes) == {"chain": 2, "draw": 3, "a_unit": 4, "b_unit": 1}
    assert dataset["a"].sel(chain=1, draw=2, a_unit=3) == 23
    assert dataset["a"].dtype == np.float32
    assert dataset["a_unit"].values.tolist() == [0, 1, 2, 3]


def test_draws_of_all_chains_stand_one_below_the_other() -> None:
    import xarray as xr

    values = torch.arange(24.0).view(2, 3, 4)
    groups = {"evidence_fisher": site_dataset({"a": values}, ("chain", "draw"))}
    found = evidence_draws(xr.DataTree.from_dict(groups), "fisher")
    assert found is not None
    assert torch.equal(found["a"], values.view(6, 4))
