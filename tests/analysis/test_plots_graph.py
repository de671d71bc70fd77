"""The picture of the channel graph: its rows, its lanes, its colours, and nothing over another."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.analysis.plots.graph import COLOURS, _colours, graph_figure
from dirprune.analysis.plots.layers import arrange, marks_of
from dirprune.model.graph.channels import ChannelGraph, build_channel_graph
from dirprune.model.networks import CifarResNet, LeNet5


class Dense(nn.Module):
    """A dense block: every layer reads all before it."""

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layers = nn.ModuleList(nn.Conv2d(4 + 2 * i, 2, 1) for i in range(layers))
        self.head = nn.Linear(4 + 2 * layers, 3)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(F.relu(layer(torch.cat(found, 1))))
        return self.head(torch.cat(found, 1).mean((2, 3)))


class Gate(nn.Module):
    """A gate as in squeeze-excitation, a layer called twice, and an input that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.down = nn.Linear(6, 4)
        self.up = nn.Linear(4, 6)
        self.twice = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor, scale: Tensor, unread: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))
        x = self.twice(F.relu(self.twice(x * gate[:, :, None, None])))
        return self.head(x.mean((2, 3))) * scale


@cache
def lenet() -> ChannelGraph:
    return build_channel_graph(LeNet5(), (torch.randn(2, 1, 28, 28),))


@cache
def features() -> ChannelGraph:
    return build_channel_graph(LeNet5(), (torch.randn(2, 1, 28, 28),), flatten="features")


@cache
def resnet() -> ChannelGraph:
    return build_channel_graph(CifarResNet(20), (torch.randn(2, 3, 8, 8),))


@cache
def dense() -> ChannelGraph:
    return build_channel_graph(Dense(24), (torch.randn(2, 3, 4, 4),))


@cache
def gate() -> ChannelGraph:
    inputs = torch.randn(2, 3, 4, 4), torch.randn(2, 1), torch.randn(2, 1)
    return build_channel_graph(Gate(), inputs)


@pytest.fixture(scope="module", params=[lenet, features, resnet, dense, gate])
def graph(request: pytest.FixtureRequest) -> ChannelGraph:
    made: ChannelGraph = request.param()
    return made


def labels(graph: ChannelGraph) -> list[str]:
    return [mark.label for mark in marks_of(graph)]


def test_a_chain_is_its_layers_in_order() -> None:
    marks = marks_of(lenet())
    assert [m.label for m in marks] == ["x", "conv1", "conv2", "fc1", "fc2"]
    assert [m.sources for m in marks] == [(), (0,), (1,), (2,), (3,)]
    assert [m.site for m in marks] == [None, "conv1", "conv2", "fc1", None]
    assert all(set(edge.lanes) == {0} for edge in arrange(marks)[1])


def test_features_stand_between_their_channels_and_the_layer_that_reads_them() -> None:
    marks = marks_of(features())
    assert [(m.label, m.kind) for m in marks] == [
        ("x", "input"), ("conv1", "layer"), ("conv2", "layer"), ("fc1.inputs", "features"),
        ("fc1", "layer"), ("fc2", "layer"),
    ]  # fmt: skip
    assert [m.sources for m in marks] == [(), (0,), (1,), (2,), (3,), (4,)]
    assert [m.site for m in marks] == [None, "conv1", "conv2", "fc1.inputs", "fc1", None]
    shown = [t.get_text() for t in texts_of(graph_figure(features(), "lenet5"))]
    assert {"fc1.inputs", "800 units, features of conv2", "500 units"} <= set(shown)
    assert any(text.startswith("4 layers, 4 sites.") for text in shown)
    assert any("Diamonds" in text for text in shown)
    # Where they are left alone, the layer reads channels again.
    assert labels(features().without({"fc1.inputs": "not wanted"})) == labels(lenet())


def test_a_gate_meets_what_it_multiplies() -> None:
    marks = marks_of(gate())
    assert [(m.label, m.kind) for m in marks] == [
        ("x", "input"), ("scale", "input"), ("unread", "input"), ("conv", "layer"),
        ("down", "layer"), ("up", "layer"),
        ("×", "meeting"), ("twice", "layer"), ("twice", "layer"), ("head", "layer"),
        ("×", "meeting"),
    ]  # fmt: skip
    assert marks[6].sources == (3, 5)
    # a gate goes with what it multiplies, and a layer that reads itself with itself
    assert {m.site for m in (marks[3], marks[5], marks[6])} == {"conv"}
    assert marks[10].sources == (9, 1)


def test_a_dense_block_grows_row_by_row() -> None:
    marks = marks_of(build_channel_graph(Dense(), (torch.randn(2, 3, 4, 4),)))
    # x, stem, layer 0 (which reads the stem), then each cat reads the last one and what is new
    meetings = [row for row, m in enumerate(marks) if m.kind == "meeting"]
    assert [set(marks[row].sources) for row in meetings] == [{1, 2}, {3, 4}, {5, 6}, {7, 8}]
    assert [marks[row].label for row in meetings] == ["cat"] * 4
    assert all(marks[row].mixed and marks[row].site is None for row in meetings)


def test_lanes_hold_one_line_at_a_time(graph: ChannelGraph) -> None:
    marks = marks_of(graph)
    place, edges = arrange(marks)
    assert {(e.source, e.target) for e in edges} == {
        (source, row) for row, mark in enumerate(marks) for source in mark.sources
    }
    for row in range(len(marks)):
        passing = [e.lanes[row - e.source] for e in edges if e.source < row < e.target]
        assert len(set(passing)) == len(passing)
        assert place[row] not in passing
        assert {e.lanes[0] for e in edges if e.source == row} <= {place[row]}
        assert {e.lanes[-1] for e in edges if e.target == row} <= {place[row]}


def test_sites_at_one_place_have_different_colours() -> None:
    graph = resnet()
    marks = marks_of(graph)
    colours = _colours(marks)
    assert set(colours) == set(graph.sites)
    for site in graph.sites.values():
        rows = [row for row, m in enumerate(marks) if site.name in (m.site, m.label)]
        inside = {m.site for m in marks[min(rows) : max(rows) + 1]} - {None, site.name}
        # as many as fit into the palette
        assert len(COLOURS) < len(inside) or colours[site.name] not in {
            colours[str(other)] for other in inside
        }
    # the shortcut of a stage and the layers that write to it are one site, hence one colour
    stream = [m.site for m in marks if m.label in ("conv1", "layer1.0.conv2", "layer1.1.conv2")]
    assert len(set(stream)) == 1


def texts_of(figure: Figure) -> list[Text]:
    return [t for ax in figure.axes for t in ax.texts if t.get_text()]


def test_nothing_is_clipped_and_no_text_lies_on_another(graph: ChannelGraph) -> None:
    title = "a rather long name of a network: its_file.py:make_it_with_everything_that_there_is"
    figure = graph_figure(graph, title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [t.get_window_extent(canvas.get_renderer()) for t in texts_of(figure)]
    assert len(boxes) >= len(marks_of(graph)) + 1
    for box in boxes:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)
    # the marks stand left of every label of their column
    (ax,) = figure.axes
    assert len(ax.lines) == len(marks_of(graph))
    for line in ax.lines:
        x, y = ax.transData.transform((line.get_xdata()[0], line.get_ydata()[0]))  # type: ignore[index]
        assert 0 < x < figure.bbox.width
        assert not any(box.contains(x, y) for box in boxes)


def test_reasons_stand_beside_what_is_left_alone() -> None:
    shown = [t.get_text() for t in texts_of(graph_figure(lenet(), "lenet5"))]
    assert shown[0] == "lenet5"
    assert {"conv2", "50 units", "it is the network's output"} <= set(shown)
    assert any(text.startswith("4 layers, 3 sites.") for text in shown)
    assert not any("Diamonds" in text for text in shown)
