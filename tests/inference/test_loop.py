"""The loop under SVI and training: order, seeds, interrupts, checkpoints."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from dirprune.inference import loop
from dirprune.inference.interrupt import deferred_interrupt
from dirprune.inference.loop import (
    Checkpoint,
    NonFiniteError,
    move_batch,
    run_epochs,
    same_batches,
    seed_of,
)
from dirprune.model.errors import DirpruneError

CPU = torch.device("cpu")


class Sum:
    """A job whose value is a batch's sum plus a random number; its state counts the steps."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.steps, self.fails_at = 0, fails_at

    def step(self, inputs: Any, targets: Tensor) -> float:
        if self.steps == self.fails_at:
            torch.rand(3)  # the failing step has drawn something too
            raise NonFiniteError("not a number")
        self.steps += 1
        return float(inputs.sum() + torch.rand(()))

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def numbers(*, shuffle: bool = True, workers: int = 0) -> DataLoader[Any]:
    data = TensorDataset(torch.arange(12.0), torch.zeros(12))
    return DataLoader(data, batch_size=3, shuffle=shuffle, num_workers=workers)


def drive(
    job: Sum, loader: Any, checkpoint: Checkpoint | None = None, **options: Any
) -> list[float]:
    defaults: dict[str, Any] = {"epochs": 2, "seed": [7]}
    return run_epochs(
        job, loader, checkpoint=checkpoint or Checkpoint(), device=CPU, label="sum",
        **{**defaults, **options},
    )  # fmt: skip


def test_every_batch_is_driven_once_an_epoch() -> None:
    values = drive(Sum(), numbers(), epochs=3)
    assert len(values) == 12
    for epoch in range(3):
        # 0 + ... + 11 = 66, and four random numbers between 0 and 1
        assert 66 <= sum(values[4 * epoch : 4 * epoch + 4]) < 70


def test_epochs_have_orders_of_their_own_and_the_seed_fixes_them() -> None:
    first = drive(Sum(), numbers())
    assert [int(v) for v in first[:4]] != [int(v) for v in first[4:]]
    assert drive(Sum(), numbers()) == first
    assert drive(Sum(), numbers(), seed=[8]) != first


def test_worker_processes_change_nothing() -> None:
    assert drive(Sum(), numbers(workers=1), epochs=1) == drive(Sum(), numbers(), epochs=1)


def test_nan_keeps_the_state_before_it(tmp_path: Path) -> None:
    undisturbed = drive(Sum(), numbers())
    for place in (0, 3, 4, 6):
        path = tmp_path / f"at{place}"
        with pytest.raises(NonFiniteError, match=f"not a number; the last good state is in {path}"):
            drive(Sum(fails_at=place), numbers(), Checkpoint(path))
        assert len(torch.load(path, weights_only=True)["values"]) == place
        assert drive(Sum(), numbers(), Checkpoint(path, resume=True)) == undisturbed


def test_a_checkpoint_is_written_every_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))  # ten seconds a look
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    written: list[int] = []
    write = Checkpoint.write

    def counted(self: Checkpoint, state: Mapping[str, Any]) -> None:
        written.append(len(state["values"]))
        write(self, state)

    monkeypatch.setattr(Checkpoint, "write", counted)
    drive(Sum(), numbers(), Checkpoint(tmp_path / "c"), epochs=3)
    # The clock is read once a step, and once more after each writing: 40 s > 30 s after 4 steps,
    # then every 3 steps (the reading after a writing is 10 s later); the last at the end.
    assert written[-1] == 12
    assert written[0] == 4
    assert written == [4, 8, 12, 12] or written == [4, 7, 10, 12], written


def test_ctrl_c_while_the_last_state_is_written_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Checkpoint.write

    def interrupted(self: Checkpoint, state: Mapping[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        write(self, state)

    monkeypatch.setattr(Checkpoint, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        drive(Sum(), numbers(), Checkpoint(tmp_path / "c"))
    monkeypatch.undo()
    resumed = drive(Sum(), numbers(), Checkpoint(tmp_path / "c", resume=True))
    assert resumed == drive(Sum(), numbers())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step_to_end(number: signal.Signals) -> None:
    with deferred_interrupt() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_outside_the_main_thread_no_handler_is_set() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[Any] = []

    def work() -> None:
        seen.append(drive(Sum(), numbers()))
        seen.append(signal.getsignal(signal.SIGINT))

    # Torch's generators are the process's: the loop in a thread gives the same numbers.
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [drive(Sum(), numbers()), before]


def test_a_loader_that_fails_is_heard() -> None:
    class Broken:
        def __len__(self) -> int:
            return 2

        def __iter__(self) -> Iterator[Any]:
            yield torch.zeros(1), torch.zeros(1)
            raise OSError("the disk has gone")

    with pytest.raises(OSError, match="the disk has gone"):
        drive(Sum(), Broken())


def test_batches_are_pairs() -> None:
    inputs, targets = move_batch([torch.ones(2), torch.zeros(2)], CPU)
    assert inputs.sum() == 2
    assert targets.sum() == 0
    nested, _ = move_batch(({"a": (torch.ones(2), "text")}, torch.zeros(2)), torch.device("meta"))
    assert nested["a"][0].device.type == "meta"
    assert nested["a"][1] == "text"
    for bad, kind in (((1, 2, 3), "tuple of 3"), ("ab", "str of 2"), (3, "int"), ({}, "dict of 0")):
        with pytest.raises(
            DirpruneError, match=rf"expected batches of \(inputs, targets\).*{kind}"
        ):
            move_batch(bad, CPU)


def test_seeds_of_neighbouring_numbers_do_not_collide() -> None:
    seeds = {seed_of([a, b]) for a in range(50) for b in range(50)}
    assert len(seeds) == 2500  # a sum would give 99
    assert seed_of([1, 2]) == seed_of([1, 2])


def test_a_checkpoint_that_cannot_be_taken_up_names_the_job(tmp_path: Path) -> None:
    class Other(Sum):
        def restore(self, state: Mapping[str, Any]) -> None:
            self.steps = state["epochs"]

    path = tmp_path / "c"
    drive(Sum(), numbers(), Checkpoint(path))
    with pytest.raises(DirpruneError, match=f"checkpoint {path} does not fit this sum"):
        drive(Other(), numbers(), Checkpoint(path, resume=True))


# -- whose generators order the batches -----------------------------------------------------------


def ordered(kind: str) -> tuple[DataLoader[Any], torch.Generator]:
    """Twelve numbers in batches of three, shuffled by a generator of the caller."""
    data, generator = numbers().dataset, torch.Generator().manual_seed(5)
    random = RandomSampler(data, generator=generator)  # type: ignore[arg-type]
    loaders: dict[str, DataLoader[Any]] = {
        "loader": DataLoader(data, batch_size=3, shuffle=True, generator=generator),
        "sampler": DataLoader(data, batch_size=3, sampler=random),
        "batch sampler": DataLoader(data, batch_sampler=BatchSampler(random, 3, drop_last=False)),
    }
    return loaders[kind], generator


KINDS = ("loader", "sampler", "batch sampler")


def order(loader: DataLoader[Any]) -> list[float]:
    return [float(x) for inputs, _ in loader for x in inputs]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_same_and_generators_are_put_back(kind: str) -> None:
    loader, own = ordered(kind)
    state, general = own.get_state(), torch.get_rng_state()
    found = []
    for seed in ([1], [1], [2]):
        with same_batches(loader, seed, CPU):
            found.append(order(loader))
        assert torch.equal(own.get_state(), state)
        assert torch.equal(torch.get_rng_state(), general)
    assert found[0] == found[1] != found[2]
    assert sorted(found[0]) == list(range(12))
    with pytest.raises(DirpruneError, match="got a tuple of 3"), same_batches(loader, [1], CPU):
        move_batch((order(loader),) * 3, CPU)
    assert torch.equal(own.get_state(), state)
    assert torch.equal(torch.get_rng_state(), general)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_orders_by_its_seed_and_leaves_generators_alone(kind: str) -> None:
    loader, own = ordered(kind)
    state = own.get_state()
    first = drive(Sum(), loader)
    assert torch.equal(own.get_state(), state)
    own.manual_seed(6)
    assert drive(Sum(), loader) == first
    assert drive(Sum(), loader, seed=[8]) != first
    with pytest.raises(NonFiniteError):
        drive(Sum(fails_at=2), loader)
    assert torch.equal(own.get_state(), torch.Generator().manual_seed(6).get_state())
