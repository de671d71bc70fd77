"""Gibbs pruning: masks, annealing, the cut, and what is left of the units."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dirprune.inference import loop
from dirprune.inference.data import load_data, loader
from dirprune.inference.evaluate import evaluate
from dirprune.inference.train_time import (
    STRUCTURES,
    chromatic,
    gibbs_pruning,
    gibbs_structures,
    weight_layers,
)
from dirprune.inference.train_time.annealing import inverse_temperature
from dirprune.inference.train_time.exchangeable import ExchangeableSpins
from dirprune.inference.train_time.gibbs import GibbsMasked
from dirprune.inference.train_time.gibbs_structures import Filter, Kernel, Unstructured
from dirprune.inference.training import train
from dirprune.model.errors import DirpruneError
from dirprune.model.networks.digits import DigitsCNN
from dirprune.model.networks.resnet_cifar import CifarResNet
from dirprune.model.switched import SwitchedNetwork

Batches = Callable[..., DataLoader[Any]]
Make = Callable[..., SwitchedNetwork]


@pytest.fixture(scope="module")
def digits() -> SwitchedNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return SwitchedNetwork(DigitsCNN(), torch.rand(2, 1, 8, 8), num_data=1132)


# -- masks ----------------------------------------------------------------------------------------


def test_single_weights_go_with_the_papers_probability() -> None:
    squares, p, beta = torch.rand(5, 4, 1), 0.5, 3.0
    limit = torch.quantile(squares, p)
    expected = 1 / (1 + torch.exp(-beta * (limit - squares)))
    draws = torch.stack([Unstructured().draw(squares, p, beta) for _ in range(4000)])
    # 20 shares of 4,000 draws: within 4.5 standard errors
    error = (expected * (1 - expected) / 4000).sqrt()
    assert bool(((1 - draws.mean(0) - expected).abs() < 4.5 * error).all())


def test_a_kernels_masks_are_those_of_enumeration() -> None:
    # 3,000 layers in one, so that Q_p is that of six kernels of 2 x 2: the 16 masks of one of them.
    squares, p, beta, structure = torch.rand(3, 2, 4), 0.6, 2.0, Kernel(c=0.2)
    layer = squares.repeat(3000, 1, 1)
    x = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))
    a = -0.2 * (torch.ones(4, 4) - torch.eye(4))
    limit = torch.quantile(layer.mean(2), p)
    energy = ((x @ a) * x).sum(1) + x @ (limit - squares[1, 1])
    expected = (-beta * energy).softmax(0)
    draws = structure.draw(layer, p, beta)[1::3, 1]
    index = (draws @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    found = torch.bincount(index, minlength=16) / 3000
    error = (expected * (1 - expected) / 3000).sqrt()
    assert bool(((found - expected).abs() < 4.5 * error).all())


@pytest.mark.parametrize("name", STRUCTURES)
def test_cold_masks_are_the_cut(name: str) -> None:
    # At the last temperature of the schedule. Of single weights those near Q_p still waver: they
    # are spread here so that the nearest is .01 from it, and beta is 10^4.
    structure = STRUCTURES[name]
    squares = (torch.randperm(20 * 8 * 9).float() / 72).view(20, 8, 9)
    if name == "kernel":
        squares = squares.mean(2, keepdim=True).expand(20, 8, 9)
    drawn = structure.draw(squares, 0.9, structure.betas[1])
    assert torch.equal(drawn.bool(), structure.cut(squares, 0.9))


def test_hot_masks_keep_a_half() -> None:
    # beta -> 0 gives fair coins: 1,440 of them, within 4.5 standard errors of .0132.
    squares = torch.rand(20, 8, 9)
    for structure in STRUCTURES.values():
        mean = float(structure.draw(squares, 0.9, 1e-9).mean())
        assert abs(mean - 0.5) < 4.5 * 0.5 / math.sqrt(1440)


@pytest.mark.parametrize("name", ["kernel", "filter"])
def test_parts_of_a_layer_are_drawn_in_their_places(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 27 filters of 8 channels, 3 filters or 30 kernels at a time; cold, so that masks are the cut.
    monkeypatch.setattr(gibbs_structures, "CHUNK", 30)
    rows: list[int] = []

    class Spied(ExchangeableSpins):
        def __init__(self, b: Tensor, c: float, beta: float) -> None:
            rows.append(b[..., 0].numel())
            super().__init__(b, c, beta)

    for module in (gibbs_structures, chromatic):
        monkeypatch.setattr(module, "ExchangeableSpins", Spied)
    structure = STRUCTURES[name]
    squares = (torch.randperm(27 * 8 * 9).float() / 72).view(27, 8, 9)
    if name == "kernel":
        squares = squares.mean(2, keepdim=True).expand(27, 8, 9)
    drawn = structure.draw(squares, 0.6, structure.betas[1])
    assert torch.equal(drawn.bool(), structure.cut(squares, 0.6))
    # Filters in two halves of four channels; kernels, 216 of them, in 7 parts of 30 and one of 6.
    assert rows == ([12] * 18 if name == "filter" else [30] * 7 + [6])


def test_filters_masks_are_those_of_enumeration_in_parts_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 2,000 layers in one, so that Q_p is that of three filters of 2 x 2, in parts of 50 filters.
    monkeypatch.setattr(gibbs_structures, "CHUNK", 100)
    squares, p, beta = torch.rand(3, 2, 2), 0.5, 1.0
    layer = squares.repeat(2000, 1, 1)
    x = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))
    halves = torch.tensor([0, 0, 1, 1])
    a = torch.where(halves[:, None] == halves, -0.3, -0.15).fill_diagonal_(0)
    limit = torch.quantile(layer.mean((1, 2)), p)
    energy = ((x @ a) * x).sum(1) + x @ (limit - squares[1].flatten())
    expected = (-beta * energy).softmax(0)
    draws = Filter(c=0.3).draw(layer, p, beta)[1::3].flatten(1)
    index = (draws @ torch.tensor([8.0, 4.0, 2.0, 1.0])).long()
    found = torch.bincount(index, minlength=16) / 2000
    error = (expected * (1 - expected) / 2000).sqrt()
    assert bool(((found - expected).abs() < 4.5 * error).all())


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_narrow_layer_has_narrow_masks(name: str) -> None:
    squares = torch.rand(20, 8, 9, dtype=torch.bfloat16)
    drawn = STRUCTURES[name].draw(squares, 0.5, 1.0)
    assert drawn.dtype == torch.bfloat16
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    # Ties and the rounding of Q_p to 8 bits are worth 1/2^8 of a density of 1 (of the weights);
    # of 20 filters one more or less.
    assert STRUCTURES[name].cut(squares, 0.5).float().mean() == pytest.approx(0.5, abs=0.1)


def test_the_cut_leaves_a_tenth() -> None:
    squares = torch.rand(40, 10, 9)
    assert int(Unstructured().cut(squares, 0.9).sum()) == 360
    kernels = Kernel().cut(squares, 0.9)
    assert int(kernels[:, :, 0].sum()) == 40
    assert torch.equal(kernels, kernels[:, :, :1].expand_as(kernels))
    filters = Filter().cut(squares, 0.9)
    best = squares.mean((1, 2)).topk(4).indices.sort().values
    assert torch.equal(filters.all(2).all(1).nonzero()[:, 0], best)
    assert torch.equal(filters.any(2).any(1).nonzero()[:, 0], best)


# -- annealing ------------------------------------------------------------------------------------


def test_the_schedule_is_the_formula() -> None:
    # The paper's figures: 128 of 200 epochs, from 1 to 10^4.
    found = [inverse_temperature(t, 200, 1.0, 1e4) for t in range(200)]
    for t in range(129):
        assert found[t] == pytest.approx(10 ** (4 * t / 128), rel=1e-12)
    assert found[128:] == pytest.approx([1e4] * 72, rel=1e-12)
    assert inverse_temperature(64, 200, 10**-2.5, 1.0) == pytest.approx(10**-1.25, rel=1e-12)


def test_every_step_is_colder(digits: SwitchedNetwork) -> None:
    masked = GibbsMasked(DigitsCNN(), digits.graph, ["conv2"], "unstructured", 0.9, total=10)
    seen = []
    for _ in range(10):
        seen.append(masked.beta)
        masked(torch.zeros(1, 1, 8, 8))
    assert seen == [inverse_temperature(t, 10, 1.0, 1e4) for t in range(10)]
    masked.eval()(torch.zeros(1, 1, 8, 8))
    assert int(masked.steps) == 10  # an evaluation is no step


# -- training -------------------------------------------------------------------------------------


def test_masked_weights_get_no_gradient_and_decay_all_the_same(digits: SwitchedNetwork) -> None:
    network = DigitsCNN()
    masked = GibbsMasked(network, digits.graph, ["conv2"], "unstructured", 0.5, total=4)
    drawn: list[Tensor] = []
    draw = masked.draw

    def spy() -> dict[str, Tensor]:
        found = draw()
        drawn.append(found["conv2.weight"])
        return found

    masked.draw = spy  # type: ignore[method-assign]
    masked(torch.rand(8, 1, 8, 8)).square().sum().backward()
    grad = network.conv2.weight.grad
    assert grad is not None
    assert bool((grad[drawn[0] == 0] == 0).all())
    assert float((grad[drawn[0] == 1] != 0).float().mean()) > 0.5  # the others get one

    before = network.conv2.weight.detach().clone()
    x, y = torch.rand(8, 1, 8, 8), torch.arange(8)
    train(masked, [(x, y)], epochs=1, lr=0.1, weight_decay=0.5)
    gone = drawn[1] == 0
    # Nesterov's first step is lr (1 + momentum) decay w = .1 x 1.9 x .5 w
    torch.testing.assert_close(network.conv2.weight.detach()[gone], (1 - 0.095) * before[gone])


@pytest.mark.parametrize(
    ("structure", "ratio"), [("unstructured", 0.9), ("kernel", 0.9), ("filter", 0.5)]
)
def test_the_digits_are_learned_and_the_rest_is_left(
    trained: nn.Module, structure: str, ratio: float
) -> None:
    data = load_data("digits")
    model = SwitchedNetwork(trained, torch.rand(2, 1, 8, 8), num_data=1132)
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    batches = loader(data.train, 64, shuffle=True)
    found = gibbs_pruning(model, batches, structure=structure, ratio=ratio, epochs=3)
    test = loader(data.test, 256)
    # Three epochs after 97 % gave 97 %; the standard error is .7 points, and chance 10 %.
    assert evaluate(found.network, test).percent > 93
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())
    assert len(found.losses) == 3 * 18
    assert found.sparsity["conv1"] == 0
    if structure == "filter":
        assert found.decision is not None
        kept = {site: len(units) for site, units in found.decision.kept.items()}
        assert kept == {"conv1": 16, "conv2": 16, "fc1": 32}
        assert found.network.get_parameter("conv2.weight").shape == (16, 16, 3, 3)
        assert found.network.get_parameter("fc1.weight").shape == (32, 16 * 16)
        assert found.sparsity["fc1"] == 0.75
    else:
        assert found.decision is None
        # of 512 kernels (the weights of fc1 are kernels too) 90 %, to the nearest one
        assert found.sparsity["conv2"] == pytest.approx(0.9, abs=1 / 512)
        assert found.sparsity["fc1"] == pytest.approx(0.9, abs=1 / 32_768)
    images = next(iter(test))[0]
    with torch.no_grad():
        torch.testing.assert_close(
            found.network(images), found.masked(images), rtol=1e-4, atol=1e-4
        )  # float32 over sums of 500 terms


def test_a_unit_of_a_stream_goes_when_all_its_layers_mask_it() -> None:
    # With batch norms and padded shortcuts: masked and pruned are one function, in float64.
    network = CifarResNet(depth=8, num_classes=4, in_channels=1).double()
    images = torch.randn(12, 1, 8, 8, dtype=torch.float64)
    labels = torch.arange(12) % 4
    model = SwitchedNetwork(network, images[:2], num_data=12)
    found = gibbs_pruning(
        model, [(images, labels)] * 3, structure="filter", ratio=0.5, epochs=2,
        layers=weight_layers(network, model.graph),
    )  # fmt: skip
    assert found.decision is not None
    widths = {site: len(units) for site, units in found.decision.kept.items()}
    assert widths["layer2.0.conv1"] == 16  # half of 32
    # Those of the stream that some of its four layers keep; each keeps half of what it writes.
    masks = {
        layer: found.masked.get_parameter(f"{layer}.weight").flatten(1).any(1)
        for layer in ("conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")
    }
    assert [int(m.sum()) for m in masks.values()] == [8, 8, 16, 32]
    alive = masks["layer3.0.conv2"].clone()
    alive[16:48] |= masks["layer2.0.conv2"]  # the shortcuts pad on both sides
    alive[24:40] |= masks["conv1"] | masks["layer1.0.conv2"]
    assert widths["conv1"] == int(alive.sum())
    with torch.no_grad():
        a, b = found.network(images), found.masked(images)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert found.network.linear.in_features == widths["conv1"]


def test_frozen_parameters_stay(batches: Batches) -> None:
    network: Any = nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    )
    network[0].requires_grad_(False)
    model = SwitchedNetwork(network, torch.zeros(2, 4), num_data=40)
    found: Any = gibbs_pruning(model, batches(), structure="kernel", epochs=1)
    assert torch.equal(found.masked[0].weight, network[0].weight)
    assert not torch.equal(found.masked[4].weight, network[4].weight)
    assert [p.requires_grad for p in found.network.parameters()] == [False, False, *[True] * 4]


def test_same_seed_same_bits(classifier: Make, batches: Batches) -> None:
    found = [
        gibbs_pruning(classifier(), batches(), structure="kernel", epochs=2, seed=seed).losses
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("place", [1, 7])
def test_resumed_is_undisturbed(
    classifier: Make,
    batches: Batches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    structure: str,
    place: int,
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    path = tmp_path / "training"

    def go(**options: Any) -> Any:
        return gibbs_pruning(classifier(), batches(), structure=structure, epochs=2, **options)

    undisturbed = go()
    step, count = GibbsMasked.draw, itertools.count()

    def interrupted(self: GibbsMasked) -> dict[str, Tensor]:
        if next(count) == place:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(GibbsMasked, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(checkpoint=path)
    again = go(checkpoint=path, resume=True)
    assert again.losses == undisturbed.losses
    states = again.masked.state_dict(), undisturbed.masked.state_dict()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_the_checkpoint_of_another_method_is_refused(
    classifier: Make, batches: Batches, tmp_path: Path
) -> None:
    path = tmp_path / "training"
    gibbs_pruning(classifier(), batches(), structure="kernel", epochs=1, checkpoint=path)
    with pytest.raises(DirpruneError, match=r"does not fit this training.*'kernel'.*'filter'"):
        gibbs_pruning(
            classifier(), batches(), structure="filter", epochs=1, checkpoint=path, resume=True
        )


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "filters"}, "unknown structure 'filters'; did you mean 'filter'"),
        ({"ratio": 1.0}, "ratio=1.0: expected the share that goes, between 0 and 1"),
        ({"ratio": 0.0}, "ratio=0.0"),
        ({"layers": ["4"]}, "unknown layer to prune '4'.*Known: 0, 2"),
        ({"layers": []}, "no other to prune"),
        ({"epochs": 0}, "epochs: expected at least 1"),
    ],
)
def test_what_is_wrong_is_refused(
    classifier: Make, batches: Batches, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DirpruneError, match=message):
        gibbs_pruning(classifier(), batches(), **{"epochs": 1, **options})


def test_a_network_of_one_layer_has_nothing_to_prune_but_the_first() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model = SwitchedNetwork(network, torch.rand(2, 4), num_data=40)
    with pytest.raises(DirpruneError, match=r"leaves the first layer whole.*it has 0"):
        gibbs_pruning(model, [(torch.rand(4, 4), torch.arange(4) % 3)], epochs=1)
