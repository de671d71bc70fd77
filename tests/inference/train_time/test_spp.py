"""Structured probabilistic pruning: its increments, its masks, and what is left."""

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
from dirprune.inference.train_time import structured_probabilistic_pruning
from dirprune.inference.train_time.spp import (
    A,
    SppMasked,
    U,
    increments,
    updates_needed,
    usual_interval,
)
from dirprune.model.errors import DirpruneError
from dirprune.model.graph.channels import ChannelGraph
from dirprune.model.networks.digits import DigitsCNN
from dirprune.model.networks.resnet_cifar import CifarResNet
from dirprune.model.switched import SwitchedNetwork

Batches = Callable[..., DataLoader[Any]]
Make = Callable[..., SwitchedNetwork]


# -- the increments -------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [1, 7, 50, 333])
def test_the_increments_are_the_formula(gone: int) -> None:
    a = (math.log(2) - math.log(0.25)) / gone
    bend = -math.log(0.25) / a
    found = increments(torch.arange(2 * gone + 1), gone).tolist()
    for r, delta in enumerate(found):
        if r <= bend:
            expected = 0.05 * math.exp(-a * r)
        else:
            expected = 2 * 0.25 * 0.05 - 0.05 * math.exp(-a * (2 * bend - r))
        assert delta == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert found[0] == A
    assert found == sorted(found, reverse=True)


def test_they_are_symmetric_about_the_bend_continuous_and_zero_at_the_ratio() -> None:
    gone = 40
    bend = -math.log(U) / ((math.log(2) - math.log(U)) / gone)
    d = torch.tensor([0.0, 1e-9, 0.5, 3.0, 10.0, bend], dtype=torch.float64)
    total = increments(bend + d, gone) + increments(bend - d, gone)
    torch.testing.assert_close(total, torch.full_like(total, 2 * U * A), rtol=1e-12, atol=0)
    ends = increments(torch.tensor([gone - 1.0, float(gone), gone + 1.0]), gone)
    assert float(ends[0]) > 0 > float(ends[2])
    assert abs(float(ends[1])) < 1e-15
    # As many ranks as are to go rise.
    assert int((increments(torch.arange(100), gone) > 1e-12).sum()) == gone


def test_updates_that_a_site_needs() -> None:
    # A lone unit rises by .05 = 1/20. Of two, with a = ln 8 / 2 and a bend at 1.33, the second
    # rises by .05 e^-a = .01768, 20 times to .3536, and then alone by .05: 13 times.
    assert updates_needed(0) == 0
    assert updates_needed(1) == 20
    assert updates_needed(2) == 20 + math.ceil((1 - 20 * 0.05 * 8**-0.5) / 0.05) == 33


def test_the_usual_interval_has_the_slowest_site_done_half_way() -> None:
    assert updates_needed(250) == 150  # of LeNet-5's fc1, half of 500 units
    assert usual_interval([10, 25, 250], 4300) == 14  # 10 epochs of MNIST
    assert 14 * 150 <= 4300 / 2 < 15 * 150
    assert usual_interval([8, 16, 32], 36) == 1
    assert usual_interval([0], 36) == 36


# -- masks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return SwitchedNetwork(DigitsCNN(), torch.rand(2, 1, 8, 8), num_data=40).graph


@pytest.fixture
def masked(graph: ChannelGraph) -> SppMasked:
    return SppMasked(DigitsCNN(), graph, 0.5, interval=1)


def test_norms_are_of_what_reads_a_unit(masked: SppMasked) -> None:
    network: Any = masked.network
    conv2, fc1, fc2 = (
        network.get_parameter(f"{name}.weight").detach().double().abs()
        for name in ("conv2", "fc1", "fc2")
    )
    # A channel of conv2 is read by 16 columns of fc1: its 4 x 4 pixels.
    expected = torch.cat([conv2.sum((0, 2, 3)), fc1.view(64, 32, 16).sum((0, 2)), fc2.sum(0)])
    torch.testing.assert_close(masked.norms(), expected)


def test_units_are_masked_as_often_as_their_probabilities_say(masked: SppMasked) -> None:
    masked._advance = lambda: None  # type: ignore[method-assign]
    masked.probability.copy_(torch.linspace(0, 1, 112).double())
    draws = 2000
    gone = torch.zeros(112, dtype=torch.float64)
    for _ in range(draws):
        masks = masked.draw()
        gone[:16] += masks.get("conv2.weight", torch.ones(16)).flatten() == 0
        gone[16:48] += (masks["fc1.weight"].view(32, 16) == 0).all(1)
        gone[48:] += masks["fc2.weight"].flatten() == 0
    p = masked.probability
    # 112 shares of 2,000 draws: within 4.5 standard errors
    assert bool(((gone / draws - p).abs() <= 4.5 * (p * (1 - p) / draws).sqrt() + 1e-12).all())


def step(masked: SppMasked, steps: int = 1) -> None:
    for _ in range(steps):
        masked.draw()
        masked.steps += 1


def test_probabilities_move_by_rank_and_stay_within_zero_and_one(masked: SppMasked) -> None:
    ranks = masked.norms()[:16].argsort().argsort()
    expected = torch.zeros(16, dtype=torch.float64)
    for _ in range(19):  # weights stand still, so that ranks do
        step(masked)
        expected = (expected + increments(ranks, 8)).clamp(0, 1)
        torch.testing.assert_close(masked.probability[:16], expected)
    step(masked)
    assert float(masked.probability[:16][ranks == 0]) == 1.0
    assert bool((masked.probability[:16][ranks >= 8] < 1e-12).all())
    # The first is gone: the others are ranked without it, and seven are to go.
    before = masked.probability[:16].clone()
    step(masked)
    rest = ranks > 0
    torch.testing.assert_close(
        masked.probability[:16][rest],
        (before[rest] + increments(ranks[rest] - 1, 7)).clamp(0, 1),
    )
    assert float(masked.probability[:16][ranks == 0]) == 1.0


def test_between_updates_only_masks_change(graph: ChannelGraph) -> None:
    masked = SppMasked(DigitsCNN(), graph, 0.5, interval=5)
    for update in range(3):
        before = masked.probability.clone()
        step(masked, 4)
        assert torch.equal(masked.probability, before), update
        step(masked)
        assert not torch.equal(masked.probability, before)
        assert not masked.norm_sum.any()
    masked.probability.fill_(0.5)
    first, second = masked.draw()["fc2.weight"], masked.draw()["fc2.weight"]
    assert not torch.equal(first, second)  # the same of 64 coins once in 2^64


def test_ranks_are_of_the_mean_norm_over_the_interval(graph: ChannelGraph) -> None:
    masked = SppMasked(DigitsCNN(), graph, 0.5, interval=3)
    total = torch.zeros(112, dtype=torch.float64)
    for _ in range(3):
        with torch.no_grad():
            for parameter in masked.network.parameters():
                parameter.copy_(torch.randn_like(parameter))
        total += masked.norms()
        step(masked)
    for units, gone in zip(masked.units, (8, 16, 32), strict=True):
        of_mean, of_last = (x[units].argsort().argsort() for x in (total, masked.norms()))
        expected = increments(of_mean, gone).clamp(0, 1)
        torch.testing.assert_close(masked.probability[units], expected)
        assert not torch.equal(of_mean, of_last)


def test_with_standing_weights_exactly_the_ratio_goes_and_then_nothing_moves(
    graph: ChannelGraph,
) -> None:
    masked = SppMasked(DigitsCNN(), graph, 0.5, interval=2)
    updates = [updates_needed(gone) for gone in (8, 16, 32)]
    step(masked, 2 * max(updates))
    # A site is done at the last step, counted from 0, of the interval of its last update.
    assert masked.done_at.tolist() == [2 * n - 1 for n in updates]
    for units, gone in zip(masked.units, (8, 16, 32), strict=True):
        p = masked.probability[units]
        norms = masked.norms()[units]
        assert sorted(p.tolist()) == [0.0] * gone + [1.0] * gone
        assert set((p == 1).nonzero()[:, 0].tolist()) == set(norms.argsort()[:gone].tolist())
    done, kept = masked.done_at.clone(), masked.final()
    with torch.no_grad():
        for parameter in masked.network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    step(masked, 2)
    assert torch.equal(masked.done_at, done)
    assert torch.equal(masked.final(), kept)
    drawn, settled = masked.draw(), masked.settle()
    assert all(torch.equal(drawn[name], settled[name]) for name in settled)


def test_before_that_the_likeliest_go_and_of_equals_the_smaller(masked: SppMasked) -> None:
    norms = masked.norms()[:16]
    masked.probability[3], masked.probability[5] = 0.4, 0.2
    gone = (~masked.final()[:16]).nonzero()[:, 0].tolist()
    others = [k for k in norms.argsort().tolist() if k not in (3, 5)][:6]
    assert set(gone) == {3, 5, *others}
    assert bool(masked.final()[-1])


# -- training -------------------------------------------------------------------------------------


def test_the_digits_survive_and_half_of_the_units_goes(trained: nn.Module) -> None:
    data = load_data("digits")
    model = SwitchedNetwork(trained, torch.rand(2, 1, 8, 8), num_data=1132)
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    found = structured_probabilistic_pruning(model, loader(data.train, 64, shuffle=True), epochs=6)
    assert found.decision is not None
    kept = {site: len(units) for site, units in found.decision.kept.items()}
    assert kept == {"conv1": 8, "conv2": 16, "fc1": 32}
    assert found.network.get_parameter("fc1.weight").shape == (32, 16 * 16)
    # The rows of conv2 and of fc1 that go, and of what is left the columns: a quarter stays.
    assert found.sparsity == {"conv1": 0.5, "conv2": 0.75, "fc1": 0.75, "fc2": 0.5}
    test = loader(data.test, 256)
    # Six epochs gave 97 % after 97 %; the standard error is .7 points, that of chance 10 %.
    assert evaluate(found.network, test).percent > 94
    images = next(iter(test))[0]
    with torch.no_grad():
        torch.testing.assert_close(
            found.network(images), found.masked(images), rtol=1e-4, atol=1e-4
        )  # float32 over sums of 500 terms
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())
    assert set(found.notes["done_at_step"]) == {"conv1", "conv2", "fc1"}


def test_a_residual_network_is_masked_as_it_is_pruned() -> None:
    # With batch norms, padded shortcuts and layers that own some units of the stream only.
    network = CifarResNet(depth=8, num_classes=4, in_channels=1).double()
    images = torch.randn(12, 1, 8, 8, dtype=torch.float64)
    model = SwitchedNetwork(network, images[:2], num_data=12)
    batches = [(images, torch.arange(12) % 4)] * 3
    found = structured_probabilistic_pruning(model, batches, ratio=0.9, epochs=1)
    assert found.decision is not None
    # 90 % of 64, 16, 32 and 64 units; the stream keeps one more where a layer would lose all.
    assert len(found.decision.kept["layer3.0.conv1"]) == 64 - 58
    assert 64 - 58 <= len(found.decision.kept["conv1"]) <= 64 - 58 + len(model.graph.needed)
    with torch.no_grad():
        torch.testing.assert_close(
            found.network(images), found.masked(images), rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("place", [1, 7])
def test_resumed_is_undisturbed(
    classifier: Make, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    path = tmp_path / "training"

    def go(**options: Any) -> Any:
        # Interrupted in the middle of an interval: its norms are in the checkpoint.
        return structured_probabilistic_pruning(
            classifier(), batches(), epochs=2, interval=3, **options
        )

    undisturbed = go()
    draw, count = SppMasked.draw, itertools.count()

    def interrupted(self: SppMasked) -> dict[str, Tensor]:
        if next(count) == place:
            raise KeyboardInterrupt
        return draw(self)

    with monkeypatch.context() as patch:
        patch.setattr(SppMasked, "draw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(checkpoint=path)
    again = go(checkpoint=path, resume=True)
    assert again.losses == undisturbed.losses
    assert again.notes == undisturbed.notes
    states = again.masked.state_dict(), undisturbed.masked.state_dict()
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, math.nan])
def test_a_ratio_is_a_share(classifier: Make, batches: Batches, ratio: float) -> None:
    with pytest.raises(DirpruneError, match="expected the share that goes"):
        structured_probabilistic_pruning(classifier(), batches(), ratio=ratio, epochs=1)


def test_an_interval_is_a_number_of_steps(classifier: Make, batches: Batches) -> None:
    with pytest.raises(DirpruneError, match="interval 0: expected the steps between updates"):
        structured_probabilistic_pruning(classifier(), batches(), interval=0, epochs=1)


def test_the_checkpoint_of_another_interval_is_refused(
    classifier: Make, batches: Batches, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 1, "checkpoint": tmp_path / "training"}
    found = structured_probabilistic_pruning(classifier(), batches(), interval=2, **options)
    assert found.notes["interval"] == 2
    with pytest.raises(DirpruneError, match="interval"):
        structured_probabilistic_pruning(
            classifier(), batches(), interval=3, resume=True, **options
        )


def test_a_site_keeps_a_unit_however_large_the_ratio(classifier: Make, batches: Batches) -> None:
    found = structured_probabilistic_pruning(classifier(), batches(), ratio=0.99, epochs=1)
    assert found.decision is not None
    assert [len(units) for units in found.decision.kept.values()] == [1, 1]
