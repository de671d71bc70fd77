"""The body: gains act on what consumers read, and on nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.body import Gain, SwitchedBody
from dirprune.model.graph import ChannelGraph, build_channel_graph
from dirprune.model.graph.propagation import op_name
from dirprune.model.networks import CifarResNet, WideResNet, build_network
from dirprune.model.surgery import silence

Randomise = Callable[[nn.Module], nn.Module]


class Mixed(nn.Module):
    """Concatenation, a shared layer, a depthwise convolution, tokens, a mapping of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.two = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(14)
        self.depthwise = nn.Conv2d(14, 14, 3, groups=14, padding=1)
        self.mix = nn.Conv2d(14, 14, 1)
        self.token = nn.Linear(14, 9)
        self.out = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.silu(self.one(x)), self.two(x)], 1)
        x = self.mix(F.gelu(self.mix(self.depthwise(self.norm(x)))))
        x = x.flatten(2).transpose(1, 2)
        return self.out(torch.tanh(self.token(x))).mean(1)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "lenet5": lambda: (
        build_network("lenet5", num_classes=4, in_channels=1, size=16),
        torch.randn(6, 1, 16, 16),
    ),
    "digits-cnn": lambda: (
        build_network("digits-cnn", num_classes=4, in_channels=1, size=8),
        torch.randn(6, 1, 8, 8),
    ),
    "resnet8": lambda: (CifarResNet(8, num_classes=4), torch.randn(6, 3, 8, 8)),
    "wrn10": lambda: (WideResNet(10, 1, num_classes=4), torch.randn(6, 3, 8, 8)),
    "mixed": lambda: (Mixed(), torch.randn(6, 3, 5, 5)),
}


class Case:
    def __init__(self, name: str, randomise: Randomise) -> None:
        network, images = NETWORKS[name]()
        self.network = randomise(network).double().eval().requires_grad_(False)
        self.images = images.double()
        self.graph: ChannelGraph = build_channel_graph(self.network, (self.images,))
        self.body = SwitchedBody(self.graph)

    def ones(self, rows: int = 1) -> dict[str, Tensor]:
        return {
            name: torch.ones(rows, site.size, dtype=torch.float64)
            for name, site in self.graph.sites.items()
        }

    def random(self, rows: int = 1) -> dict[str, Tensor]:
        return {name: 0.2 + 1.6 * torch.rand_like(g) for name, g in self.ones(rows).items()}


@pytest.fixture(params=NETWORKS, scope="module")
def case(request: pytest.FixtureRequest, randomise_norms: Randomise) -> Case:
    torch.manual_seed(0)
    return Case(request.param, randomise_norms)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


# 1e-12 throughout: float64 rounding (2e-16) through at most ten layers, whose batch norms are
# folded into the convolutions, hence multiplied in another order.


def test_uniform_gains_are_the_network(case: Case) -> None:
    assert relative(case.body(case.ones(), case.images), case.network(case.images)) <= 1e-12


def test_gain_zero_is_the_mask(case: Case) -> None:
    gains, kept = case.ones(), {}
    for name, gain in gains.items():
        gone = torch.randperm(gain.shape[1])[: gain.shape[1] // 2]
        gain[:, gone] = 0
        kept[name] = gain[0].nonzero()[:, 0]
    want = silence(case.network, case.graph, kept)(case.images)
    assert relative(case.body(gains, case.images), want) <= 1e-12
    assert relative(want, case.network(case.images)) > 1e-3  # something was removed


def test_a_gain_scales_the_consumers_columns(case: Case) -> None:
    gains = case.random()
    flat = torch.cat([*(g[0] for g in gains.values()), torch.ones(1, dtype=torch.float64)])
    scaled = copy.deepcopy(case.network)
    done = set()
    for consumer in case.graph.consumers:
        weight = scaled.get_parameter(consumer.weight)
        if consumer.weight not in done:  # a layer may be used twice
            done.add(consumer.weight)
            weight.mul_(flat[consumer.units].view(-1, *[1] * (weight.dim() - 2)))
    assert relative(case.body(gains, case.images), scaled(case.images)) <= 1e-12


def test_every_site_matters(case: Case) -> None:
    plain = case.body(case.ones(), case.images)
    for name in case.graph.sites:
        gains = case.ones()
        gains[name] *= 1.5
        assert relative(case.body(gains, case.images), plain) > 1e-6, name


@pytest.mark.parametrize("rows", [2, 4, 6, 9])
def test_example_i_takes_draw_i_mod_p(case: Case, rows: int) -> None:
    gains = case.random(rows)
    together = case.body(gains, case.images)
    for i in range(len(case.images)):
        own = {name: g[i % rows][None] for name, g in gains.items()}
        assert relative(together[i], case.body(own, case.images[i : i + 1])[0]) <= 1e-12


def test_gradients_of_gains_are_finite_differences(case: Case) -> None:
    gains = {name: g.requires_grad_() for name, g in case.random(2).items()}
    weights = torch.randn(len(case.images), 4, dtype=torch.float64)

    def value() -> Tensor:
        return (case.body(gains, case.images) * weights).sum()

    exact = torch.autograd.grad(value(), list(gains.values()))
    step = 1e-5
    for gain, gradient in zip(gains.values(), exact, strict=True):
        direction = torch.randn_like(gain)
        with torch.no_grad():
            gain += step * direction
            above = value()
            gain -= 2 * step * direction
            below = value()
            gain += step * direction
        numeric = float((above - below) / (2 * step))
        along = float((gradient * direction).sum())
        scale = float(gradient.abs().max() * direction.norm())
        # Central differences at 1e-5 are good to about 1e-8; a kink of a ReLU or of a maximum
        # within the step costs more, and is rare.
        assert abs(numeric - along) <= 1e-5 * scale


def test_the_batch_may_have_any_size(case: Case) -> None:
    for batch in (1, 3, 5):
        out = case.body(case.ones(), case.images[:batch])
        assert relative(out, case.network(case.images[:batch])) <= 1e-12


def norms_left(case: Case) -> int:
    graph = case.body.graph_module.graph
    return sum("batch_norm" in op_name(node) for node in graph.nodes if node.op == "call_function")


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet8", 0),  # each follows a convolution
        ("wrn10", 4),  # three first norms of blocks and the last, which follow additions
        ("mixed", 1),  # follows a concatenation
    ],
)
def test_batch_norms_are_folded_where_they_follow_a_convolution(
    name: str, left: int, randomise_norms: Randomise
) -> None:
    # (Of wrn10, the first block's first norm follows the very first convolution, which the
    # identity shortcut reads too, so it stays.)
    assert norms_left(Case(name, randomise_norms)) == left


def test_the_body_leaves_the_traced_graph_alone(case: Case) -> None:
    again = SwitchedBody(case.graph)
    gains = case.random()
    assert torch.equal(again(gains, case.images), case.body(gains, case.images))
    assert not any("gain" in str(node.target) for node in case.graph.module.graph.nodes)


def test_gains_do_not_outlive_a_pass(case: Case) -> None:
    case.body(case.ones(), case.images)
    assert case.body._holder.values == {}
    with pytest.raises(KeyError):
        case.body({}, case.images)
    assert case.body._holder.values == {}


def test_sums_by_unit_are_the_gradients_of_the_gains(case: Case) -> None:
    # d/dg_k sum_j v_j g_unit(j) is the sum of v over the features of unit k.
    seen: list[Gain] = []
    with case.body.watched(lambda gain, x: seen.append(gain)):
        case.body(case.ones(), case.images)
    for gain in seen:
        values = torch.randn(_features(gain, case), dtype=torch.float64)
        gains = {name: g.requires_grad_() for name, g in case.ones().items()}
        parts = [gains[name][0] for name in gain.sites]
        flat = torch.cat([*parts, torch.ones(1, dtype=torch.float64)])
        spread = flat[:-1] if gain.index is None else flat[gain.index]
        slopes = torch.autograd.grad((spread * values).sum(), [gains[n] for n in gain.sites])
        sums = gain.sum_by_unit(values)
        assert list(sums) == gain.sites
        for name, slope in zip(gain.sites, slopes, strict=True):
            assert relative(sums[name], slope[0]) <= 1e-12


def _features(gain: Gain, case: Case) -> int:
    return (
        sum(case.graph.sites[n].size for n in gain.sites) if gain.index is None else len(gain.index)
    )


def test_watched_shows_what_gains_multiply(case: Case) -> None:
    # The value comes before its gain, so that the first one is the same under any gain.
    def record(gains: dict[str, Tensor]) -> list[tuple[Gain, Tensor]]:
        seen: list[tuple[Gain, Tensor]] = []
        with case.body.watched(lambda gain, x: seen.append((gain, x))):
            case.body(gains, case.images)
        return seen

    seen = record(case.ones())
    assert len({gain for gain, _ in seen}) == len(seen)  # each once a pass
    assert {name for gain, _ in seen for name in gain.sites} == set(case.graph.sites)
    for gain, x in seen:
        assert x.shape[gain.dim] == _features(gain, case)
    first, x = seen[0]
    changed = {n: g * (0.5 if n in first.sites else 1) for n, g in case.ones().items()}
    assert torch.equal(record(changed)[0][1], x)
    count = len(seen)
    case.body(case.ones(), case.images)
    assert len(seen) == count  # no longer watched
    assert not any(module._forward_pre_hooks for module in case.body.modules())
