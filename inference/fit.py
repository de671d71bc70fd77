"""Fit a guide to a switched network by stochastic variational inference."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from ..guides import GUIDES, check_options, make_guide
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .fingerprint import fingerprint, model_settings
from .loop import Checkpoint, Loader, batches_in, run_epochs, seed_of
from .svi import Svi

LR = 0.05
GuideSpec = str | type[AutoGuide] | AutoGuide | Callable[[SwitchedNetwork], AutoGuide]


@dataclass
class Fit:
    """What :func:`fit` learned, or what :func:`~.sample.sample` drew.

    Attributes:
        guides: one guide per restart; they become the chains of the posterior. Empty for NUTS.
        history: one list of losses (negative ELBO estimates, in nats) per restart.
        seconds: wall time.
        settings: how it was run.
        examples: forward and backward passes of single examples in all restarts; None for NUTS,
            which does not count them.
        learned: per restart, what the model learned beside the guide, by name (the noise of a
            Gaussian likelihood); the model itself is left with that of the last one.
        draws: NUTS only: per chain, latent site -> [draws, *event shape], float64.
        stats: NUTS only: per chain, what the sampler says of each draw ("diverging").
    """

    guides: list[AutoGuide]
    history: list[list[float]]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    examples: int | None = None
    learned: list[dict[str, Tensor]] = field(default_factory=list)
    draws: list[dict[str, Tensor]] = field(default_factory=list)
    stats: list[dict[str, Tensor]] = field(default_factory=list)


def fit(
    model: SwitchedNetwork,
    guide: GuideSpec,
    loader: Loader,
    *,
    epochs: int = 1,
    restarts: int = 1,
    particles: int = 4,
    lr: float | None = None,
    seed: int = 0,
    guide_options: Mapping[str, Any] | None = None,
    elbo: Trace_ELBO | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Fit:
    """Maximise the ELBO over the guide's parameters with Adam and a linearly falling step size.

    Args:
        model: the switched network.
        guide: a guide's name (see :data:`~dirprune.guides.GUIDES`), class or factory (called on the
            model for each restart), or one guide (one restart).
        loader: batches of (inputs, targets) of the training set.
        epochs: passes over the loader.
        restarts: independent runs, each with draws and data order of its own.
        particles: P, independent switches in a batch; see :class:`~.particles.Particles`.
        lr: Adam's first step size, in the guide's unconstrained (log) space; it falls to zero. None
            takes what suits a guide that is given by name, else 0.05.
        seed: same seed, same result (bit for bit on a CPU with one thread).
        guide_options: options of a guide that is given by name: ``{"rank": 10}``.
        elbo: Pyro's ELBO to maximise; None takes the one that is right for the guide.
        checkpoint: a file to keep the state in, every half minute and at Ctrl-C.
        resume: go on from that file if it is there; the result is that of an undisturbed run.
        progress: show a progress bar; None shows it on a terminal only.

    Returns:
        The fitted guides with their losses.

    Raises:
        DirpruneError: a bad argument, a guide that does not fit the model, an ELBO that is wrong
            for the guide, an empty loader, or data that do not fit the network.
        NonFiniteError: NaN or infinity; the message names the step, the place and the checkpoint.
        KeyboardInterrupt: Ctrl-C, after the step is finished and the checkpoint written.
    """
    for name, value in (("epochs", epochs), ("restarts", restarts), ("particles", particles)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DirpruneError(f"{name}: expected a whole number of at least 1, got {value!r}")
    if not isinstance(model, SwitchedNetwork):
        raise DirpruneError(
            f"expected a SwitchedNetwork to fit, got {type(model).__name__}; a site is left out by "
            "exclude=, and Pyro's own SVI takes a model under a handler such as poutine.condition"
        )
    if lr is None:
        lr = GUIDES[guide].lr if isinstance(guide, str) and guide in GUIDES else LR
    if not 0 < lr < 10:
        raise DirpruneError(f"lr: expected a step size between 0 and 10, got {lr}")
    if isinstance(guide, str):
        check_options(guide, guide_options or {})
    options = dict(guide_options or {})
    if elbo is not None and not isinstance(elbo, Trace_ELBO):
        raise DirpruneError(f"elbo: expected one of Pyro's, made, as in Trace_ELBO(), got {elbo!r}")
    make = guide_factory(guide, restarts, options)
    started = time.perf_counter()
    folder = None if checkpoint is None else Path(checkpoint)
    fitted = Fit([], [], 0.0)
    learned = [p for p in model.parameters() if p.requires_grad]  # a likelihood's noise
    initial = [p.detach().clone() for p in learned]
    of_model = {} if folder is None else fingerprint(model)
    for restart in range(restarts):
        with torch.no_grad():
            for p, start in zip(learned, initial, strict=True):
                p.copy_(start)
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed_of([seed, restart]))
            job = Svi(make(model), model, particles, lr, epochs * batches_in(loader), elbo)
        path = None if folder is None else folder.with_name(f"{folder.name}.{restart}")
        fitted.guides.append(job.guide)
        fitted.settings = {
            "guide": guide if isinstance(guide, str) else type(job.guide).__name__,
            "guide_options": options,
            "elbo": type(job.elbo).__name__,
            "epochs": epochs,
            "restarts": restarts,
            "particles": particles,
            "lr": lr,
            "seed": seed,
            **model_settings(model),
        }
        identity = {**fitted.settings, **of_model}
        identity.pop("restarts")  # one more restart leaves the others as they are
        losses = run_epochs(
            job,
            loader,
            epochs=epochs,
            seed=[seed, restart],
            checkpoint=Checkpoint(path, identity, resume),
            device=model.device,
            progress=progress,
            label="SVI" if restarts == 1 else f"SVI {restart + 1}/{restarts}",
        )
        fitted.history.append(losses)
        fitted.examples = (fitted.examples or 0) + job.examples
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        fitted.learned.append(
            {name: p.detach().clone() for name, p in zip(names, learned, strict=True)}
        )
    fitted.seconds = time.perf_counter() - started
    return fitted


def guide_factory(
    guide: GuideSpec, restarts: int, options: Mapping[str, Any]
) -> Callable[[SwitchedNetwork], AutoGuide]:
    """A function that makes a guide for a model, from any way to say which."""
    if isinstance(guide, str):
        return lambda model: make_guide(guide, model, options)
    if options:
        raise DirpruneError(
            f"guide_options={dict(options)} goes with a guide's name: a class or factory takes its "
            "own, as in lambda model: AutoDirichlet(model, init_concentration=5.0)"
        )
    if isinstance(guide, AutoGuide):
        if restarts != 1:
            raise DirpruneError(
                f"restarts={restarts} needs fresh guides: give a guide's name, class or a factory "
                "model -> guide, not one guide"
            )
        return lambda model: guide
    if callable(guide):
        return guide
    raise DirpruneError(f"guide: expected a name, a class or a guide, got {guide!r}")
