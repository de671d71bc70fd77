"""What is done with a choice before its accuracy counts: the protocols by name."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...inference.compensation import compensate, parse_compensation
from ...inference.evaluate import evaluate
from ...inference.loop import Loader, seed_of
from ...inference.training import finetune
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.surgery import prune
from ...model.switched import SwitchedNetwork

Accuracies = dict[str, float]
NONE = "none"  # no compensation


@dataclass(frozen=True)
class Protocol:
    """A way to compare.

    Attributes:
        summary: a line about it.
        trains: is the network trained after the cut?
        fresh: do its weights begin anew?
        few: are a few training images all that there is?
    """

    summary: str
    trains: bool = False
    fresh: bool = False
    few: bool = False


PROTOCOLS: dict[str, Protocol] = {
    "one-shot": Protocol("no training after the cut"),
    "low-data": Protocol("scored, compensated and fine-tuned on a few images", True, few=True),
    "finetune": Protocol("fine-tuned as by 'dirprune run'", True),
    "scratch": Protocol("the same widths and schedule from fresh weights", True, fresh=True),
}


def parse_chain(spec: str) -> list[str]:
    """Compensations as one writes them: "none", or names joined by "+" in their order.

    >>> parse_chain("least-squares:images=500+recalibrate"), parse_chain("none")
    (['least-squares:images=500', 'recalibrate'], [])

    Raises:
        DirpruneError: an unknown name, or a bad option.
    """
    names = [] if spec == NONE else [name.strip() for name in spec.split("+")]
    for name in names:
        parse_compensation(name)
    return names


@dataclass(frozen=True)
class Training:
    """How a cut network is trained.

    Attributes:
        epochs: passes over ``loader``.
        distill: from the unpruned network too?
        checkpoint: a file for its state; an interrupted training goes on from there.
    """

    epochs: int
    distill: bool = True
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Measured:
    """What came of a choice under a protocol.

    Attributes:
        accuracy: part ("validation", "test") -> percent of its images.
        untrained: the same before the training; None where there is none.
        seconds: of "compensation" and "training".
    """

    accuracy: Accuracies
    untrained: Accuracies | None
    seconds: dict[str, float]


def measure(
    protocol: str,
    model: SwitchedNetwork,
    decision: Decision,
    *,
    loader: Loader,
    parts: Mapping[str, Loader],
    compensations: Sequence[str] = (),
    gains: Mapping[str, Tensor] | None = None,
    training: Training | None = None,
    seed: int = 0,
) -> Measured:
    """Cut the network, do with it what the protocol says, and count what it gets right.

    Args:
        protocol: a name of ``PROTOCOLS``.
        model: the switched network, with the trained one in it.
        decision: which units stay.
        loader: training images, augmented as in training; all that compensation and training see.
        parts: name -> held-out images; nothing is chosen by them.
        compensations: in their order, before any training; none for fresh weights.
        gains: site -> [K], for the compensation "fold-gains".
        training: for protocols that train. Fine-tuned or from scratch, the schedule is the same.
        seed: of fresh weights and of the training.

    Raises:
        DirpruneError: a protocol that trains without ``training``, compensated fresh weights, or
            modules whose weights cannot be made anew.
    """
    way = PROTOCOLS[protocol]
    network = prune(model, decision)
    started = time.perf_counter()
    if way.fresh:
        if compensations:
            raise DirpruneError(
                f"protocol {protocol}: fresh weights have nothing to make up for, got the "
                f"compensation {'+'.join(compensations)}"
            )
        refresh(network, seed_of([seed, 6]))
    elif compensations:
        found = compensate(compensations, model, decision, network, loader, gains=gains)
        network = found.network
    seconds = {"compensation": time.perf_counter() - started, "training": 0.0}
    accuracy = _accuracies(network, parts)
    if not way.trains:
        return Measured(accuracy, None, seconds)
    if training is None:
        raise DirpruneError(f"protocol {protocol} trains: expected training=")
    started = time.perf_counter()
    if training.epochs:
        finetune(
            network, loader, epochs=training.epochs, seed=seed_of([seed, 4]),
            teacher=model.network if training.distill else None,
            checkpoint=training.checkpoint, resume=True,
        )  # fmt: skip
    seconds["training"] = time.perf_counter() - started
    return Measured(_accuracies(network, parts), accuracy, seconds)


def _accuracies(network: nn.Module, parts: Mapping[str, Loader]) -> Accuracies:
    return {name: evaluate(network, part).percent for name, part in parts.items()}


def refresh(network: nn.Module, seed: int) -> None:
    """Give every module the weights that its class begins with, for its present size; in place.

    Raises:
        DirpruneError: a module with weights of its own has no ``reset_parameters``.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for name, module in network.named_modules():
            if not [*module.parameters(recurse=False)]:
                continue
            reset = getattr(module, "reset_parameters", None)
            if not callable(reset):
                raise DirpruneError(
                    f"protocol scratch: {type(module).__name__} {name!r} has weights and no method "
                    "reset_parameters, so that they cannot be made anew"
                )
            reset()
