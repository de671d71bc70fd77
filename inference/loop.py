"""The loop that SVI and training share: epochs of batches, repeatable and resumable bit for bit."""

from __future__ import annotations

import itertools
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from tqdm import tqdm

from ..model.errors import DirpruneError
from ..model.graph.trace import as_tuple
from ..model.writing import write_with
from .interrupt import deferred_interrupt

CHECKPOINT_SECONDS = 30.0


class Loader(Protocol):
    """Anything that yields (inputs, targets) batches again each time, a ``DataLoader`` say."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


@dataclass
class Checkpoint:
    """Where a long job writes its state, and what the state belongs to.

    Attributes:
        path: the file; None keeps nothing.
        settings: what must be equal for a state to be taken up again.
        resume: take up a state that is there; without it an old file is overwritten.
    """

    path: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False

    def read(self) -> dict[str, Any] | None:
        """The state to go on from, if there is one.

        Raises:
            DirpruneError: the file is damaged or belongs to other settings.
        """
        if self.path is None or not self.resume or not self.path.exists():
            return None
        try:
            state = torch.load(self.path, weights_only=True)
            settings = state.pop("settings")
            missing = {"job", "values", "generators"} - set(state)
        except (
            OSError,
            RuntimeError,
            EOFError,
            UnpicklingError,
            zipfile.BadZipFile,
            KeyError,
            AttributeError,
            TypeError,
            ValueError,
        ) as error:
            raise DirpruneError(
                f"checkpoint {self.path} is damaged, or is none of ours; remove it to begin this "
                "stage again"
            ) from error
        if missing or not isinstance(settings, dict):
            raise DirpruneError(
                f"{self.path} is not a checkpoint of ours; remove it to begin again"
            )
        if settings != dict(self.settings):
            changed = [
                k for k in {**settings, **self.settings} if settings.get(k) != self.settings.get(k)
            ]
            raise DirpruneError(
                f"checkpoint {self.path} is of another run (differs in {', '.join(changed)}); "
                "remove it, or use the same settings"
            )
        return state

    def write(self, state: Mapping[str, Any]) -> None:
        """Replace the file by this state."""
        if self.path is not None:
            content = {**state, "settings": dict(self.settings)}
            write_with(self.path, lambda temporary: torch.save(content, temporary))


class NonFiniteError(DirpruneError):
    """A loss, a gradient or a parameter became NaN or infinite."""


class Resumable(Protocol):
    """What a loop drives: one step a batch, with a state that can be taken out and put back.

    A step that raises :class:`NonFiniteError` leaves the state as it was.
    """

    def step(self, inputs: Any, targets: Tensor) -> float: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


def run_epochs(
    job: Resumable,
    loader: Loader,
    *,
    epochs: int,
    seed: Sequence[int],
    checkpoint: Checkpoint,
    device: torch.device,
    label: str,
    progress: bool | None = None,
) -> list[float]:
    """Drive ``job`` over ``epochs`` passes of the loader; returns the value of every step.

    Every epoch seeds torch's generators anew from ``seed`` and its number, so that the order of the
    data and all draws follow from the seed alone, and a resumed run finds the same batches. The
    caller's generators are left as they were.

    Args:
        job: what to do with a batch.
        loader: batches of (inputs, targets).
        epochs: passes over the loader.
        seed: integers that identify this loop.
        checkpoint: written every half minute, at an interrupt, at NaN (the state before it) and at
            the end. It belongs to a loader of so many batches, besides its own settings.
        device: where batches go.
        label: what the progress bar says.
        progress: show a progress bar; None shows it on a terminal only.

    Raises:
        DirpruneError: the loader is empty, or the checkpoint does not fit.
        NonFiniteError: from the job; the message names the checkpoint.
        KeyboardInterrupt: Ctrl-C, after the checkpoint is written.
    """
    length = batches_in(loader)
    if length == 0:
        raise DirpruneError(f"{label}: the loader is empty, expected batches of (inputs, targets)")
    checkpoint = replace(checkpoint, settings={**checkpoint.settings, "batches": length})
    saved = checkpoint.read()
    values: list[float] = []
    first_epoch, skip, generators = 0, 0, _generators(device)
    if saved is not None:
        try:
            job.restore(saved["job"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DirpruneError(
                f"checkpoint {checkpoint.path} does not fit this {label} ({error}); remove it to "
                "begin again"
            ) from error
        values = list(saved["values"])
        first_epoch, skip = divmod(len(values), length)
        generators = saved["generators"]

    def snapshot(states: dict[str, Tensor]) -> dict[str, Any]:
        return {"job": job.state(), "values": values, "generators": states}

    bar = tqdm(
        total=epochs * length,
        initial=len(values),
        desc=label,
        unit="step",
        disable=None if progress is None else not progress,
        leave=False,
    )
    last = time.monotonic()
    with bar, same_batches(loader, seed, device), deferred_interrupt() as interrupt:
        for epoch in range(first_epoch, epochs):
            seed_generators(loader, [*seed, epoch])
            batches = iter(loader)
            if epoch == first_epoch and skip:
                # The same order as before; then, before the next batch is drawn (an augmenting
                # loader reads the generators too), the state that the steps had left.
                for _ in itertools.islice(batches, skip):
                    pass
                _restore_generators(generators, device)
            while True:
                before = _generators(device)
                try:
                    batch = next(batches)
                except StopIteration:
                    break
                inputs, targets = move_batch(batch, device)
                try:
                    values.append(job.step(inputs, targets))
                except NonFiniteError as error:
                    if checkpoint.path is None:
                        raise
                    checkpoint.write(snapshot(before))
                    raise NonFiniteError(
                        f"{error}; the last good state is in {checkpoint.path}"
                    ) from error
                bar.update()
                if interrupt.requested or time.monotonic() - last > CHECKPOINT_SECONDS:
                    checkpoint.write(snapshot(_generators(device)))
                    last = time.monotonic()
                if interrupt.requested:
                    raise KeyboardInterrupt
        checkpoint.write(snapshot(_generators(device)))
        if interrupt.requested:  # while the last state was written
            raise KeyboardInterrupt
    return values


def batches_in(loader: Loader) -> int:
    """How many batches a loader yields: schedules and checkpoints go by it.

    Raises:
        DirpruneError: the loader does not know (one over an iterable data set).
    """
    try:
        return len(loader)
    except TypeError as error:
        raise DirpruneError(
            f"the loader ({type(loader).__name__}) has no length: expected one over a data set of "
            "known size"
        ) from error


def call(network: nn.Module, inputs: Any) -> Any:
    """Run a network on a batch's inputs: a tensor, a tuple of arguments, or keyword arguments."""
    if isinstance(inputs, Mapping):
        return network(**inputs)
    return network(*as_tuple(inputs))


def move_batch(batch: Any, device: torch.device) -> tuple[Any, Tensor]:
    """A loader's batch as (inputs, targets) on the device.

    Raises:
        DirpruneError: the batch is not a pair.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        kind = (
            f"{type(batch).__name__} of {len(batch)}" if hasattr(batch, "__len__") else type(batch)
        )
        raise DirpruneError(f"expected batches of (inputs, targets) from the loader, got a {kind}")
    inputs, targets = tree_map(
        lambda x: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x, tuple(batch)
    )
    return inputs, targets


def seed_of(numbers: Sequence[int]) -> int:
    """One seed from several numbers, without the collisions that sums and products have."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0])


def seed_generators(loader: Loader, numbers: Sequence[int]) -> None:
    """Seed torch's generators and those of the loader itself: they order its batches."""
    seed = seed_of(numbers)
    torch.manual_seed(seed)
    for generator in _own_generators(loader):
        generator.manual_seed(seed)


@contextmanager
def same_batches(loader: Loader, seed: Sequence[int], device: torch.device) -> Iterator[None]:
    """Within, the loader's first pass has the same batches each time; generators are put back.

    That holds where torch orders them: by its own generators, the loader's or its sampler's.

    Args:
        loader: batches of (inputs, targets).
        seed: integers that identify these batches.
        device: whose generators are used besides the CPU's.
    """
    own = [(generator, generator.get_state()) for generator in _own_generators(loader)]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            seed_generators(loader, seed)
            yield
    finally:
        for generator, state in own:
            generator.set_state(state)


def _own_generators(loader: Loader) -> list[torch.Generator]:
    """Of the loader, its sampler, its batch sampler and the sampler within that, each once."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (
        loader,
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    )
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _generators(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
