"""Surgery: the pruned network is the masked one, and nothing else of it changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import WideResNet, build_network
from dirprune.model.surgery import mask, prune, without_empty_layers
from dirprune.model.switched import SwitchedNetwork

Randomise = Callable[[nn.Module], nn.Module]

# Images as small as the network takes them: rounding does not depend on it, time does.
NETWORKS = [
    ("lenet5", 1, 16),
    ("digits-cnn", 1, 8),
    ("mlp", 1, 8),
    ("vgg16", 3, 32),
    ("resnet20", 3, 8),
    ("resnet56", 3, 8),
    ("torchvision:resnet18", 3, 32),
    ("torchvision:resnet50", 3, 32),
]
SLOW = [
    ("torchvision:alexnet", 3, 63),
    ("resnet32", 3, 32),
    ("resnet44", 3, 32),
    ("resnet110", 3, 32),
    ("wrn28_10", 3, 16),
    ("torchvision:resnet34", 3, 64),
    ("torchvision:vgg11", 3, 32),
    ("torchvision:vgg13_bn", 3, 32),
    ("torchvision:vgg16_bn", 3, 32),
    ("torchvision:vgg19", 3, 32),
]


@cache
def _built(name: str, channels: int, size: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    network = build_network(name, num_classes=5, in_channels=channels, size=size)
    return network.double().eval(), torch.randn(3, channels, size, size, dtype=torch.float64)


@cache
def _model(randomise: Randomise, name: str, channels: int, size: int) -> SwitchedNetwork:
    network, images = _built(name, channels, size)
    return SwitchedNetwork(randomise(network), images, num_data=10)


def random_decision(model: SwitchedNetwork, seed: int, least: float = 0.0) -> Decision:
    """Any legal decision: each site keeps its own random share, down to a single unit."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for name, site in model.sites.items():
        share = least + (1 - least) * float(torch.rand((), generator=generator))
        count = max(1, round(share * site.size))
        kept[name] = torch.randperm(site.size, generator=generator)[:count]
    return Decision(without_empty_layers(model.graph, kept))


def relative_difference(model: SwitchedNetwork, decision: Decision, images: Tensor) -> float:
    masked, pruned = mask(model, decision).eval(), prune(model, decision).eval()
    with torch.no_grad():
        want, got = masked(images), pruned(images)
    return float((want - got).abs().max() / want.abs().max())


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def seeds(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        return settings(max_examples=examples)(given(seed=st.integers(0, 2**32 - 1))(test))

    return decorate


# 1e-12: float64 rounds at 2e-16, a sum of n terms in another order loses about sqrt(n), and there
# are up to 4096 x 25 terms and 100 layers.
@pytest.mark.parametrize(("name", "channels", "size"), NETWORKS)
@seeds(2)
def test_pruned_is_masked(
    randomise_norms: Randomise, name: str, channels: int, size: int, seed: int
) -> None:
    model = _model(randomise_norms, name, channels, size)
    images = _built(name, channels, size)[1]
    assert relative_difference(model, random_decision(model, seed), images) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("name", "channels", "size"), SLOW)
def test_pruned_is_masked_on_large_networks(
    randomise_norms: Randomise, name: str, channels: int, size: int
) -> None:
    network = build_network(name, num_classes=5, in_channels=channels, size=size).double()
    images = torch.randn(2, channels, size, size, dtype=torch.float64)
    model = SwitchedNetwork(randomise_norms(network), images, num_data=10)
    for seed in range(2):
        assert relative_difference(model, random_decision(model, seed), images) <= 1e-12


@pytest.mark.parametrize(("name", "channels", "size"), NETWORKS[:3])
@seeds(40)
def test_pruned_is_masked_in_many_decisions(
    randomise_norms: Randomise, name: str, channels: int, size: int, seed: int
) -> None:
    model = _model(randomise_norms, name, channels, size)
    images = _built(name, channels, size)[1]
    assert relative_difference(model, random_decision(model, seed), images) <= 1e-12


def test_every_unit_can_be_the_only_one_kept(randomise_norms: Randomise) -> None:
    model = _model(randomise_norms, "digits-cnn", 1, 8)
    images = _built("digits-cnn", 1, 8)[1]
    for unit in range(min(site.size for site in model.sites.values())):
        decision = Decision({name: torch.tensor([unit]) for name in model.sites})
        assert relative_difference(model, decision, images) <= 1e-12


@pytest.fixture(scope="module")
def made(randomise_norms: Randomise) -> SwitchedNetwork:
    torch.manual_seed(0)
    network = build_network("resnet20", num_classes=5, in_channels=3, size=8)
    return SwitchedNetwork(randomise_norms(network), torch.randn(2, 3, 8, 8), num_data=10)


@pytest.fixture
def model(made: SwitchedNetwork) -> SwitchedNetwork:
    """A network with a padded stream, in float32; tests may change it."""
    return copy.deepcopy(made)


def test_everything_kept_is_the_network_itself(model: SwitchedNetwork) -> None:
    images = torch.randn(4, 3, 8, 8)
    for change in (mask, prune):
        same = change(model, Decision({}))
        assert same is not model.network
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                same.state_dict().values(), model.network.state_dict().values(), strict=True
            )
        )
        assert torch.equal(same.eval()(images), model.network.eval()(images))


def test_removal_changes_the_function(model: SwitchedNetwork) -> None:
    # Otherwise "masked = pruned" would hold for a mask that does nothing.
    images = torch.randn(4, 3, 8, 8)
    decision = random_decision(model, 0)
    network = model.network.eval()
    with torch.no_grad():
        difference = mask(model, decision).eval()(images) - network(images)
    assert float(difference.abs().max()) > 1e-2
    assert count(prune(model, decision)) < 0.8 * count(network)


def snapshot(network: nn.Module) -> dict[str, Any]:
    return {
        "state": {n: t.clone() for n, t in network.state_dict().items()},
        "identity": [id(t) for t in (*network.parameters(), *network.buffers())],
        "flags": [p.requires_grad for p in network.parameters()],
        "training": [m.training for m in network.modules()],
        "widths": [(s.before, s.after) for s in network.modules() if hasattr(s, "set_padding")],
    }


def test_the_original_is_untouched_bit_for_bit(model: SwitchedNetwork) -> None:
    network = model.network
    network.train()
    network.get_submodule("layer1").eval()
    network.get_parameter("conv1.weight").requires_grad_(False)
    before = snapshot(network)
    pruned = prune(model, random_decision(model, 1))
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    mask(model, random_decision(model, 1))
    after = snapshot(network)
    states = before.pop("state"), after.pop("state")
    assert before == after
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_modes_and_gradient_flags_are_kept(model: SwitchedNetwork) -> None:
    network = model.network.train()
    network.get_submodule("layer2").eval()
    network.get_submodule("linear").requires_grad_(False)
    for change in (mask, prune):
        new = change(model, random_decision(model, 2))
        assert type(new) is type(network)
        for (name, a), (_, b) in zip(network.named_modules(), new.named_modules(), strict=True):
            assert a.training == b.training, name
        for (name, p), (_, q) in zip(
            network.named_parameters(), new.named_parameters(), strict=True
        ):
            assert p.requires_grad == q.requires_grad, name
            assert q.is_leaf


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_precision_is_kept(dtype: torch.dtype) -> None:
    network = build_network("digits-cnn", num_classes=10, in_channels=1, size=8).to(dtype)
    model = SwitchedNetwork(network, torch.randn(2, 1, 8, 8, dtype=dtype), num_data=10)
    decision = random_decision(model, 3)
    for new in (mask(model, decision), prune(model, decision)):
        assert {p.dtype for p in new.parameters()} == {dtype}
        assert new(torch.randn(2, 1, 8, 8, dtype=dtype)).dtype == dtype
    # In any precision the kept weights are the very same numbers.
    bias = prune(model, decision).state_dict()["conv1.bias"]
    assert torch.equal(bias, network.state_dict()["conv1.bias"][decision.kept["conv1"]])


def test_sizes_that_modules_note_follow(model: SwitchedNetwork) -> None:
    pruned = prune(model, random_decision(model, 4))
    for name, module in pruned.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels), name
        elif isinstance(module, nn.BatchNorm2d):
            assert len(module.weight) == len(module.running_var) == module.num_features, name  # type: ignore[arg-type]
        elif isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features), name


class Grouped(nn.Module):
    """Grouped convolutions, slopes, and one batch norm for two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.slopes = nn.PReLU(8)
        self.expand = nn.Conv2d(8, 12, 3, groups=4)
        self.last = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        x = self.slopes(self.norm(self.depthwise(x)))
        return self.last(self.expand(x).mean((2, 3)))


def test_groups_shrink() -> None:
    model = SwitchedNetwork(Grouped(), torch.randn(2, 3, 6, 6), num_data=10)
    assert model.sites["first"].size == 4
    pruned: Any = prune(model, Decision({"first": torch.tensor([0, 3])}))
    assert (pruned.depthwise.groups, pruned.depthwise.in_channels) == (4, 4)
    assert (pruned.expand.groups, pruned.expand.in_channels, pruned.expand.out_channels) == (
        2, 4, 6,
    )  # fmt: skip
    assert pruned.slopes.num_parameters == 4
    assert pruned.norm.num_features == 4
    # Units are the groups: unit 3 holds channels 6 and 7, and the last three outputs.
    original: Any = model.network
    rows = [0, 1, 6, 7]
    assert torch.equal(pruned.depthwise.weight, original.depthwise.weight[rows])
    assert torch.equal(pruned.last.weight, original.last.weight[:, [0, 1, 2, 9, 10, 11]])


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 6)
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.out = nn.Linear(6, 2)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.one(self.embed(x))))
        return self.out(F.relu(self.two(x)))


def test_shared_parameters_stay_shared(randomise_norms: Randomise) -> None:
    network = randomise_norms(Tied()).double()
    inputs = torch.randn(4, 5, dtype=torch.float64)
    model = SwitchedNetwork(network, inputs, num_data=10)
    decision = Decision({"embed": torch.tensor([1, 2, 5])})
    pruned: Any = prune(model, decision)
    assert pruned.one.weight is pruned.two.weight
    assert pruned.one.weight.shape == (3, 3)
    assert (pruned.two.in_features, pruned.two.out_features) == (3, 3)
    assert relative_difference(model, decision, inputs) <= 1e-12


def test_the_pruned_network_trains(model: SwitchedNetwork) -> None:
    images, labels = torch.randn(32, 3, 8, 8), torch.arange(32) % 5
    pruned = prune(model, random_decision(model, 5, least=0.5)).train()
    optimiser = torch.optim.Adam(pruned.parameters(), lr=0.01)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(pruned(images), labels)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.shape == p.shape for p in pruned.parameters())
        optimiser.step()
        losses.append(float(loss.detach()))
    # Chance is log 5 = 1.61; a few steps on one batch of 32 go well below half of the start.
    assert losses[-1] < 0.5 * losses[0]


def test_preactivation_network_trains(randomise_norms: Randomise) -> None:
    network = randomise_norms(WideResNet(10, 1, num_classes=3))
    model = SwitchedNetwork(network, torch.randn(2, 3, 8, 8), num_data=10)
    pruned = prune(model, random_decision(model, 6)).train()
    pruned(torch.randn(4, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in pruned.parameters())


def test_a_pruned_network_is_pruned_again(model: SwitchedNetwork) -> None:
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    network = prune(model, random_decision(model, 7, least=0.5)).double().eval()
    again = SwitchedNetwork(network, images, num_data=10)
    assert relative_difference(again, random_decision(again, 8), images) <= 1e-12


def test_a_copy_of_the_model_prunes_alike(model: SwitchedNetwork) -> None:
    decision = random_decision(model, 9)
    one, two = prune(model, decision), prune(copy.deepcopy(model), decision)
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


@pytest.mark.parametrize("change", [mask, prune])
@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"conv9": [0]}, "names the site 'conv9', which this network does not have"),
        ({"layer1.0.conv1": [3, 16]}, "keeps unit 16 of site 'layer1.0.conv1', .* units 0 to 15"),
        ({"conv1": [16, 40]}, "leaves layer 'conv1' without a channel"),
    ],
)
def test_decisions_that_cannot_be_carried_out(
    model: SwitchedNetwork,
    change: Callable[..., nn.Module],
    kept: dict[str, list[int]],
    message: str,
) -> None:
    with pytest.raises(DirpruneError, match=message):
        change(model, Decision({name: torch.tensor(units) for name, units in kept.items()}))


class Slice(nn.Module):
    """Reads the first channel by number: right only while the first unit stays first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)
        self.number = 0

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.b(h) * (1 + (self.number and h.shape[1]))


def test_prune_compares_before_it_hands_over() -> None:
    model = SwitchedNetwork(Slice(), torch.randn(2, 5), num_data=10)
    # What find_failures saw is not what is pruned now: the output depends on the width.
    model.network.number = 1  # type: ignore[assignment]
    with pytest.raises(DirpruneError, match="computes something else; exclude the layer"):
        prune(model, Decision({"a": torch.tensor([0, 1])}))


class Hidden(nn.Module):
    """Its forward computes with the number of channels, which the graph knows as a constant."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, width, 3, bias=False)
        self.b = nn.Linear(width, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.a(x))
        return self.b(h.sum((2, 3)) / h.shape[1])


@pytest.mark.parametrize("width", [6, 32])
@pytest.mark.parametrize("example", ["random", "zeros"])
def test_what_the_graph_cannot_see_is_found_before_anything_is_learned(
    width: int, example: str
) -> None:
    """Without biases, zeros give zeros whatever is cut: other examples have to be taken."""
    inputs = torch.randn(2, 3, 8, 8) if example == "random" else torch.zeros(2, 3, 8, 8)
    with pytest.raises(DirpruneError, match="it cannot be cut"):
        SwitchedNetwork(Hidden(width), inputs, num_data=10)
