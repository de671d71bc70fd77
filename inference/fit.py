"""Fit a guide to a switched network by stochastic variational inference."""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoGuide, AutoGuideList
from torch import Tensor, nn

from ..guides import GUIDES, check_elbo, check_options, elbo_for, make_guide
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .batches import check_batch, not_finite
from .loop import Checkpoint, Loader, NonFiniteError, batches_in, move_batch, run_epochs, seed_of
from .particles import Particles

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
        learned: per restart, what the model learned beside the guide, by name (the noise of a
            Gaussian likelihood); the model itself is left with that of the last one.
        draws: NUTS only: per chain, latent site -> [draws, *event shape], float64.
        stats: NUTS only: per chain, what the sampler says of each draw ("diverging").
    """

    guides: list[AutoGuide]
    history: list[list[float]]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
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
            job = _Svi(make(model), model, particles, lr, epochs * batches_in(loader), elbo)
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
            "temperature": model.temperature,
            "scaling": model.scaling,
            "num_data": model.num_data,
            "prior": readable(model.prior),
            "likelihood": readable(model.likelihood),
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


def readable(part: object) -> str:
    """What a prior or a likelihood is called: its own words, or the name of a function."""
    if isinstance(part, nn.Module):
        return type(part).__name__
    return getattr(part, "__qualname__", None) or repr(part)


def fingerprint(model: SwitchedNetwork) -> dict[str, Any]:
    """What tells one posterior from another: sites, prior, likelihood and the frozen weights."""
    crc = 0
    for tensor in (*model.network.parameters(), *model.network.buffers()):
        data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        crc = zlib.crc32(data.numpy(), crc)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad(), poutine.block():
        torch.manual_seed(0)  # one draw and its density tell priors apart, hyper-priors included
        trace = poutine.trace(model.sample_switches).get_trace()
        trace.compute_log_prob()
    return {
        "sites": {s.name: s.size for s in model.sites.values()},
        "prior_density": {
            name: f"{float(trace.nodes[name]['log_prob_sum']):.6g}"
            for name in trace.stochastic_nodes
        },
        "weights": crc,
    }


class _Svi:
    """One restart: a guide, its optimiser, and one step on a batch."""

    def __init__(
        self,
        guide: AutoGuide,
        model: SwitchedNetwork,
        particles: int,
        lr: float,
        steps: int,
        elbo: Trace_ELBO | None,
    ) -> None:
        if not callable(guide):
            raise DirpruneError(f"the guide's factory returned {guide!r}: expected a guide")
        self.guide, self.model = guide, model
        self.particles = Particles(particles)
        self.elbo = elbo_for(guide) if elbo is None else elbo
        self.loss = self.elbo(model, guide)
        if getattr(guide, "prototype_trace", True) is None:
            # Pyro's guides, and the parts of an AutoGuideList, make their parameters in a call.
            # They take whatever is not observed for latent: give them targets.
            examples, _ = move_batch((model.example, torch.empty(0)), model.device)
            with pyro.get_param_store().scope(), poutine.block(), torch.no_grad():
                guide(examples, model(examples))
        check_elbo(self.elbo, guide, model.example)
        self.parameters = {name: p for name, p in self.loss.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise DirpruneError(f"{type(guide).__name__} has no parameters to learn")
        self.optimizer = torch.optim.Adam(
            self.parameters.values(), lr=lr, betas=(0.9, 0.99), fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 1e-3, steps)
        self.steps_done = 0
        self._seen: tuple[Any, ...] | None = None

    def _check_statements(self, inputs: Any, targets: Tensor) -> None:
        """The guide samples what the model does, and no parameter of either goes unlearned."""
        device = self.model.device
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            pyro.get_param_store().scope(),
            poutine.block(),
            torch.no_grad(),
        ):
            p: Any = poutine.trace(self.model.sample_switches).get_trace()
            q: Any = poutine.trace(self.guide).get_trace(inputs, targets)
        known = {id(parameter) for parameter in self.loss.parameters()}
        for whose, trace in (("prior", p), ("guide", q)):
            for name in trace.param_nodes:
                value = trace.nodes[name]["value"]
                if (
                    id(value.unconstrained() if hasattr(value, "unconstrained") else value)
                    not in known
                ):
                    raise DirpruneError(
                        f"the {whose} has a pyro.param {name!r}, which fit would not learn: hold "
                        "it in a torch.nn.Module or PyroModule instead, as a parameter of that"
                    )
        latent, found = dict(p.iter_stochastic_nodes()), dict(q.iter_stochastic_nodes())
        kind = type(self.guide).__name__
        for name, site in latent.items():
            shape = list(site["value"].shape)
            if name not in found or list(found[name]["value"].shape) != shape:
                came = (
                    f"of shape {list(found[name]['value'].shape)}" if name in found else "missing"
                )
                raise DirpruneError(
                    f"{kind} is not a guide of this model: the latent site {name!r}, of shape "
                    f"{shape}, is {came} in the guide"
                )
        for name, site in found.items():
            if name not in latent and not site["infer"].get("is_auxiliary"):
                raise DirpruneError(
                    f"{kind} is not a guide of this model: it samples {name!r}, which the model "
                    f"does not have; its latent sites are {', '.join(latent)}"
                )

    def step(self, inputs: Any, targets: Tensor) -> float:
        # The first batch is looked at, and every one whose targets are of another kind: those might
        # broadcast, and give a loss that means nothing.
        kind = (targets.shape[1:], targets.dtype) if isinstance(targets, Tensor) else ()
        if kind != self._seen:
            self._look(inputs, targets)
            if self._seen is None:
                self._check_statements(inputs, targets)
            self._seen = kind
        try:
            value = self._gradient(inputs, targets)
        except (RuntimeError, ValueError, LookupError, TypeError):
            self._look(inputs, targets)  # is it the batch?
            raise
        self._check(value, inputs, targets)
        self.optimizer.step()
        self.schedule.step()
        self.steps_done += 1
        return value

    def _gradient(self, inputs: Any, targets: Tensor) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        # A parameter store of its own: a guide must not find another one's values under its names.
        # Pyro's checks of shapes and supports are worth their time once.
        with (
            pyro.get_param_store().scope(),
            pyro.validation_enabled(self.steps_done == 0),
            self.particles,
            warnings.catch_warnings(),
        ):
            if isinstance(self.guide, AutoGuideList):
                # TraceMeanField_ELBO asks for the model's order of sites; the parts of a list are
                # independent of each other in any order.
                warnings.filterwarnings("ignore", "Failed to verify mean field", UserWarning)
            loss = self.loss(inputs, targets)
        loss.backward()
        return loss.item()

    def _look(self, inputs: Any, targets: Tensor) -> None:
        """Say what is wrong with a batch, where that can be told."""
        if places := check_batch(self.model, inputs, targets):
            raise NonFiniteError(f"SVI step {self.steps_done + 1}: not finite: {', '.join(places)}")

    def _check(self, value: float, inputs: Any, targets: Tensor) -> None:
        """Stop within the step if anything is not finite, and say where it came from."""
        grads = [p.grad for p in self.parameters.values() if p.grad is not None]
        if value - value == 0 and all(bool(g.isfinite().all()) for g in grads):
            return
        places = [
            f"the gradient of {name}"
            for name, p in self.parameters.items()
            if p.grad is not None and not bool(p.grad.isfinite().all())
        ]
        places = not_finite(inputs, targets) + places
        raise NonFiniteError(
            f"SVI step {self.steps_done + 1}: the loss is {value}; not finite: "
            f"{', '.join(places[:4]) or 'the log likelihood'}"
        )

    def state(self) -> dict[str, Any]:
        return {
            "parameters": {name: p.detach().clone() for name, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "steps_done": self.steps_done,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.steps_done = state["steps_done"]
