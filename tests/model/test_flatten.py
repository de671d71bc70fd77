"""Inputs of a flattened linear layer as units of their own: ``flatten="features"``."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.cost import CostTable, count_macs, count_params
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.export import export
from dirprune.model.networks import LeNet5, build_network
from dirprune.model.selected import SelectedLinear
from dirprune.model.storage import DESCRIPTION, WEIGHTS, load, save
from dirprune.model.surgery import mask, prune
from dirprune.model.switched import SwitchedNetwork

from .graph.networks import IMAGES, Net, assert_close, check_exact, conv, spread


def features(network: nn.Module, images: Tensor = IMAGES, **options: object) -> SwitchedNetwork:
    """The network in float64, its flattened inputs single."""
    return SwitchedNetwork(spread(network), images, num_data=10, flatten="features", **options)  # type: ignore[arg-type]


def lenet() -> tuple[nn.Module, Tensor]:
    """LeNet-5 on small images: fc1 reads 50 channels of 2 x 2."""
    return LeNet5(size=20), torch.randn(3, 1, 20, 20, dtype=torch.float64)


def plain() -> nn.Module:
    """Six channels of 3 x 3, of which ``b`` reads 54 features."""
    return Net(
        lambda m, x: m.c(F.relu(m.b(F.max_pool2d(F.relu(m.a(x)), 2).flatten(1)))),
        a=conv(3, 6), b=nn.Linear(54, 5), c=nn.Linear(5, 4),
    )  # fmt: skip


def two_readers() -> nn.Module:
    """A convolution reads the channels too: they stay when all their features are gone."""
    return Net(
        lambda m, x: m.b((y := F.relu(m.a(x))).flatten(1)) + m.d(m.c(y).mean((2, 3))),
        a=conv(3, 4), b=nn.Linear(144, 5), c=conv(4, 3), d=nn.Linear(3, 5),
    )  # fmt: skip


def two_heads() -> nn.Module:
    """Both heads read the same flattened map: a channel goes with its last feature in either."""
    return Net(
        lambda m, x: torch.cat([m.b(y := F.relu(m.a(x)).flatten(1)), m.c(y)], 1),
        a=conv(3, 4), b=nn.Linear(144, 5), c=nn.Linear(144, 2),
    )  # fmt: skip


def with_rows() -> nn.Module:
    """Beside the flattened map the layer reads numbers that no layer produces."""
    return Net(
        lambda m, x: m.c(F.relu(m.b(torch.cat([x[:, 0, 0], F.relu(m.a(x)).flatten(1)], 1)))),
        a=conv(3, 4), b=nn.Linear(150, 5), c=nn.Linear(5, 4),
    )  # fmt: skip


def residual() -> nn.Module:
    """Two layers produce each channel."""
    return Net(
        lambda m, x: m.c(F.relu((y := m.a(x)) + m.b(F.relu(y))).flatten(1)),
        a=conv(3, 4), b=conv(4, 4), c=nn.Linear(144, 5),
    )  # fmt: skip


def gated() -> nn.Module:
    """What the flattened layer computes scales the very channels that it reads."""
    return Net(
        lambda m, x: m.c((y := F.relu(m.a(x))) * m.b(y.flatten(1))[..., None, None]).mean((2, 3)),
        a=conv(3, 4), b=nn.Linear(144, 4), c=conv(4, 3),
    )  # fmt: skip


def normalised() -> nn.Module:
    """A batch norm between the map and the layer has all features of the channels that stay."""
    return Net(
        lambda m, x: m.b(m.n(F.relu(m.a(x)).flatten(1))),
        a=conv(3, 4), n=nn.BatchNorm1d(144), b=nn.Linear(144, 5),
    )  # fmt: skip


NETWORKS = {
    "plain": (plain, {"a": 6, "b.inputs": 54, "b": 5}),
    "two readers": (two_readers, {"a": 4, "b.inputs": 144, "c": 3}),
    "two heads": (two_heads, {"a": 4, "b.inputs": 144, "c.inputs": 144}),
    "with rows": (with_rows, {"a": 4, "b.inputs": 144, "b": 5}),
    "residual": (residual, {"a": 4, "c.inputs": 144}),
    "gated": (gated, {"a": 4, "b.inputs": 144}),
    "normalised": (normalised, {"a": 4, "b.inputs": 144}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_pruned_masked_and_gains_of_zero_are_one_function(name: str) -> None:
    build, sites = NETWORKS[name]
    model = features(build())
    assert {name: site.size for name, site in model.sites.items()} == sites
    check_exact(model)


def test_lenet_is_exact() -> None:
    check_exact(features(*lenet()), decisions=2)


def test_digits_cnn_is_exact() -> None:
    network = build_network("digits-cnn", num_classes=10, in_channels=1, size=8)
    model = features(network, torch.randn(3, 1, 8, 8, dtype=torch.float64))
    assert {name: site.size for name, site in model.sites.items()} == {
        "conv1": 16, "conv2": 32, "fc1.inputs": 512, "fc1": 64,
    }  # fmt: skip
    assert model.sites["fc1.inputs"].producers == ()
    assert model.sites["fc1.inputs"].consumers == ("fc1",)
    check_exact(model, decisions=2)


def literature_row() -> Decision:
    """8-13-88-13: of the 16 features of each of 13 channels the first, and 75 of the others."""
    rest = torch.tensor([16 * c + i for c in range(13) for i in range(1, 16)])
    chosen = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))[:75]]
    return Decision(
        {
            "conv1": torch.arange(8),
            "conv2": torch.arange(13),
            "fc1.inputs": torch.cat([16 * torch.arange(13), chosen]),
            "fc1": torch.arange(13),
        }
    )


def test_a_row_of_the_literature_has_its_published_cost() -> None:
    """Bayesian compression (GNJ) publishes 8-13-88-13: 283 K multiply-adds, 4.1 K parameters."""
    images = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    model, decision = features(LeNet5(), images), literature_row()
    pruned = prune(model, decision)
    # conv1 24x24x8x25, conv2 8x8x13x8x25, 88 features to 13 and 13 to 10; then weights and biases.
    macs = 24 * 24 * 8 * 25 + 8 * 8 * 13 * 8 * 25 + 88 * 13 + 13 * 10
    params = 8 * 26 + 13 * (8 * 25 + 1) + 13 * 89 + 10 * 14
    assert count_macs(pruned, (images,)) == macs == 282_874
    assert count_params(pruned) == params == 4_118
    assert model.costs.total("macs", decision.kept) == macs
    assert model.costs.total("params", decision.kept) == params
    again = CostTable.from_dict(model.costs.to_dict())
    assert again.total("macs", decision.kept) == macs
    with torch.no_grad():
        assert_close(pruned(images), mask(model, decision)(images))


def test_features_go_with_their_channel() -> None:
    model = features(plain())
    pruned = prune(model, Decision({"a": torch.tensor([1, 4])}))
    assert type(pruned.b) is nn.Linear  # whole channels: nothing to select
    assert pruned.b.in_features == 18
    assert model.costs.total("params", {"a": torch.tensor([1, 4])}) == count_params(pruned)


def test_a_channel_goes_with_its_last_feature_where_nothing_else_reads_it() -> None:
    kept = torch.tensor([0, 3, 20])  # of channels 0, 0 and 2
    pruned = prune(features(plain()), Decision({"b.inputs": kept}))
    assert pruned.a.out_channels == 2
    assert pruned.b.index.tolist() == [0, 3, 11]  # 20 - 9: channel 1 is gone
    kept = torch.tensor([0, 3, 80])  # of channels 0, 0 and 2 again, which the convolution reads
    other = prune(features(two_readers()), Decision({"b.inputs": kept}))
    assert other.a.out_channels == 4
    assert other.b.index.tolist() == [0, 3, 80]


def test_gains_multiply() -> None:
    model = features(plain())
    torch.manual_seed(3)
    gains = {name: torch.rand_like(g) for name, g in model.unit_gains().items()}
    network = model.network
    with torch.no_grad():
        y = F.max_pool2d(F.relu(network.a(IMAGES)), 2) * gains["a"].view(1, -1, 1, 1)
        hidden = F.relu(network.b(y.flatten(1) * gains["b.inputs"]))
        assert_close(model.outputs_at_gains(IMAGES, gains), network.c(hidden * gains["b"]))


def test_rows_of_gains_serve_examples_in_turn() -> None:
    model = features(two_heads())
    torch.manual_seed(4)
    gains = {name: torch.rand(3, g.shape[1]).double() for name, g in model.unit_gains().items()}
    with torch.no_grad():
        together = model.outputs_at_gains(IMAGES, gains)
        for i in range(3):
            own = {name: g[i : i + 1] for name, g in gains.items()}
            assert_close(together[i : i + 1], model.outputs_at_gains(IMAGES[i : i + 1], own))


@pytest.mark.parametrize("flatten", ["channels", "features"])
def test_what_was_pruned_can_be_pruned_again(flatten: str) -> None:
    kept = torch.tensor([0, 3, 5, 8, 20, 21, 30, 40, 41, 42, 50])
    pruned = prune(features(plain()), Decision({"b.inputs": kept}))
    again = SwitchedNetwork(pruned, IMAGES, num_data=10, flatten=flatten)
    expected = {"a": 5, "b.inputs": 11, "b": 5} if flatten == "features" else {"a": 5, "b": 5}
    assert {name: site.size for name, site in again.sites.items()} == expected
    check_exact(again)
    smaller = prune(again, Decision({"a": torch.tensor([0, 3])}))
    assert smaller.b.index.tolist() == [0, 3, 5, 8, 9 + 4, 9 + 5, 9 + 6]  # 40, 41, 42 of channel 4
    check_exact(SwitchedNetwork(smaller, IMAGES, num_data=10, flatten=flatten))


def test_any_buffer_of_places_shrinks_with_the_units() -> None:
    class Shuffled(nn.Module):
        order: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 6), conv(6, 4)
            self.register_buffer("order", torch.tensor([4, 0, 5, 2, 1, 3]))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)).index_select(1, self.order)).mean((2, 3))

    model = SwitchedNetwork(spread(Shuffled()), IMAGES, num_data=10)
    assert list(model.sites) == ["a"]
    check_exact(model)
    assert prune(model, Decision({"a": torch.tensor([1, 2, 4])})).order.tolist() == [2, 1, 0]


def test_features_without_their_channels() -> None:
    """Where the channels are no units, features go alone."""
    model = features(plain(), exclude=["a"])
    assert list(model.sites) == ["b.inputs", "b"]
    check_exact(model)
    assert prune(model, Decision({"b.inputs": torch.tensor([7])})).a.out_channels == 6


def test_left_out_features_are_their_channels_again() -> None:
    model = features(plain(), exclude=["b.inputs"])
    usual = SwitchedNetwork(spread(plain()), IMAGES, num_data=10)
    assert list(model.sites) == list(usual.sites) == ["a", "b"]
    assert model.unprunable["b.inputs"] == "left alone by include/exclude"
    assert model.costs.to_dict() == usual.costs.to_dict()
    check_exact(model)


POOLED = {
    "one feature a channel": lambda: Net(
        lambda m, x: m.b(F.adaptive_avg_pool2d(m.a(x), 1).flatten(1)),
        a=conv(3, 4), b=nn.Linear(4, 5),
    ),
    "no flatten": lambda: Net(
        lambda m, x: m.b(F.relu(m.a(x.flatten(1)))), a=nn.Linear(108, 6), b=nn.Linear(6, 5)
    ),
    "positions": lambda: Net(
        lambda m, x: m.b(m.a(x).flatten(2).mT).mean(1), a=conv(3, 4), b=nn.Linear(4, 5)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLED)
def test_networks_without_flattened_inputs_stay_as_they_are(name: str) -> None:
    build: Callable[[], nn.Module] = POOLED[name]
    torch.manual_seed(0)
    model = features(build())
    torch.manual_seed(0)
    usual = SwitchedNetwork(spread(build()), IMAGES, num_data=10)
    assert dict(model.sites) == dict(usual.sites)
    assert model.unprunable == usual.unprunable
    assert model.costs.to_dict() == usual.costs.to_dict()


def test_a_weight_of_no_linear_module_is_left_alone() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = conv(3, 4)
            self.weight = nn.Parameter(torch.randn(5, 144))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.relu(self.a(x)).flatten(1), self.weight)

    model = features(Functional())
    assert list(model.sites) == ["a"]
    assert "is not the weight of a Linear module" in model.unprunable["weight.inputs"]
    check_exact(model)


def test_a_layer_that_is_not_called_is_left_alone() -> None:
    """The module that could select its inputs never runs: trial finds out."""
    build = lambda: Net(  # noqa: E731
        lambda m, x: F.linear(F.relu(m.a(x)).flatten(1), m.b.weight, m.b.bias),
        a=conv(3, 4), b=nn.Linear(144, 5),
    )  # fmt: skip
    model = features(build())
    assert list(model.sites) == ["a"]
    assert "cannot be cut" in model.unprunable["b.inputs"]


def test_a_layer_that_is_called_twice_is_left_alone() -> None:
    model = features(
        Net(
            lambda m, x: m.b(F.relu(m.a(x)).flatten(1)) + m.b(F.relu(m.a(2 * x)).flatten(1)),
            a=conv(3, 4), b=nn.Linear(144, 5),
        )
    )  # fmt: skip
    assert list(model.sites) == ["a"]
    assert "in several places" in model.unprunable["b.inputs"]
    check_exact(model)


def test_an_unknown_kind_of_units_is_refused() -> None:
    with pytest.raises(DirpruneError, match="flattened inputs"):
        SwitchedNetwork(plain().double(), IMAGES, num_data=10, flatten="pixels")


def test_a_decision_that_empties_the_layer_is_refused() -> None:
    decision = Decision({"a": torch.tensor([0]), "b.inputs": torch.tensor([20, 21])})
    with pytest.raises(DirpruneError, match=r"site 'a' without a unit"):
        prune(features(plain()), decision)


def test_the_layer_keeps_its_kind_and_shows_what_it_is() -> None:
    pruned = prune(features(plain()), Decision({"b.inputs": torch.tensor([0, 3, 20])}))
    assert isinstance(pruned.b, SelectedLinear)
    assert (
        repr(pruned.b) == "SelectedLinear(in_features=3, out_features=5, bias=True, selected=True)"
    )


# -- elsewhere -------------------------------------------------------------------------------------


def small_lenet() -> tuple[nn.Module, Tensor]:
    """A pruned LeNet-5 in float32 that selects 20 of the 52 features of 13 channels."""
    torch.manual_seed(0)
    network = build_network("lenet5", num_classes=10, in_channels=1, size=20).eval()
    images = torch.randn(3, 1, 20, 20)
    model = SwitchedNetwork(network, images, num_data=10, flatten="features")
    kept = torch.cat([4 * torch.arange(13), 1 + 4 * torch.arange(7)])
    return prune(model, Decision({"conv2": torch.arange(13), "fc1.inputs": kept})), images


def test_saved_and_loaded(tmp_path: Path) -> None:
    pruned, images = small_lenet()
    save(tmp_path / "n", pruned)
    again = load(tmp_path / "n")
    assert isinstance(again.fc1, SelectedLinear)
    assert again.fc1.in_features == 20
    assert torch.equal(again(images), pruned(images))
    whole = load(tmp_path / "n", network=copy.deepcopy(pruned))  # into one that selects already
    assert torch.equal(whole(images), pruned(images))


def test_a_users_own_network_is_loaded_into_its_original(tmp_path: Path) -> None:
    original = plain()
    pruned = prune(features(original), Decision({"b.inputs": torch.tensor([0, 3, 20])}))
    save(tmp_path / "n", pruned)
    again = load(tmp_path / "n", network=plain())
    assert torch.equal(again(IMAGES), pruned(IMAGES))


@pytest.mark.parametrize(
    ("selected", "index", "message"),
    [
        (7, None, "selected is no list"),
        (["no.such"], None, "selected inputs of 'no.such'"),
        ([3], None, "selected inputs of 3"),
        (["conv1"], None, "expected a Linear"),
        ([], None, "does not fit LeNet5"),
        (["fc1"], torch.arange(20) - 1, "does not name some of the 200 inputs"),
        (["fc1"], torch.arange(20) * 20, "does not name some of the 200 inputs"),
        (["fc1"], torch.arange(20.0), "does not name some of the 200 inputs"),
    ],
)
def test_forged_files_are_refused(
    tmp_path: Path, selected: object, index: Tensor | None, message: str
) -> None:
    folder = tmp_path / "n"
    save(folder, small_lenet()[0])
    description = json.loads((folder / DESCRIPTION).read_text())
    (folder / DESCRIPTION).write_text(json.dumps(description | {"selected": selected}))
    if index is not None:
        save_file({**load_file(folder / WEIGHTS), "fc1.index": index}, folder / WEIGHTS)
    with pytest.raises(DirpruneError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("state-dict", "n"),
        ("torch-export", "n.pt2"),
        pytest.param("onnx", "n.onnx", marks=pytest.mark.slow),
    ],
)
def test_it_runs_elsewhere(tmp_path: Path, format: str, name: str) -> None:
    """Exporting compares what the file computes with the network."""
    pruned, images = small_lenet()
    export(pruned, images, tmp_path / name, format=format)
