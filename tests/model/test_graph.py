"""The channel graph: labels, one rule per operation, coupling, and what must be left alone."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from dirprune.model.errors import DirpruneError
from dirprune.model.graph import ChannelGraph, Labels, build_channel_graph
from dirprune.model.graph.labels import FIXED, UnionFind
from dirprune.model.graph.selection import select_sites
from dirprune.model.networks import CifarResNet, PadShortcut, WideResNet, build_network
from dirprune.model.surgery import cut, find_failures, silence

IMAGES = (2, 3, 6, 6)
ROWS = (2, 5)


class Net(nn.Module):
    """A network from its layers and its forward."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, *inputs: Tensor) -> Any:
        return self.run(self, *inputs)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def graph_of(network: nn.Module, *shapes: tuple[int, ...]) -> ChannelGraph:
    return build_channel_graph(network.eval(), tuple(torch.randn(shape) for shape in shapes))


def structure(graph: ChannelGraph) -> dict[str, tuple[int, tuple[str, ...], tuple[str, ...]]]:
    return {name: (s.size, s.producers, s.consumers) for name, s in graph.sites.items()}


def largest_difference(network: nn.Module, graph: ChannelGraph, *inputs: Tensor) -> float:
    """Between masked and pruned over ten random decisions, relative to the largest output."""
    network = network.double().eval().requires_grad_(False)
    inputs = tuple(x.double() for x in inputs)
    worst = 0.0
    for _ in range(10):
        kept = {
            name: torch.randperm(s.size)[: int(torch.randint(1, s.size + 1, ()))].sort().values
            for name, s in graph.sites.items()
        }
        keep = graph.keep_vector(kept)
        if not all(bool(keep[units].any()) for _, units in graph.needed):
            continue
        masked, pruned = silence(network, graph, kept), cut(network, graph, kept)
        for a, b in zip(leaves(masked(*inputs)), leaves(pruned(*inputs)), strict=True):
            worst = max(worst, float((a - b).abs().max() / a.abs().max()))
    return worst


def leaves(value: Any) -> list[Tensor]:
    return [x for x in torch.utils._pytree.tree_leaves(value) if isinstance(x, Tensor)]


# -- labels and classes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "shape"),
    [
        (Labels((1,), torch.tensor([4, 5, 6])), (2, 3, 7, 7)),
        (Labels((1,), torch.tensor([4, FIXED, 4])), (2, 3)),
        (Labels((2, 3), torch.arange(6).view(2, 3)), (2, 5, 2, 3)),
        (Labels((0,), torch.tensor([1, 2])), (2, 4)),
        (Labels((1,), torch.tensor([8])), (2, 1, 4, 4)),
        (Labels((1,), torch.tensor([8, 8, 8])), (2, 3, 4, 4)),
    ],
)
def test_labels_survive_being_spread_and_compressed(labels: Labels, shape: tuple[int, ...]) -> None:
    back = Labels.compress(labels.full(shape))
    assert back is not None
    assert back.dims == labels.dims
    assert torch.equal(back.ids, labels.ids)


@pytest.mark.parametrize("full", [torch.full((2, 3), FIXED), torch.empty(0, 3)])
def test_values_without_labels_compress_to_none(full: Tensor) -> None:
    assert Labels.compress(full) is None


@given(
    st.integers(1, 20).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
        )
    )
)
def test_union_find_agrees_with_naive_sets(case: tuple[int, list[tuple[int, int]]]) -> None:
    size, pairs = case
    classes = UnionFind()
    assert classes.new(size).tolist() == list(range(size))
    sets = [{i} for i in range(size)]
    for a, b in pairs:
        classes.union(a, b)
        merged = sets[a] | sets[b]
        for member in merged:
            sets[member] = merged
    assert [classes.find(i) for i in range(size)] == [min(s) for s in sets]


def test_union_all_joins_every_member() -> None:
    classes = UnionFind()
    classes.new(5)
    classes.union_all([])
    classes.union_all([4, 1, 3])
    assert [classes.find(i) for i in range(5)] == [0, 1, 2, 1, 1]


# -- networks whose structure is known ------------------------------------------------------------

PLAIN = (6, ("a",), ("b",))


def shared_weights() -> nn.Module:
    net: Any = Net(
        lambda s, x: s.out(s.c(F.relu(s.b(s.a(x)))).mean((2, 3))),
        a=conv(3, 6), b=conv(6, 6), c=conv(6, 6), out=nn.Linear(6, 2),
    )  # fmt: skip
    net.c.weight = net.b.weight
    return net


def with_buffer() -> Net:
    net = Net(lambda s, x: s.b(s.a(x) * s.scales), a=conv(3, 6), b=conv(6, 2))
    net.register_buffer("scales", torch.rand(6, 1, 1))
    return net


class Functional(nn.Module):
    """Weights of its own, used by functions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.bias = nn.Parameter(torch.randn(6))
        self.last = nn.Parameter(torch.randn(2, 96))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.conv2d(x, self.weight, self.bias)).flatten(1), self.last)


def repeated(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    for _ in range(3):
        h = torch.relu(s.m(h))
    return s.b(h)


def squeeze_excite(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    return s.b(h * torch.sigmoid(s.u(F.relu(s.d(h.mean((2, 3), keepdim=True))))))


KNOWN: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], Any]] = {
    "linear": (
        lambda: Net(lambda s, x: s.b(F.relu(s.a(x))), a=nn.Linear(5, 6), b=nn.Linear(6, 2)),
        (ROWS,),
        {"a": PLAIN},
    ),
    "examples merged with positions": (
        lambda: two(lambda s, x: s.b(s.a(x.flatten(0, 1))).view(-1, 4, 2)),
        ((2, 4, 5),),
        {"a": PLAIN},
    ),
    "positions before examples": (
        lambda: two(lambda s, x: s.b(s.a(x.transpose(0, 1))).transpose(0, 1)),
        ((2, 4, 5),),
        {"a": PLAIN},
    ),
    "linear on [B, T, C]": (
        lambda: Net(lambda s, x: s.b(F.gelu(s.a(x))), a=nn.Linear(5, 6), b=nn.Linear(6, 2)),
        ((2, 4, 5),),
        {"a": PLAIN},
    ),
    "conv1d": (
        lambda: Net(lambda s, x: s.b(F.relu(s.a(x))), a=nn.Conv1d(3, 6, 3), b=nn.Conv1d(6, 2, 3)),
        ((2, 3, 9),),
        {"a": PLAIN},
    ),
    "conv3d and batch norm": (
        lambda: Net(
            lambda s, x: s.b(F.silu(s.n(s.a(x)))),
            a=nn.Conv3d(3, 6, 2), b=nn.Conv3d(6, 2, 2), n=nn.BatchNorm3d(6),
        ),
        ((2, 3, 4, 4, 4),),
        {"a": PLAIN},
    ),
    "batch norm without scales": (
        lambda: Net(
            lambda s, x: s.b(s.n(s.a(x))),
            a=conv(3, 6), b=conv(6, 2), n=nn.BatchNorm2d(6, affine=False),
        ),
        (IMAGES,),
        {"a": PLAIN},
    ),
    "batch norm after linear, dropout": (
        lambda: Net(
            lambda s, x: s.b(s.d(s.n(s.a(x)))),
            a=nn.Linear(5, 6), b=nn.Linear(6, 2), n=nn.BatchNorm1d(6), d=nn.Dropout(),
        ),
        (ROWS,),
        {"a": PLAIN},
    ),
    "channel dropout, max pool, average pool, flatten": (
        lambda: Net(
            lambda s, x: s.b(F.avg_pool2d(F.max_pool2d(s.d(s.a(x)), 2), 3).flatten(1)),
            a=conv(3, 6), b=nn.Linear(6, 2), d=nn.Dropout2d(),
        ),
        (IMAGES,),
        {"a": PLAIN},
    ),
    "max pool with indices": (
        lambda: Net(
            lambda s, x: s.b(F.max_pool2d(s.a(x), 2, return_indices=True)[0]),
            a=conv(3, 6), b=conv(6, 2),
        ),
        (IMAGES,),
        {"a": PLAIN},
    ),
    "up-sampling": (
        lambda: Net(
            lambda s, x: s.b(F.interpolate(s.a(x), scale_factor=2)), a=conv(3, 6), b=conv(6, 2)
        ),
        (IMAGES,),
        {"a": PLAIN},
    ),
    "one slope for each channel": (
        lambda: Net(lambda s, x: s.b(s.p(s.a(x))), a=conv(3, 6), b=conv(6, 2), p=nn.PReLU(6)),
        (IMAGES,),
        {"a": PLAIN},
    ),
    "one slope": (
        lambda: Net(lambda s, x: s.b(s.p(s.a(x))), a=conv(3, 6), b=conv(6, 2), p=nn.PReLU()),
        (IMAGES,),
        {"a": PLAIN},
    ),
    "in-place operations": (
        lambda: Net(
            lambda s, x: s.b(F.relu(s.a(x).add_(1), inplace=True).mul_(2)),
            a=nn.Linear(5, 6), b=nn.Linear(6, 2),
        ),
        (ROWS,),
        {"a": PLAIN},
    ),
    "a buffer along the channels": (with_buffer, (IMAGES,), {"a": PLAIN}),
    "functional forms": (Functional, (IMAGES,), {"weight": (6, ("weight",), ("last",))}),
    "residual": (
        lambda: Net(
            lambda s, x: s.b((lambda h: h + s.c(F.relu(h)))(s.a(x))),
            a=conv(3, 6), c=conv(6, 6), b=conv(6, 2),
        ),
        (IMAGES,),
        {"a": (6, ("a", "c"), ("c", "b"))},
    ),
    "concatenation": (
        lambda: Net(
            lambda s, x: s.b(torch.cat([s.a(x), s.c(x)], 1)),
            a=conv(3, 6), c=conv(3, 4), b=conv(10, 2),
        ),
        (IMAGES,),
        {"a": PLAIN, "c": (4, ("c",), ("b",))},
    ),
    "concatenation of one tensor with itself": (
        lambda: Net(lambda s, x: s.b(torch.cat([s.a(x)] * 2, 1)), a=conv(3, 6), b=conv(12, 2)),
        (IMAGES,),
        {"a": PLAIN},
    ),
    "concatenation with the input": (
        lambda: Net(lambda s, x: s.b(torch.cat([x, s.a(x)], 1)), a=conv(3, 6), b=conv(9, 2)),
        (IMAGES,),
        {"a": PLAIN},
    ),
    "stack": (
        lambda: Net(
            lambda s, x: s.b(torch.stack([s.a(x), s.c(x)], 2).flatten(1)),
            a=nn.Linear(5, 3), c=nn.Linear(5, 3), b=nn.Linear(6, 2),
        ),
        (ROWS,),
        # What is stacked must have one size.
        {"a": (3, ("a", "c"), ("b",))},
    ),
    "concatenation along the pixels": (
        lambda: Net(
            lambda s, x: s.b(torch.cat([s.a(x), s.c(x)], 2)),
            a=conv(3, 6), c=conv(3, 6), b=conv(6, 2),
        ),
        (IMAGES,),
        {"a": (6, ("a", "c"), ("b",))},
    ),
    "two halves multiplied": (
        lambda: Net(
            lambda s, x: s.b(torch.mul(*s.a(x).chunk(2, 1))), a=conv(3, 8), b=conv(4, 2)
        ),
        (IMAGES,),
        {"a": (4, ("a",), ("b",))},
    ),
    "depthwise": (
        lambda: Net(
            lambda s, x: s.b(s.d(s.a(x))), a=conv(3, 6), d=conv(6, 12, groups=6), b=conv(12, 2)
        ),
        (IMAGES,),
        {"a": (6, ("a", "d"), ("b",))},
    ),
    "grouped": (
        lambda: Net(
            lambda s, x: s.b(s.d(s.a(x))), a=conv(3, 6), d=conv(6, 9, groups=3), b=conv(9, 2)
        ),
        (IMAGES,),
        {"a": (3, ("a", "d"), ("b",))},
    ),
    "squeeze and excitation": (
        lambda: Net(squeeze_excite, a=conv(3, 6), d=conv(6, 3, 1), u=conv(3, 6, 1), b=conv(6, 2)),
        (IMAGES,),
        {"a": (6, ("a", "u"), ("d", "b")), "d": (3, ("d",), ("u",))},
    ),
    "a layer used three times": (
        lambda: Net(repeated, a=nn.Linear(5, 6), m=nn.Linear(6, 6), b=nn.Linear(6, 2)),
        (ROWS,),
        {"a": (6, ("a", "m"), ("m", "b"))},
    ),
    "a layer used on two inputs": (
        lambda: Net(
            lambda s, x: s.b(s.m(s.a(x)) * s.m(s.c(x))),
            a=nn.Linear(5, 6), c=nn.Linear(5, 6), m=nn.Linear(6, 4), b=nn.Linear(4, 2),
        ),
        (ROWS,),
        {"a": (6, ("a", "c"), ("m",)), "m": (4, ("m",), ("b",))},
    ),
    "two layers with one weight": (
        shared_weights, (IMAGES,), {"a": (6, ("a", "b"), ("b", "out"))},
    ),
    "two inputs": (
        lambda: Net(
            lambda s, x, y: s.b(torch.cat([s.a(x), s.c(y)], 1)),
            a=nn.Linear(5, 6), c=nn.Linear(4, 3), b=nn.Linear(9, 2),
        ),
        (ROWS, (2, 4)),
        {"a": PLAIN, "c": (3, ("c",), ("b",))},
    ),
    "a mapping of outputs": (
        lambda: Net(
            lambda s, x: {"out": s.b(F.relu(s.a(x)))}, a=nn.Linear(5, 6), b=nn.Linear(6, 2)
        ),
        (ROWS,),
        {"a": PLAIN},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KNOWN)
def test_known_structures_are_found_and_pruned_as_they_are_masked(
    case: str, randomise_norms: Callable[[nn.Module], nn.Module]
) -> None:
    build, shapes, expected = KNOWN[case]
    network = randomise_norms(build())
    inputs = tuple(torch.randn(shape) for shape in shapes)
    graph = build_channel_graph(network.eval(), inputs)
    assert structure(graph) == expected
    assert find_failures(network, graph, inputs, {}) == {}
    # float64 rounds at 1e-16; sums of at most some hundred terms lose two or three digits.
    assert largest_difference(network, graph, *inputs) < 1e-13


ELEMENTWISE: list[Callable[[Tensor], Tensor]] = [
    F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, torch.sigmoid,
    F.hardsigmoid, F.hardswish, F.hardtanh, torch.tanh, F.tanhshrink, F.softplus, F.softsign,
    F.softshrink, F.hardshrink, F.logsigmoid, torch.exp, torch.abs, torch.square,
]  # fmt: skip


@pytest.mark.parametrize("activation", ELEMENTWISE, ids=lambda f: f.__name__)
def test_activations_pass_units_through(activation: Callable[[Tensor], Tensor]) -> None:
    net = Net(lambda s, x: s.b(activation(s.a(x))), a=nn.Linear(5, 6), b=nn.Linear(6, 2))
    assert structure(graph_of(net, ROWS)) == {"a": PLAIN}


def test_flatten_is_an_index_map() -> None:
    net = nn.Sequential(conv(3, 4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 2))
    graph = graph_of(net, IMAGES)
    # Nine pixels of each channel, channel by channel.
    assert graph.axes["3.weight", 1].tolist() == [k for k in range(4) for _ in range(9)]
    (reader,) = graph.consumers
    assert (reader.weight, reader.dim) == ("3.weight", 1)


def test_channels_last_flatten_interleaves() -> None:
    net = Net(
        lambda s, x: s.b(s.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 4), b=nn.Linear(144, 2)
    )
    assert graph_of(net, IMAGES).axes["b.weight", 1].tolist() == list(range(4)) * 36


def test_concatenation_is_an_index_map() -> None:
    build, shapes, _ = KNOWN["concatenation with the input"]
    graph = graph_of(build(), *shapes)
    assert graph.axes["b.weight", 1].tolist() == [-1, -1, -1, 0, 1, 2, 3, 4, 5]


def test_grouped_units_are_blocks_of_channels() -> None:
    build, shapes, _ = KNOWN["grouped"]
    graph = graph_of(build(), *shapes)
    assert graph.axes["a.weight", 0].tolist() == [0, 0, 1, 1, 2, 2]
    assert graph.axes["d.weight", 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert ("d.weight", 1) not in graph.axes  # two inputs in each group, whatever goes


def test_chunk_pairs_are_units() -> None:
    build, shapes, _ = KNOWN["two halves multiplied"]
    assert graph_of(build(), *shapes).axes["a.weight", 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_resnet_option_a_couples_unit_by_unit() -> None:
    graph = graph_of(CifarResNet(20), (2, 3, 8, 8))
    # Nine blocks have inner channels of their own; the stream is one site of 64 units: a shortcut
    # pads 16 channels to 32 by 8 on each side, and 32 to 64 by 16 on each side.
    inner = {f"layer{i}.{j}.conv1": 16 * 2 ** (i - 1) for i in (1, 2, 3) for j in range(3)}
    assert {name: s.size for name, s in graph.sites.items()} == {"conv1": 64, **inner}
    stage1 = graph.axes["conv1.weight", 0]
    stage2 = graph.axes["layer2.0.conv2.weight", 0]
    stage3 = graph.axes["layer3.0.conv2.weight", 0]
    start = graph.offsets["conv1"]
    assert stage1.tolist() == list(range(start, start + 16))
    assert torch.equal(stage2[8:24], stage1)
    assert torch.equal(stage3[16:48], stage2)
    assert sorted(stage3.tolist()) == list(range(start, start + 64))
    for name, stage in (("layer1.2", stage1), ("layer2.2", stage2), ("layer3.2", stage3)):
        assert torch.equal(graph.axes[f"{name}.conv2.weight", 0], stage)
        assert torch.equal(graph.axes[f"{name}.bn2.running_var", 0], stage)
        assert torch.equal(graph.axes[f"{name}.conv1.weight", 1], stage)
    assert [(p.module, p.before, p.after) for p in graph.paddings] == [
        ("layer2.0.shortcut", 8, 8),
        ("layer3.0.shortcut", 16, 16),
    ]
    # The first stage owns 16 of the 64 units: it needs one of them.
    assert [(n, u.tolist()) for n, u in graph.needed] == [("conv1", stage1.tolist())]


def test_preactivation_streams_are_one_site_per_stage() -> None:
    graph = graph_of(WideResNet(10, 1), (2, 3, 8, 8))
    # Blocks of one convolution pair: the first has an identity shortcut (16 = 16 x 1).
    assert structure(graph)["conv1"] == (
        16, ("conv1", "layer1.0.conv2"), ("layer1.0.conv1", "layer2.0.conv1", "layer2.0.shortcut"),
    )  # fmt: skip
    assert graph.sites["layer2.0.conv2"].producers == ("layer2.0.conv2", "layer2.0.shortcut")


# -- what is left alone, and why ------------------------------------------------------------------


def plain_tensor() -> Net:
    net = Net(lambda s, x: s.b(s.a(x) * s.scales), a=conv(3, 6), b=conv(6, 2))
    net.scales = torch.rand(6, 1, 1)
    return net


def written_slice(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    h[:, :2] = 0
    return s.b(h)


def two(forward: Callable[..., Any], width: int = 6) -> Net:
    return Net(forward, a=nn.Linear(5, 6), b=nn.Linear(width, 2))


LEFT_ALONE: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "an operation without a rule": (
        lambda: two(lambda s, x: s.b(torch.cumsum(s.a(x), 1))),
        ROWS, "a", "no rule for the operation 'cumsum' in the network's own forward",
    ),
    "an operation without a rule in a module": (
        lambda: nn.Sequential(
            nn.Linear(5, 6), Net(lambda s, x: x.sort(1).values), nn.Linear(6, 2)
        ),
        ROWS, "0", "no rule for the operation 'sort' in 1",
    ),
    "a softmax over units": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Softmax(1), nn.Linear(6, 2)),
        ROWS, "0", "normalised together",
    ),
    "the output": (lambda: two(lambda s, x: s.b(s.a(x))), ROWS, "b", "the network's output"),
    "one of several outputs": (
        lambda: two(lambda s, x: (s.b(s.a(x)), s.a(x))), ROWS, "a", "the network's output",
    ),
    "normalisation over units": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 2)),
        ROWS, "0", "layer norm '1' takes its statistics over these units",
    ),
    "a sum over units": (
        lambda: two(lambda s, x: s.b(s.a(x) - s.a(x).mean(1, keepdim=True))),
        ROWS, "a", "it sums over units",
    ),
    "pooling over units": (
        lambda: two(lambda s, x: s.b(F.max_pool1d(s.a(x)[:, None], 2)[:, 0]), 3),
        ROWS, "a", "it pools over units",
    ),
    "units along another axis": (
        lambda: Net(
            lambda s, x: s.b(s.a(x).transpose(1, 2)), a=nn.Linear(5, 6), b=nn.Linear(4, 2)
        ),
        (2, 4, 5), "a", "do not lie along the feature axis",
    ),
    "examples in an order of somebody's own": (
        lambda: two(lambda s, x: s.b(s.a(x.flatten(0, 1).roll(1, 0)))),
        (2, 4, 5), "a", "it is not known which entries of its input are of which example",
    ),
    "added to the input": (
        lambda: Net(lambda s, x: s.b(x + s.a(x)), a=conv(3, 3), b=conv(3, 2)),
        IMAGES, "a", "meet values that no layer produces",
    ),
    "a tensor that is no buffer": (plain_tensor, IMAGES, "a", "values that no layer produces"),
    "a computed weight": (
        lambda: Net(
            lambda s, x: s.b(s.c(s.a(x))),
            a=nn.Linear(5, 6), c=weight_norm(nn.Linear(6, 7)), b=nn.Linear(7, 2),
        ),
        ROWS, "a", "its weight is computed",
    ),
    "a computed weight that reads the images": (
        lambda: Net(
            lambda s, x: s.d(s.b(s.c(x))),
            c=weight_norm(nn.Linear(5, 6)), b=nn.Linear(6, 7), d=nn.Linear(7, 2),
        ),
        ROWS, "c", "its weight is computed",
    ),
    "a weight with another use": (
        lambda: two(lambda s, x: s.b(s.a(x)) + s.b.weight.sum()),
        ROWS, "a", "b.weight is also used by sum",
    ),
    "a bias with another use": (
        lambda: two(lambda s, x: s.b(s.a(x)) + s.a.bias.sum()),
        ROWS, "a", "a.bias is also used by sum",
    ),
    "a batch norm that also takes the input": (
        lambda: Net(
            lambda s, x: s.b(s.n(s.a(s.n(x)))), a=conv(3, 3), b=conv(3, 2), n=nn.BatchNorm2d(3)
        ),
        IMAGES, "a", "n.weight is also used by",
    ),
    "a grouped convolution of the input": (
        lambda: nn.Sequential(conv(3, 6, groups=3), conv(6, 2)),
        IMAGES, "0", "the input of the grouped convolution 0 is fixed",
    ),
    "one channel added to all": (
        lambda: Net(
            lambda s, x: s.b(s.a(x) + s.c(x)), a=conv(3, 6), c=conv(3, 1), b=conv(6, 2)
        ),
        IMAGES, "a", "one channel is spread over many",
    ),
    "an outer product": (
        lambda: Net(
            lambda s, x: s.b((s.a(x)[:, :, None] * s.c(x)[:, None]).flatten(1)),
            a=nn.Linear(5, 3), c=nn.Linear(5, 4), b=nn.Linear(12, 2),
        ),
        ROWS, "a", "it is a single unit",
    ),
    "a single unit": (
        lambda: Net(lambda s, x: s.b(s.a(x)), a=nn.Linear(5, 1), b=nn.Linear(1, 2)),
        ROWS, "a", "it is a single unit",
    ),
    "never read": (
        lambda: Net(lambda s, x: (s.b(s.a(x)) - s.b(s.a(x))) * 0 + x[:, :2],
                    a=nn.Linear(5, 6), b=nn.Linear(6, 2)),
        ROWS, "b", "meet values that no layer produces",
    ),
    "stacked with the input": (
        lambda: Net(
            lambda s, x: s.b(torch.stack([x, s.a(x)], 2).flatten(1)),
            a=nn.Linear(5, 5), b=nn.Linear(10, 2),
        ),
        ROWS, "a", "its units meet values that no layer produces",
    ),
    "a slice that is written to": (lambda: two(written_slice), ROWS, "a", "no rule for the op"),
    "attention": (
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        ),
        (2, 4, 5), "0", "",
    ),
    "padding by a number in a closure": (
        lambda: Net(
            lambda s, x: s.b(F.relu(s.a(x)) + F.pad(F.relu(s.c(x)), (0, 0, 0, 0, 1, 1))),
            a=conv(3, 6), c=conv(3, 4), b=conv(6, 2),
        ),
        IMAGES, "c", "pads channels by a number written in its code",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_cannot_go_is_left_alone_with_the_reason(case: str) -> None:
    build, shape, layer, reason = LEFT_ALONE[case]
    graph = graph_of(build(), shape)
    assert layer not in graph.layer_sites()
    assert reason in graph.unprunable[layer]


class Auxiliary(nn.Module):
    """A head that is there in train mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(5, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Any:
        h = F.relu(self.a(x))
        return (self.b(h), self.head(h)) if self.training else self.b(h)


HIDDEN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "a hard-coded view": (
        lambda: Net(
            lambda s, x: s.b(s.a(x).view(-1, 216)), a=conv(3, 6), b=nn.Linear(216, 2)
        ),
        IMAGES, "the smaller network fails",
    ),
    "hard-coded slices": (
        lambda: Net(
            lambda s, x: s.b(s.a(x)[:, :4]) + s.c(s.a(x)[:, 4:]),
            a=conv(3, 8), b=conv(4, 2), c=conv(4, 2),
        ),
        IMAGES, "the smaller network fails",
    ),
    "a scale by the width": (
        lambda: two(lambda s, x: s.b(s.a(x) / s.a.weight.shape[0])),
        ROWS, "the smaller network computes something else",
    ),
    "heads of one fixed size": (
        lambda: two(lambda s, x: s.b(s.a(x).view(-1, 2, 3).transpose(1, 2).flatten(1))),
        ROWS, "the smaller network fails",
    ),
    "a head in train mode": (Auxiliary, ROWS, "the smaller network fails"),
}  # fmt: skip


@pytest.mark.parametrize("case", HIDDEN)
def test_what_the_graph_cannot_see_is_found_by_trying(case: str) -> None:
    build, shape, reason = HIDDEN[case]
    network, inputs = build().eval(), (torch.randn(shape),)
    graph = build_channel_graph(network, inputs)
    assert list(graph.sites) == ["a"]
    failures = find_failures(network, graph, inputs, {})
    assert list(failures) == ["a"]
    assert reason in failures["a"]


def test_only_the_site_at_fault_fails() -> None:
    net = Net(
        lambda s, x: s.out(F.relu(s.b(s.a(x).view(-1, 216)))),
        a=conv(3, 6), b=nn.Linear(216, 4), out=nn.Linear(4, 2),
    )  # fmt: skip
    inputs = (torch.randn(IMAGES),)
    graph = build_channel_graph(net.eval(), inputs)
    assert list(graph.sites) == ["a", "b"]
    assert list(find_failures(net, graph, inputs, {})) == ["a"]
    state = torch.random.get_rng_state()
    find_failures(net, graph, inputs, {})
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_module_that_pads_is_prunable_by_its_method() -> None:
    net = Net(
        lambda s, x: s.b(F.relu(s.a(x)) + s.p(F.relu(s.c(x)))),
        a=conv(3, 6), c=conv(3, 4), p=PadShortcut(1, 1, 1), b=conv(6, 2),
    )  # fmt: skip
    graph = graph_of(net, IMAGES)
    assert structure(graph) == {"a": (6, ("a", "c"), ("b",))}
    assert graph.axes["c.weight", 0].tolist() == [1, 2, 3, 4]
    assert [u.tolist() for _, u in graph.needed] == [[1, 2, 3, 4]]
    assert largest_difference(net, graph, torch.randn(IMAGES)) < 1e-13  # rounding, as above


def test_a_network_of_one_layer_has_no_sites() -> None:
    graph = graph_of(nn.Linear(5, 2), ROWS)
    assert list(graph.sites) == []
    assert list(graph.unprunable) == ["weight"]


# -- tracing --------------------------------------------------------------------------------------


def test_the_network_is_not_changed_by_tracing() -> None:
    network = build_network("digits-cnn", num_classes=10, in_channels=1, size=8).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    build_channel_graph(network, (torch.randn(2, 1, 8, 8),))
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


@pytest.mark.parametrize(
    ("network", "shape", "message"),
    [
        (two(lambda s, x: s.b(s.a(x))), (2, 7), r"Net fails on the example inputs \(float32\[2, 7"),
        (
            two(lambda s, x: s.b(s.a(x)) if float(x.sum()) > 0 else s.b(s.a(-x))),
            ROWS,
            "Net cannot be traced by torch.export",
        ),
    ],
)
def test_a_network_that_cannot_be_traced(
    network: nn.Module, shape: tuple[int, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DirpruneError, match=message) as caught:
        graph_of(network, shape)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


# -- include and exclude --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lenet() -> ChannelGraph:
    network = build_network("lenet5", num_classes=10, in_channels=1, size=16)
    return graph_of(network, (2, 1, 16, 16))


@pytest.mark.parametrize(
    ("include", "exclude", "sites"),
    [
        (None, None, ["conv1", "conv2", "fc1"]),
        (["fc1", "conv1"], None, ["conv1", "fc1"]),
        (None, ["conv2"], ["conv1", "fc1"]),
        (["conv1", "conv2"], ["conv2"], ["conv1"]),
        (None, ["fc2"], ["conv1", "conv2", "fc1"]),
        ([], None, []),
    ],
)
def test_include_and_exclude(
    lenet: ChannelGraph, include: list[str] | None, exclude: list[str] | None, sites: list[str]
) -> None:
    graph = select_sites(lenet, include, exclude)
    assert list(graph.sites) == sites
    assert graph.num_units == sum({"conv1": 20, "conv2": 50, "fc1": 500}[s] for s in sites)
    for name in {"conv1", "conv2", "fc1"} - set(sites):
        assert "include/exclude" in graph.unprunable[name]
    for name in sites:
        start, size = graph.offsets[name], graph.sites[name].size
        assert graph.axes[f"{name}.weight", 0].tolist() == list(range(start, start + size))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            SimpleNamespace(include=["conv3"], exclude=None),
            r"unknown layer 'conv3'; did you mean '",
        ),
        (SimpleNamespace(include=None, exclude=["fc_1"]), r"did you mean 'fc1'"),
        (SimpleNamespace(include=["fc2"], exclude=None), r"'fc2' cannot be pruned: it is the netw"),
        (SimpleNamespace(include="conv1", exclude=None), r"include: expected a list of names"),
    ],
)
def test_wrong_names_are_errors(lenet: ChannelGraph, names: SimpleNamespace, message: str) -> None:
    with pytest.raises(DirpruneError, match=message):
        select_sites(lenet, names.include, names.exclude)


def test_a_site_is_named_by_any_of_its_layers() -> None:
    graph = graph_of(CifarResNet(8), (2, 3, 8, 8))
    assert list(select_sites(graph, ["layer3.0.conv2"], None).sites) == ["conv1"]
