"""Feature maps are what the network computes, and their figure shows the right ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.analysis.feature_maps import feature_maps, sites_with_maps
from dirprune.analysis.plots import SiteView, feature_map_figure, first_and_last
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import CifarResNet, build_network
from dirprune.model.switched import SwitchedNetwork


class Branches(nn.Module):
    """A batch norm, a stream that pads its channels, a concatenation and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.c = nn.Conv2d(4, 3, 3, padding=1)
        self.d = nn.Conv2d(7, 5, 3)
        self.e = nn.Linear(5 * 12, 6)
        self.out = nn.Linear(6, 3)

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """What the first reader of each site reads."""
        stream = F.relu(self.norm(self.a(x)))
        joined = stream + self.b(stream)
        c = torch.tanh(self.c(joined))
        return {"a": stream, "c": c, "d": F.relu(self.d(torch.cat([joined, c], 1)))}

    def forward(self, x: Tensor) -> Tensor:
        x = self.maps(x)["d"].flatten(1)
        return self.out(F.relu(self.e(x)))


def test_maps_are_what_the_reader_reads(randomise_norms: Callable[[nn.Module], nn.Module]) -> None:
    network = Branches()
    randomise_norms(network).double().eval()
    images = torch.randn(5, 2, 6, 5, dtype=torch.float64)
    model = SwitchedNetwork(network, images, num_data=5)
    assert list(model.sites) == ["a", "c", "d", "e"]
    assert sites_with_maps(model) == ["a", "c", "d"]
    with torch.no_grad():
        wanted = network.maps(images)
    for site, maps in wanted.items():
        # 1e-6: they are handed out in float32
        torch.testing.assert_close(
            feature_maps(model, site, images), maps.float(), rtol=1e-6, atol=1e-6
        )


def test_every_convolution_of_a_residual_network_has_maps() -> None:
    network = CifarResNet(8, num_classes=3).eval()
    images = torch.randn(2, 3, 8, 8)
    model = SwitchedNetwork(network, images, num_data=2)
    for name, site in model.sites.items():
        maps = feature_maps(model, name, images)
        assert maps.shape[:2] == (2, site.size)
        assert bool(maps.isfinite().all())
        assert float(maps.std()) > 0


def test_a_map_of_one_pixel_is_none() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip
    model = SwitchedNetwork(network, torch.randn(2, 1, 7, 7), num_data=2)
    assert list(model.sites) == ["0", "2"]
    assert sites_with_maps(model) == ["0"]


def test_what_has_no_maps_is_refused() -> None:
    network = build_network("digits-cnn", num_classes=3, in_channels=1, size=8)
    model = SwitchedNetwork(network, torch.randn(2, 1, 8, 8), num_data=2)
    with pytest.raises(DirpruneError, match="site 'fc1' are no channels"):
        feature_maps(model, "fc1", torch.randn(2, 1, 8, 8))
    with pytest.raises(DirpruneError, match="no site 'conv3'; this network has conv1, conv2, fc1"):
        feature_maps(model, "conv3", torch.randn(2, 1, 8, 8))


def view(size: int, *, probability: bool = True) -> SiteView:
    score = np.random.default_rng(0).permutation(size) / 7.0
    kept = score >= np.median(score)
    return SiteView(
        name="layer1.0.conv1", kept=kept, gains=np.ones((2, size)), concentration=None, cost=None,
        probability=kept * 0.9 if probability else None, score=score, score_name="removal cost",
    )  # fmt: skip


@pytest.mark.parametrize(("size", "shown"), [(2, 2), (8, 8), (9, 8), (64, 8)])
def test_the_figure_shows_the_first_and_the_last(size: int, shown: int) -> None:
    v = view(size, probability=size != 9)
    images, maps = torch.rand(6, 3, 8, 8), torch.randn(6, size, 4, 4)
    figure = feature_map_figure(v, images, maps, mean=(0.5,) * 3, std=(0.1,) * 3)
    drawn = [ax for ax in figure.axes if ax.images]
    assert len(drawn) == 4 * (1 + shown)  # of six images four
    picture = np.clip(images[0].numpy() * 0.1 + 0.5, 0, 1).transpose(1, 2, 0)
    np.testing.assert_allclose(drawn[0].images[0].get_array(), picture, rtol=1e-6)
    order = v.order.tolist()
    wanted = order if size <= 8 else order[:4] + order[-4:]
    for ax, unit in zip(drawn[1 : 1 + shown], wanted, strict=True):
        lines = ax.get_title().splitlines()
        assert lines[:2] == [f"unit {unit}", f"rank {order.index(unit) + 1}"]
        assert len(lines) == (3 if size == 9 else 4)
        np.testing.assert_allclose(ax.images[0].get_array(), maps[0, unit], rtol=1e-6)
    scales = {ax.images[0].get_clim() for ax in drawn if ax.get_title() != "image"}
    assert len({s for s in scales if s != (0.0, 1.0)}) == 1  # one for all maps
    check(figure)


def test_maps_of_the_shown_channels_are_enough() -> None:
    v = view(20)
    images, maps = torch.rand(2, 1, 8, 8), torch.randn(2, 20, 4, 4)
    shown = first_and_last(v)
    assert shown == [*v.order[:4], *v.order[-4:]]
    drawn = [
        [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]
        for figure in (
            feature_map_figure(v, images, maps),
            feature_map_figure(v, images, maps[:, shown[::-1]], units=shown[::-1]),
        )
    ]
    assert len(drawn[0]) == 2 * 9
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one, other)


def test_images_of_one_channel_are_grey_and_of_two_their_mean() -> None:
    v = view(4)
    for channels in (1, 2):
        images = torch.rand(1, channels, 5, 5)
        figure = feature_map_figure(v, images, torch.zeros(1, 4, 3, 3))
        shown = figure.axes[0].images[0].get_array()
        np.testing.assert_allclose(shown, images[0].mean(0), rtol=1e-6)
        check(figure)


def check(figure: Figure) -> None:
    """No title or label beyond the figure's edge."""
    figure.canvas.draw()
    texts = [ax.title for ax in figure.axes] + [ax.yaxis.label for ax in figure.axes]
    for text in [*texts, *figure.texts]:
        box = text.get_window_extent()
        if text.get_text():
            assert box.x0 >= 0, text
            assert box.x1 <= figure.bbox.x1, text
            assert box.y0 >= 0, text
            assert box.y1 <= figure.bbox.y1, text
