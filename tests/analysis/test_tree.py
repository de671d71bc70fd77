"""Names in the tree, and how a site's tensor becomes a variable."""

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from dirprune.analysis.tree import (
    evidence_draws,
    evidence_group,
    load_tree,
    save_tree,
    site_dataset,
    unit_dim,
)


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


def test_a_loaded_tree_needs_its_file_no_more(tmp_path: Path) -> None:
    """A variable with the name of a group (validation/log_likelihood) is in memory too."""
    values = xr.Dataset({"log_likelihood": ("image", np.arange(5.0))}, attrs={"a": 1})
    tree = xr.DataTree.from_dict({"log_likelihood": values, "validation": values})
    tree.attrs["seed"] = 3
    save_tree(tree, tmp_path / "posterior.nc")
    loaded = load_tree(tmp_path / "posterior.nc")
    (tmp_path / "posterior.nc").unlink()
    save_tree(loaded, tmp_path / "again.nc")
    again = load_tree(tmp_path / "again.nc")
    assert again.identical(tree)
