"""The networks: published sizes, shapes, shortcuts, and what happens on bad requests."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from dirprune.model.errors import DirpruneError
from dirprune.model.networks import (
    NETWORKS,
    CifarResNet,
    LeNet5,
    PadShortcut,
    WideResNet,
    build_network,
    load_weights,
    network_names,
)

DATA = os.environ.get("DIRPRUNE_DATA")


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "in_channels", "size", "parameters"),
    [
        ("lenet5", 1, 28, 431_080),
        ("digits-cnn", 1, 8, 38_282),
        ("mlp", 1, 8, 50_826),
        ("vgg16", 3, 32, 14_728_266),
        ("resnet20", 3, 32, 269_722),
        ("resnet32", 3, 32, 464_154),
        ("resnet44", 3, 32, 658_586),
        ("resnet56", 3, 32, 853_018),
        ("resnet110", 3, 32, 1_727_962),
        ("wrn28_10", 3, 32, 36_479_194),
    ],
)
def test_parameter_counts_are_the_published_ones(
    name: str, in_channels: int, size: int, parameters: int
) -> None:
    network = build_network(name, num_classes=10, in_channels=in_channels, size=size)
    assert count(network) == parameters


def test_every_network_of_ours_is_counted_above() -> None:
    depths = {f"resnet{d}" for d in (20, 32, 44, 56, 110)}
    assert set(NETWORKS) == {"lenet5", "digits-cnn", "mlp", "vgg16", "wrn28_10"} | depths


@pytest.mark.parametrize(
    ("name", "in_channels", "size"),
    [
        ("lenet5", 3, 32),
        ("lenet5", 1, 16),
        ("digits-cnn", 3, 9),
        ("mlp", 2, 5),
        ("vgg16", 1, 32),
        ("vgg16", 3, 70),
        ("resnet20", 1, 28),
        ("resnet20", 3, 33),
        ("torchvision:resnet18", 3, 32),
        ("torchvision:alexnet", 3, 63),
        ("torchvision:mobilenet_v2", 3, 32),
    ],
)
def test_networks_adapt_to_channels_size_and_classes(
    name: str, in_channels: int, size: int
) -> None:
    network = build_network(name, num_classes=7, in_channels=in_channels, size=size).eval()
    with torch.no_grad():
        assert network(torch.randn(2, in_channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["lenet5", "digits-cnn", "mlp", "resnet20"])
def test_networks_can_be_exported_with_any_batch_size(name: str) -> None:
    # The channel graph is read from the export.
    size, channels = (28, 1) if name == "lenet5" else (8, 1)
    network = build_network(name, num_classes=10, in_channels=channels, size=size).eval()
    batch = torch.export.Dim("batch")
    example = torch.randn(2, channels, size, size)
    program = torch.export.export(network, (example,), dynamic_shapes=({0: batch},))
    other = torch.randn(5, channels, size, size)
    torch.testing.assert_close(program.module()(other), network(other))


def test_torchvision_networks_are_torchvisions_own() -> None:
    from torchvision.models import get_model

    ours = build_network("torchvision:vgg11_bn", num_classes=10, in_channels=3, size=32)
    theirs = get_model("vgg11_bn", weights=None, num_classes=10)
    assert type(ours) is type(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_auxiliary_heads_are_left_out() -> None:
    network = build_network("torchvision:googlenet", num_classes=4, in_channels=3, size=64)
    assert isinstance(network.train()(torch.randn(2, 3, 64, 64)), torch.Tensor)


def test_wide_resnet_shortcuts_are_projections_only_where_the_shape_changes() -> None:
    network = WideResNet(depth=16, width=2)
    projections = [n for n, m in network.named_modules() if n.endswith("shortcut")]
    assert projections == [f"layer{i}.0.shortcut" for i in (1, 2, 3)]
    assert network.eval()(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_building_draws_no_more_random_numbers_than_the_constructor() -> None:
    torch.manual_seed(3)
    built = build_network("lenet5", num_classes=10, in_channels=1, size=28)
    torch.manual_seed(3)
    plain = LeNet5()
    assert all(
        torch.equal(a, b) for a, b in zip(built.parameters(), plain.parameters(), strict=True)
    )


def test_pad_shortcut_thins_and_pads_with_zeros() -> None:
    x = torch.randn(2, 3, 5, 5)
    out = PadShortcut(2, 1, 2)(x)
    assert out.shape == (2, 6, 3, 3)
    assert torch.equal(out[:, 1:4], x[:, :, ::2, ::2])
    assert not out[:, :1].any()
    assert not out[:, 4:].any()


def test_pad_shortcut_padding_can_be_changed() -> None:
    shortcut = PadShortcut(2, 8, 8)
    shortcut.set_padding(3, 0)
    assert (shortcut.before, shortcut.after) == (3, 0)
    assert shortcut(torch.ones(1, 4, 4, 4)).shape == (1, 7, 2, 2)
    assert "before=3" in repr(shortcut)
    with pytest.raises(DirpruneError, match="negative"):
        shortcut.set_padding(-1, 0)


def test_resnet_shortcuts_pad_half_of_the_new_channels_on_each_side() -> None:
    shortcuts = [m for m in CifarResNet(20).modules() if isinstance(m, PadShortcut)]
    assert [(s.stride, s.before, s.after) for s in shortcuts] == [(2, 8, 8), (2, 16, 16)]


def test_resnet_shortcut_has_no_keys() -> None:
    keys = CifarResNet(20).state_dict()
    assert not any("shortcut" in key for key in keys)
    assert {"conv1.weight", "bn1.running_var", "layer3.2.conv2.weight", "linear.bias"} <= set(keys)
    assert len(keys) == 116


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_impossible_depth(depth: int) -> None:
    with pytest.raises(DirpruneError, match=f"6n \\+ 2 .* got {depth}"):
        CifarResNet(depth)
    with pytest.raises(DirpruneError, match="6n \\+ 4"):
        WideResNet(depth=depth)


@pytest.mark.parametrize(
    ("name", "size", "smallest"),
    [
        ("lenet5", 8, 16),
        ("vgg16", 31, 32),
        ("digits-cnn", 1, 2),
        ("torchvision:alexnet", 32, 63),
        ("torchvision:vit_b_16", 30, 32),
    ],
)
def test_images_too_small_name_the_smallest_size(name: str, size: int, smallest: int) -> None:
    channels = 3 if name.startswith("torchvision") else 1
    with pytest.raises(DirpruneError, match=f"{size}x{size} .* {smallest}x{smallest}"):
        build_network(name, num_classes=10, in_channels=channels, size=size)


def test_lenet_class_itself_names_the_smallest_size() -> None:
    with pytest.raises(DirpruneError, match="at least 16x16"):
        LeNet5(size=15)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lenet", "'lenet5'"),
        ("resnet18", "'torchvision:resnet18'"),
        ("torchvision:resnt50", "'torchvision:resnet50'"),
        ("ResNet20", "'resnet20'"),
        ("torchvision:vgg16_b", "'torchvision:vgg16_bn'"),
    ],
)
def test_unknown_names_come_with_near_misses(name: str, meant: str) -> None:
    with pytest.raises(DirpruneError, match=f"unknown network '{name}'; did you mean .*{meant}"):
        build_network(name, num_classes=10, in_channels=3, size=32)


def test_unknown_name_without_near_misses_lists_what_there_is() -> None:
    with pytest.raises(DirpruneError, match=r"'zzz'\. Known: lenet5, .*torchvision:NAME"):
        build_network("zzz", num_classes=10, in_channels=3, size=32)


def test_names_include_torchvisions() -> None:
    names = network_names()
    assert names[: len(NETWORKS)] == list(NETWORKS)
    assert {"torchvision:resnet50", "torchvision:vgg19_bn", "torchvision:alexnet"} <= set(names)


def test_torchvision_needs_three_channels() -> None:
    with pytest.raises(DirpruneError, match="3 channels, got in_channels=1"):
        build_network("torchvision:resnet18", num_classes=10, in_channels=1, size=32)


@pytest.mark.parametrize("argument", ["num_classes", "in_channels", "size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_numbers_must_be_positive_whole_numbers(argument: str, value: object) -> None:
    options = {"num_classes": 10, "in_channels": 1, "size": 28, argument: value}
    with pytest.raises(DirpruneError, match=f"{argument} must be a whole number"):
        build_network("lenet5", **options)  # type: ignore[arg-type]


@pytest.mark.skipif(DATA is None, reason="DIRPRUNE_DATA names no folder with weights and images")
def test_given_resnet20_reaches_its_accuracy() -> None:
    from dirprune.inference.data import load_data, loader

    root = Path(str(DATA))
    weights = root / "resnet20-cifar10-jpeg.pt"
    if not weights.exists() or not (root / "test").is_dir():
        pytest.skip(f"{root} lacks the weights or the images")
    network = build_network("resnet20", num_classes=10, in_channels=3, size=32).eval()
    load_weights(network, weights)
    data = load_data(f"folder:{root}")
    with torch.no_grad():
        right = sum(int((network(x).argmax(1) == y).sum()) for x, y in loader(data.test, 500))
    # 88.41 % was measured; any other arrangement of the zero channels gives about 16 %.
    assert right / len(data.test) == pytest.approx(0.884, abs=0.002)
