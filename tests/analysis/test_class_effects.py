"""What removals do per class, against networks that were pruned one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.class_effects import ClassEffects, class_effects
from dirprune.analysis.plots import class_effect_figure
from dirprune.analysis.plots.style import KEPT, REMOVED
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork


def by_class(network: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss and accuracy in percent, class by class."""
    with torch.no_grad():
        logits = network(inputs)
    loss = F.cross_entropy(logits, targets, reduction="none")
    right = (logits.argmax(1) == targets).double()
    return tuple(
        torch.stack([values[targets == c].mean() for c in range(3)])
        for values in (loss, 100 * right)
    )  # type: ignore[return-value]


def test_effects_are_those_of_the_pruned_networks(case: Any) -> None:
    model, inputs, targets = case.model, case.inputs, case.targets
    decision = Decision({"0": torch.tensor([1, 2, 5]), "2": torch.tensor([0, 3])})
    found = class_effects(model, case.loader, decision, images=60)
    assert list(found.loss) == list(found.accuracy) == list(model.sites) == ["0", "2"]
    assert found.images.tolist() == torch.bincount(targets).tolist()
    assert found.class_names == ("0", "1", "2")
    loss, accuracy = by_class(model.network, inputs, targets)
    # 1e-10: means of 60 numbers in float64, through networks that sum in another order
    for site, size in (("0", 6), ("2", 5)):
        for unit in range(size):
            stays = torch.tensor([k for k in range(size) if k != unit])
            alone = by_class(prune(model, Decision({site: stays})), inputs, targets)
            torch.testing.assert_close(found.loss[site][unit], alone[0] - loss, atol=1e-10, rtol=0)
            torch.testing.assert_close(
                found.accuracy[site][unit], accuracy - alone[1], atol=1e-10, rtol=0
            )
    joint = by_class(prune(model, decision), inputs, targets)
    torch.testing.assert_close(found.joint_loss, joint[0] - loss, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.joint_accuracy, accuracy - joint[1], atol=1e-10, rtol=0)
    assert float(found.joint_loss.abs().max()) > 0.01
    # Nobody listens to unit 2 of the second site.
    assert float(found.loss["2"][2].abs().max()) <= 1e-12


def test_sites_images_and_names_can_be_chosen(case: Any) -> None:
    found = class_effects(case.model, case.loader, images=25, sites=["2"], class_names="abc")
    assert list(found.loss) == ["2"]
    assert int(found.images.sum()) == 25
    assert found.class_names == ("a", "b", "c")
    assert found.joint_loss is found.joint_accuracy is None


def test_some_units_of_a_site_are_those_rows(case: Any) -> None:
    whole = class_effects(case.model, case.loader)
    some = class_effects(case.model, case.loader, units={"2": [4, 0], "0": [3]})
    assert {n: u.tolist() for n, u in some.units.items()} == {"2": [4, 0], "0": [3]}
    both = class_effects(case.model, case.loader, sites=["0", "2"], units={"2": [4]})
    assert {n: u.tolist() for n, u in both.units.items()} == {"0": [0, 1, 2, 3, 4, 5], "2": [4]}
    assert {n: u.tolist() for n, u in whole.units.items()} == {
        "0": [0, 1, 2, 3, 4, 5], "2": [0, 1, 2, 3, 4],
    }  # fmt: skip
    for name, units in some.units.items():
        # 1e-10: the same numbers in batches of another size
        torch.testing.assert_close(some.loss[name], whole.loss[name][units], atol=1e-10, rtol=0)
        torch.testing.assert_close(some.accuracy[name], whole.accuracy[name][units])


def test_a_class_without_images_has_no_figures(case: Any) -> None:
    chosen = case.targets != 1
    images = DataLoader(TensorDataset(case.inputs[chosen], case.targets[chosen]), batch_size=20)
    found = class_effects(case.model, images)
    assert bool(found.loss["0"][:, 1].isnan().all())
    assert bool(found.loss["0"][:, [0, 2]].isfinite().all())
    class_effect_figure(found).canvas.draw()


def test_what_is_wrong_is_said(case: Any) -> None:
    with pytest.raises(DirpruneError, match="no site '9'; this network has 0, 2"):
        class_effects(case.model, case.loader, sites=["9"])
    for units in ([5], [-1], []):
        with pytest.raises(DirpruneError, match=r"of site '2': expected some of 0 to 4"):
            class_effects(case.model, case.loader, units={"2": units})
    with pytest.raises(DirpruneError, match="class_names: expected 3, got 2"):
        class_effects(case.model, case.loader, class_names=["a", "b"])
    with pytest.raises(DirpruneError, match="images: expected at least 1"):
        class_effects(case.model, case.loader, images=0)
    with pytest.raises(DirpruneError, match="of another network"):
        class_effects(case.model, case.loader, Decision({"9": torch.tensor([0])}))
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    model = SwitchedNetwork(network, torch.randn(2, 4), num_data=8, likelihood="gaussian")
    images = DataLoader(TensorDataset(torch.randn(8, 4), torch.randn(8, 2)), batch_size=8)
    with pytest.raises(DirpruneError, match="are for classifiers"):
        class_effects(model, images)


def test_targets_that_are_no_classes_are_refused(case: Any) -> None:
    for targets, message in (
        (case.targets + 3, r"labels: expected 0 to 2 for the network's 3 outputs, got 3 to 5"),
        (case.targets - 1, r"labels: expected 0 to 2 .* got -1 to 1"),
        (case.targets.double() / 2, r"labels: expected integers \[60\], got torch.float64"),
    ):
        images = DataLoader(TensorDataset(case.inputs, targets), batch_size=20)
        with pytest.raises(DirpruneError, match=message):
            class_effects(case.model, images)


def made_up(sizes: dict[str, int], classes: int, names: tuple[str, ...] | None = None) -> Any:
    torch.manual_seed(0)
    effects = ClassEffects(
        {n: torch.arange(k) for n, k in sizes.items()},
        {n: torch.randn(k, classes).double() for n, k in sizes.items()},
        {n: torch.randn(k, classes).double() for n, k in sizes.items()},
        torch.randn(classes),
        10 * torch.rand(classes),
        torch.ones(classes).long(),
        names or tuple(map(str, range(classes))),
    )
    return effects, Decision({n: torch.arange((k + 1) // 2) for n, k in sizes.items()})


def test_rows_of_some_units_have_their_numbers_and_their_decisions() -> None:
    effects, _ = made_up({"fc1": 3}, 2)
    effects = dataclasses.replace(effects, units={"fc1": torch.tensor([40, 7, 12])})
    effects.loss["fc1"][:] = torch.tensor([[1.0, 1.0], [3.0, 3.0], [2.0, 2.0]])
    figure = class_effect_figure(effects, Decision({"fc1": torch.tensor([1, 7, 12])}))
    ax = next(a for a in figure.axes if a.collections)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["7", "12", "40"]
    strip = [(p.get_y(), p.get_height(), to_hex(p.get_facecolor())) for p in ax.patches]
    assert strip == [(0.5, 2, KEPT.lower()), (2.5, 1, REMOVED.lower())]


CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.mark.parametrize(
    ("sizes", "names", "classes"),
    [
        ({"conv": 6}, None, 3),
        ({"a.long.name.of.a.layer.of.the.network": 20, "two": 500}, CIFAR, 10),
        ({f"layer{i}": 2 + i for i in range(5)}, None, 100),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_the_figure_shows_all_units_and_fits(
    sizes: dict[str, int], names: tuple[str, ...] | None, classes: int, whole: bool
) -> None:
    effects, decision = made_up(sizes, classes, names)
    if not whole:
        effects = dataclasses.replace(effects, joint_loss=None, joint_accuracy=None)
    figure = class_effect_figure(effects, decision if whole else None)
    maps = [
        (ax, mesh)
        for ax in figure.axes
        for mesh in ax.collections
        if isinstance(mesh, QuadMesh) and ax.get_label() != "<colorbar>"
    ]
    assert len(maps) == len(sizes)
    for (ax, mesh), (site, size) in zip(maps, sizes.items(), strict=True):
        values = np.asarray(mesh.get_array()).reshape(size, classes)
        loss = effects.loss[site].numpy()
        order = np.argsort(-loss.mean(1), kind="stable")
        np.testing.assert_allclose(values, loss[order])
        assert len(ax.get_yticks()) <= 20
        if size <= 20:
            assert [t.get_text() for t in ax.get_yticklabels()] == [str(u) for u in order]
    if whole:
        for ax, values in zip(
            figure.axes[:2], (effects.joint_accuracy, effects.joint_loss), strict=True
        ):
            heights = [bar.get_height() for bar in ax.patches]
            np.testing.assert_allclose(heights, values, rtol=1e-6)
            assert len(ax.texts) == (classes if classes <= 20 else 0)
    figure.canvas.draw()
    for ax in figure.axes:
        low, high = ax.get_xlim()
        ticks = [t.label1 for t in ax.xaxis.get_major_ticks() if low <= t.get_loc() <= high]
        for text in [ax.title, *ax.texts, ax.xaxis.label, ax.yaxis.label, *ticks]:
            box = text.get_window_extent()
            if not text.get_text().strip():
                continue
            assert box.x0 >= 0, text
            assert box.x1 <= figure.bbox.x1, text
            assert box.y0 >= 0, text
            assert box.y1 <= figure.bbox.y1, text
