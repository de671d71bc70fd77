"""Training and fine-tuning: it learns, it distils as written, it resumes, it says what is wrong."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from dirprune.inference import loop
from dirprune.inference.data import load_data, loader
from dirprune.inference.evaluate import evaluate
from dirprune.inference.loop import NonFiniteError
from dirprune.inference.training import finetune, train
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Batches = Callable[..., DataLoader[Any]]


def small(seed: int = 0) -> nn.Module:
    """With dropout and batch norm, whose states a resumed run must take up too."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3)
        )


class Noisy:
    """Batches with noise from the global generator, as augmentation draws it."""

    def __init__(self, inner: Any, stop: int | None = None, action: Any = None) -> None:
        self.inner, self.stop, self.action, self.seen = inner, stop, action, 0

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Any]:
        for x, y in self.inner:
            if self.seen == self.stop:
                x = self.action(x)
            self.seen += 1
            yield x + 0.1 * torch.randn_like(x), y


def interrupt(x: Tensor) -> Tensor:
    raise KeyboardInterrupt


def same(a: nn.Module, b: nn.Module) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(v, states[1][k]) for k, v in states[0].items()
    )


def test_digits_are_learned_to_95_percent(trained: nn.Module) -> None:
    # Eight epochs gave 97.6 % of the 539 test images, whose standard error is .7 points.
    accuracy = evaluate(trained, loader(load_data("digits").test, 256))
    assert accuracy.percent > 95
    assert accuracy.total == 539
    assert not trained.training


def test_the_first_loss_is_the_cross_entropy(batches: Batches) -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    x, y = next(iter(batches(shuffle=False)))
    expected = F.cross_entropy(network(x), y).item()
    assert train(network, [(x, y)], epochs=1) == [pytest.approx(expected, rel=1e-6)]


def test_distillation_is_half_labels_half_the_softened_teacher(batches: Batches) -> None:
    network, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    x, y = next(iter(batches(shuffle=False)))
    with torch.no_grad():
        log_q = F.log_softmax(network(x) / 4, 1)
        p = F.softmax(teacher(x) / 4, 1)
        labels = -F.log_softmax(network(x), 1)[torch.arange(len(y)), y].mean()
        expected = 0.5 * labels + 0.5 * 16 * (p * (p.log() - log_q)).sum(1).mean()
    losses = finetune(network, [(x, y)], epochs=1, teacher=teacher)
    assert losses == [pytest.approx(expected.item(), rel=1e-6)]


def test_with_its_own_teacher_distillation_has_no_gradient_of_the_second_half() -> None:
    # T^2 KL(p, q) is least at q = p. With labels in the teacher's own proportions (here one of
    # each under uniform outputs) both gradients vanish, and nothing moves.
    network, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    for module in (network, teacher):
        nn.init.zeros_(module.weight)
        nn.init.zeros_(module.bias)
    finetune(network, [(torch.ones(3, 4), torch.arange(3))], epochs=5, teacher=teacher)
    assert float(network.weight.detach().abs().max()) < 1e-7
    assert float(network.bias.detach().abs().max()) < 1e-7


@pytest.mark.parametrize("scale", [0.1, 100.0])
def test_fine_tuning_takes_no_gradient_longer_than_two(scale: float) -> None:
    # One step of Nesterov's momentum from rest moves by lr (1 + 0.9) times the gradient; the lone
    # step of this schedule is of full size.
    torch.manual_seed(0)
    network, x = nn.Linear(4, 3), scale * torch.randn(8, 4)
    y, before = torch.arange(8) % 3, [p.detach().clone() for p in network.parameters()]
    gradients = torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()))
    norm = float(torch.cat([g.flatten() for g in gradients]).norm())
    assert (norm > 2) is (scale > 1)
    finetune(network, [(x, y)], epochs=1, lr=0.01, weight_decay=0)
    for after, old, g in zip(network.parameters(), before, gradients, strict=True):
        moved = -0.01 * 1.9 * g * min(1.0, 2 / norm)
        torch.testing.assert_close(after.detach() - old, moved, rtol=1e-4, atol=1e-6)


def test_distillation_of_a_deep_cut_survives_its_first_steps(trained: nn.Module) -> None:
    # A quarter of the channels is left, and the softened divergence is large where every output is
    # wrong: at full size these steps leave ReLUs that never fire again, and one class for all.
    data = load_data("digits")
    model = SwitchedNetwork(trained, data.train[[0, 1]][0], num_data=len(data.train))
    kept = {name: torch.arange(0, site.size, 4) for name, site in model.sites.items()}
    cut = prune(model, Decision(kept))
    losses = finetune(
        cut, loader(data.train, 64, shuffle=True), epochs=5, lr=0.1, teacher=trained
    )  # fmt: skip
    # Constant outputs are right in a tenth; 539 images have a standard error below 2.2 points.
    assert evaluate(cut, loader(data.test, 256)).percent > 80
    assert losses[-1] < losses[0] / 2


def test_the_teacher_is_in_eval_mode_then_as_it_was_and_unchanged(batches: Batches) -> None:
    teacher, modes = small(1), []
    teacher[3].register_forward_hook(lambda m, i, o: modes.append(m.training))  # type: ignore[index]
    teacher.train()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    finetune(small(), batches(), epochs=1, teacher=teacher)
    assert modes == [False] * 5
    assert all(m.training for m in teacher.modules())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_frozen_parameters_stay(batches: Batches) -> None:
    network = small()
    frozen = network[0].weight  # type: ignore[index]
    frozen.requires_grad_(False)
    before, free = frozen.clone(), network[4].weight.clone()  # type: ignore[index]
    train(network, batches(), epochs=2)
    assert torch.equal(frozen, before)
    assert not torch.equal(network[4].weight, free)  # type: ignore[index]
    with pytest.raises(DirpruneError, match="nothing to train"):
        train(network.requires_grad_(False), batches(), epochs=1)


def test_only_weights_decay() -> None:
    # Without a gradient from the data (a loss of constants), a step is decay alone.
    network: Any = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        network[0].bias.fill_(1.0)
        network[1].weight.fill_(0.0)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    # batch norm of scale 0: the logits are its shift, 0; labels of equal numbers: no gradient
    train(network, [(torch.randn(6, 4), torch.arange(6) % 3)], epochs=1, lr=0.1, weight_decay=0.5)
    after = network.state_dict()
    # Nesterov's first step is lr (1 + momentum) decay w = .1 x 1.9 x .5 w
    torch.testing.assert_close(after["0.weight"], (1 - 0.095) * before["0.weight"])
    torch.testing.assert_close(after["0.bias"], before["0.bias"])


def test_same_seed_same_bits(batches: Batches) -> None:
    networks = [small() for _ in range(3)]
    losses = [
        train(network, Noisy(batches()), epochs=2, seed=seed)
        for network, seed in zip(networks, (1, 1, 2), strict=True)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert same(networks[0], networks[1])
    assert not same(networks[0], networks[2])


def test_the_callers_random_state_is_untouched(batches: Batches) -> None:
    state = torch.get_rng_state()
    train(small(), Noisy(batches()), epochs=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("place", [0, 1, 4, 5, 8])
@pytest.mark.parametrize("distilled", [False, True])
def test_resumed_is_undisturbed(
    batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int, distilled: bool
) -> None:
    # With dropout, batch norm and augmentation, interrupted before batch ``place`` of ten.
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    teacher = small(1).eval() if distilled else None
    undisturbed, resumed = small(), small()
    losses = finetune(undisturbed, Noisy(batches()), epochs=2, teacher=teacher)
    path = tmp_path / "training"
    with pytest.raises(KeyboardInterrupt):
        finetune(
            small(), Noisy(batches(), place, interrupt), epochs=2, teacher=teacher, checkpoint=path
        )
    assert path.exists() == (place > 0)
    again = finetune(
        resumed, Noisy(batches()), epochs=2, teacher=teacher, checkpoint=path, resume=True
    )
    assert again == losses
    assert same(resumed, undisturbed)


def test_a_checkpoint_of_another_training_is_refused(batches: Batches, tmp_path: Path) -> None:
    path = tmp_path / "training"
    train(small(), batches(), epochs=1, checkpoint=path)
    others: list[dict[str, Any]] = [{"lr": 0.1}, {"weight_decay": 0.0}, {"seed": 3}, {"epochs": 2}]
    for options in others:
        with pytest.raises(DirpruneError, match=f"differs in {next(iter(options))}"):
            train(small(), batches(), **{"epochs": 1, **options}, checkpoint=path, resume=True)
    with pytest.raises(DirpruneError, match="differs in shapes"):
        train(nn.Linear(4, 3), batches(), epochs=1, checkpoint=path, resume=True)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_stops_before_it_reaches_weights_and_statistics(
    batches: Batches, tmp_path: Path, value: float
) -> None:
    path = tmp_path / "training"
    network, good = small(), small()
    with pytest.raises(NonFiniteError, match=r"training step 4:.*the input images.*training$"):
        train(
            network, Noisy(batches(), 3, lambda x: torch.full_like(x, value)), epochs=1,
            checkpoint=path,
        )  # fmt: skip
    assert all(bool(v.isfinite().all()) for v in network.state_dict().values())
    resumed = small()
    losses = train(good, Noisy(batches()), epochs=1)
    assert train(resumed, Noisy(batches()), epochs=1, checkpoint=path, resume=True) == losses
    assert same(resumed, good)


def test_a_step_too_large_says_so(batches: Batches) -> None:
    with pytest.raises(NonFiniteError, match=r"Use a smaller step size \(lr=1e\+30\)"):
        train(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), batches(), epochs=3, lr=1e30)


@pytest.mark.parametrize("epochs", [0, -1])
def test_at_least_one_epoch(batches: Batches, epochs: int) -> None:
    with pytest.raises(DirpruneError, match="epochs: expected at least 1"):
        train(small(), batches(), epochs=epochs)


def test_an_empty_loader() -> None:
    with pytest.raises(DirpruneError, match="training: the loader is empty"):
        train(small(), [], epochs=1)


def test_a_loader_without_a_length_is_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([(torch.zeros(3), torch.tensor(0))] * 4)

    with pytest.raises(DirpruneError, match="has no length"):
        train(nn.Linear(3, 2), DataLoader(Stream(), batch_size=2), epochs=1)
