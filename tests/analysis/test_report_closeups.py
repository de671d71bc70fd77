"""Close-ups: what a run saw of single units comes back from its file into the report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dirprune.analysis.class_effects import class_effects
from dirprune.analysis.feature_maps import feature_maps
from dirprune.analysis.plots import site_views
from dirprune.analysis.report import render, write_report
from dirprune.analysis.report.closeups_file import read_closeups, write_closeups
from dirprune.analysis.report.pictures import _figures
from dirprune.analysis.report.reading import read_run
from dirprune.analysis.tree import load_tree, save_tree
from dirprune.inference.data import ImageData, load_data, loader
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network
from dirprune.model.switched import SwitchedNetwork

from .made_run import Parser, make_run, visible

SIZES = {"conv1": 16, "conv2": 32, "fc1": 64}


def look_at(folder: Path, model: SwitchedNetwork, data: ImageData | None = None) -> ImageData:
    """Write close-ups of a network on the digits into a run's folder; the data."""
    data = data or load_data("digits")
    tree, decision = load_tree(folder / "posterior.nc"), Decision.load(folder / "decision.json")
    write_closeups(folder, model, tree, decision, "removal-cost", data)
    return data


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with close-ups of a network, the network and the data; tests only read them."""
    folder = make_run(tmp_path_factory.mktemp("closeups") / "RUN", SIZES)
    network = build_network("digits-cnn", num_classes=10, in_channels=1, size=8).eval()
    model = SwitchedNetwork(network, torch.randn(2, 1, 8, 8), num_data=2)
    return folder, model, look_at(folder, model)


def test_they_are_of_the_first_and_the_last_units_and_come_back(case: Any) -> None:
    folder, model, data = case
    tree, decision = load_tree(folder / "posterior.nc"), Decision.load(folder / "decision.json")
    views = site_views(tree, decision)
    found = read_closeups(folder, tree, views)
    assert found is not None
    batches = loader(data.validation, 50)
    whole = class_effects(model, batches, decision, images=300)
    assert list(found.effects.units) == list(SIZES)
    for site, size in SIZES.items():
        order = views[site].order.tolist()
        units = order if size == 16 else order[:10] + order[-10:]
        assert found.effects.units[site].tolist() == units
        # 1e-6: of float32 outputs, in batches of another size
        for one, other in (
            (found.effects.loss, whole.loss), (found.effects.accuracy, whole.accuracy),
        ):  # fmt: skip
            torch.testing.assert_close(one[site], other[site][units], atol=1e-6, rtol=0)
    assert whole.joint_loss is not None
    assert whole.joint_accuracy is not None
    torch.testing.assert_close(found.effects.joint_loss, whole.joint_loss)
    torch.testing.assert_close(found.effects.joint_accuracy, whole.joint_accuracy)
    assert found.effects.images.tolist() == data.validation.labels.bincount().tolist()
    assert found.effects.class_names == data.class_names
    # four images of four classes, on the scale of their bytes
    seen, where = set(), []
    for i, label in enumerate(data.validation.labels.tolist()):
        if label not in seen and len(where) < 4:
            where.append(i)
            seen.add(label)
    pixels = data.validation.pixels(torch.tensor(where)) / data.validation.full_scale
    torch.testing.assert_close(found.pictures, pixels, atol=1e-6, rtol=0)
    assert list(found.maps) == ["conv1", "conv2"]  # of fc1 there are none
    for site, (units, maps) in found.maps.items():
        order = views[site].order.tolist()
        assert units == order[:4] + order[-4:]
        whole_maps = feature_maps(model, site, data.validation[where][0])
        torch.testing.assert_close(maps, whole_maps[:, units], atol=1e-6, rtol=0)


def test_images_in_the_order_of_their_classes_are_of_all_classes(
    case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "RUN"
    shutil.copytree(case[0], folder)
    validation = case[2].validation
    by_class = validation.subset(validation.labels.argsort(stable=True))
    monkeypatch.setattr("dirprune.analysis.report.closeups.IMAGES", 40)
    look_at(folder, case[1], dataclasses.replace(case[2], validation=by_class))
    found = read_run(folder).closeups
    assert found is not None
    # 40 of 126, of which every class has 12 or 13
    assert int(found.effects.images.sum()) == 40
    assert set(found.effects.images.tolist()) <= {3, 4, 5}
    one, two = found.pictures[:2]
    assert not torch.equal(one, two)


def test_the_report_shows_them(case: Any) -> None:
    folder, _, data = case
    text = write_report(folder).read_text()
    Parser(text)
    figures = {p.name for p in (folder / "figures").iterdir()}
    assert {"classes.png", "maps-00.png", "maps-01.png"} <= figures
    assert "maps-02.png" not in figures
    words = visible(text)
    each = data.validation.labels.bincount()
    for expected in (
        "Which classes pay for a removal",
        f"From {len(data.validation)} validation images, {each.min()} to {each.max()} of a class",
        "Of a site with more than 20 units the 10 that rank first and the 10 that rank last",
        "Feature maps of the channels that rank first and last",
    ):
        assert expected in words, expected
    assert "sites, spread evenly" not in words[words.index("Which classes pay") :]
    assert "left out" not in words


def test_without_them_they_are_left_out_with_a_note(case: Any, tmp_path: Path) -> None:
    folder = tmp_path / "RUN"
    shutil.copytree(case[0], folder)
    (folder / "closeups.nc").unlink()
    run = read_run(folder)
    words = visible(render(run, []))
    assert "feature maps, are left out" in words
    assert "closeups.nc" in words
    assert "Which classes pay" not in words
    assert not {"classes", "maps"} & {section for section, *_ in _figures(run)}


def test_a_network_without_maps_has_classes_only(tmp_path: Path) -> None:
    sizes = {"1": 5, "3": 4, "5": 4, "7": 3}
    folder = make_run(tmp_path, sizes)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in ((64, 5), (5, 4), (4, 4), (4, 3)):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(3, 10))
    look_at(folder, SwitchedNetwork(network, torch.randn(2, 1, 8, 8), num_data=2))
    run = read_run(folder)
    words = visible(render(run, []))
    assert "Which classes pay" in words
    assert "and 3 of 4 sites, spread evenly" in words
    assert "eature maps" not in words.replace("Classes and maps", "")
    sections = {section for section, *_ in _figures(run)}
    assert "classes" in sections
    assert "maps" not in sections


@pytest.mark.parametrize("what", ["seed", "ranking", "garbage", "group", "site"])
def test_what_is_damaged_or_of_another_run_is_refused(case: Any, tmp_path: Path, what: str) -> None:
    folder = tmp_path / "RUN"
    shutil.copytree(case[0], folder)
    path = folder / "closeups.nc"
    tree = load_tree(path)
    expected = "closeups.nc is damaged"
    if what == "seed":
        tree.attrs["seed"] = 8
        expected = r"closeups\.nc is of another run than posterior\.nc: remove it"
    elif what == "ranking":
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps({**metrics, "evidence": "concentration"}))
        expected = r"closeups\.nc shows other units than"
    elif what == "group":
        tree = tree.drop_nodes(["joint"])
    elif what == "site":
        tree["loss"] = tree["loss"].to_dataset().rename(fc1="fc7")
    save_tree(tree, path)
    if what == "garbage":
        path.write_bytes(b"garbage")
        expected = r"closeups\.nc is not a NetCDF file"
    with pytest.raises(DirpruneError, match=expected):
        write_report(folder)
