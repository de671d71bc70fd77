"""Train a network, and fine-tune a pruned one, optionally distilled from the original."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from ..model.errors import DirpruneError
from .classes import check_classes
from .evaluate import eval_mode
from .loop import Checkpoint, Loader, NonFiniteError, batches_in, call, run_epochs

LONGEST = 2.0  # of a gradient in fine-tuning


def train(
    network: nn.Module,
    loader: Loader,
    *,
    epochs: int,
    lr: float = 0.05,
    weight_decay: float = 5e-4,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> list[float]:
    """Train by SGD with Nesterov momentum, a short warm-up and a cosine to zero.

    Args:
        network: changed in place, left in eval mode.
        loader: batches of (images, labels).
        epochs: passes over the loader.
        lr: the largest step size.
        weight_decay: of weights; biases and batch norms are not decayed.
        seed: order of the data, dropout, augmentation.
        checkpoint: a file to keep the state in, every half minute and at Ctrl-C.
        resume: go on from that file if it is there.
        progress: show a progress bar; None shows it on a terminal only.

    Returns:
        The loss of every step, in nats per image.
    """
    job = _Sgd(network, None, lr, weight_decay, epochs * batches_in(loader))
    return _run(job, loader, "training", epochs, seed, checkpoint, resume, progress)


def finetune(
    network: nn.Module,
    loader: Loader,
    *,
    epochs: int = 10,
    lr: float = 0.02,
    weight_decay: float = 5e-4,
    teacher: nn.Module | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> list[float]:
    """Train a pruned network on, by default with a smaller step; arguments as in :func:`train`.

    Gradients that are longer than 2 are shortened to that (Pascanu et al.). What a deep cut leaves
    is far off, and the softened divergence weighs that by T: at full length the first steps could
    leave ReLUs that fire for no image, from which nothing comes back.

    With a ``teacher`` (the unpruned network) the loss is half the cross-entropy of the labels and
    half the KL divergence from the teacher's probabilities, softened by T = 4 and scaled by T^2.

    References:
        Geoffrey Hinton, Oriol Vinyals, Jeff Dean, "Distilling the Knowledge in a Neural Network",
        2015, arXiv 1503.02531.

        Razvan Pascanu, Tomas Mikolov, Yoshua Bengio, "On the difficulty of training recurrent
        neural networks", 2013, arXiv 1211.5063.
    """
    steps = epochs * batches_in(loader)
    job = _Sgd(network, teacher, lr, weight_decay, steps, longest=LONGEST)
    return _run(job, loader, "fine-tuning", epochs, seed, checkpoint, resume, progress)


def _run(
    job: _Sgd,
    loader: Loader,
    label: str,
    epochs: int,
    seed: int,
    checkpoint: str | Path | None,
    resume: bool,
    progress: bool | None,
) -> list[float]:
    if epochs < 1:
        raise DirpruneError(f"epochs: expected at least 1, got {epochs}")
    settings = {
        "epochs": epochs, "seed": seed, "lr": job.lr, "weight_decay": job.decay,
        "distilled": job.teacher is not None,
        "shapes": [list(p.shape) for p in job.network.parameters()],
    }  # fmt: skip
    path = None if checkpoint is None else Path(checkpoint)
    job.network.train()
    try:
        with eval_mode(job.teacher or nn.Identity()):
            return run_epochs(
                job, loader, epochs=epochs, seed=[seed],
                checkpoint=Checkpoint(path, settings, resume),
                device=job.device, label=label, progress=progress,
            )  # fmt: skip
    finally:
        job.network.eval()


class _Sgd:
    """A network with its optimiser, and one step on a batch."""

    softening = 4.0
    warm_up = 0.05  # share of the steps

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module | None,
        lr: float,
        decay: float,
        steps: int,
        longest: float = math.inf,
    ) -> None:
        self.network, self.teacher, self.lr, self.decay = network, teacher, lr, decay
        self.longest = longest
        weights = [p for p in network.parameters() if p.requires_grad and p.dim() > 1]
        others = [p for p in network.parameters() if p.requires_grad and p.dim() <= 1]
        if not weights and not others:
            raise DirpruneError(
                f"{type(network).__name__} has no parameter with requires_grad: nothing to train"
            )
        self.device = (weights or others)[0].device
        self.optimizer = torch.optim.SGD(
            [
                {"params": weights, "weight_decay": decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=lr, momentum=0.9, nesterov=True,
        )  # fmt: skip
        warm = max(1, int(self.warm_up * steps))

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.steps_done = 0

    def step(self, inputs: Any, targets: Tensor) -> float:
        before = [buffer.clone() for buffer in self.network.buffers()]
        logits = call(self.network, inputs)
        if self.steps_done == 0:
            check_classes(logits, targets)
        loss = F.cross_entropy(logits, targets)
        if self.teacher is not None:
            t = self.softening
            with torch.no_grad():
                soft = F.log_softmax(call(self.teacher, inputs) / t, 1)
            own = F.log_softmax(logits / t, 1)
            divergence = F.kl_div(own, soft, reduction="batchmean", log_target=True)
            loss = 0.5 * loss + 0.5 * t * t * divergence
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        value = loss.item()
        moved = [p for p in self.network.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in moved if p.grad is not None])
        if not (math.isfinite(value) and bool(norm.isfinite())):
            with torch.no_grad():  # the running statistics of batch norms have seen the NaN
                for buffer, old in zip(self.network.buffers(), before, strict=True):
                    buffer.copy_(old)
            raise NonFiniteError(
                f"training step {self.steps_done + 1}: the loss is {value}; not finite: "
                f"{self._places(inputs, logits)}. Use a smaller step size (lr={self.lr}), or mend "
                "the data"
            )
        if norm > self.longest:
            nn.utils.clip_grads_with_norm_(moved, self.longest, norm)
        self.optimizer.step()
        self.schedule.step()
        self.steps_done += 1
        return value

    def _places(self, inputs: Any, logits: Tensor) -> str:
        if not all(
            bool(x.isfinite().all())
            for x in tree_leaves(inputs)
            if isinstance(x, Tensor) and x.is_floating_point()
        ):
            return "the input images"
        bad = [n for n, p in self.network.named_parameters() if not bool(p.isfinite().all())]
        if bad:
            return f"the weights {', '.join(bad[:4])}"
        return "a gradient" if bool(logits.isfinite().all()) else "the logits"

    def state(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "steps_done": self.steps_done,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.steps_done = state["steps_done"]
