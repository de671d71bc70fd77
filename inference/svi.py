"""One run of stochastic variational inference: a guide, its optimiser, and a step on a batch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoGuide, AutoGuideList
from torch import Tensor

from ..guides import check_elbo, elbo_for
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .batches import check_batch, not_finite
from .loop import NonFiniteError, move_batch
from .particles import Particles


class Svi:
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
        self.steps_done = self.examples = 0
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
        self.examples += len(targets)
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
            "examples": self.examples,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.steps_done, self.examples = state["steps_done"], state["examples"]
