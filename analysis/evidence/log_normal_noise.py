"""Log-normal noise on every unit of a trained network, as a Pyro model, and its posterior."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor, nn

from ...guides.distributions import TruncatedLogNormal, TruncatedLogUniform
from ...inference.batches import check_batch, not_finite
from ...inference.loop import (
    Checkpoint,
    Loader,
    NonFiniteError,
    batches_in,
    run_epochs,
    same_batches,
)
from ...inference.particles import Particles
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from .scores import Passes

# The bounds of the noise, as in the paper, and where learning begins: next to no noise.
LOG_LOW, LOG_HIGH = -20.0, 0.0
START_LOC, START_LOG_SCALE = 0.0, -5.0
LOG_SCALES = (-10.0, 5.0)


class NoiseModel(nn.Module):
    r"""A trained network whose units have multiplicative noise in the place of switches.

    .. math::
        \theta_{lk} &\sim \text{LogU}_{[a, b]}, \quad a = e^{-20}, \; b = 1 \\
        y_i \mid x_i, \theta &\sim \text{Likelihood}(f_W(x_i; \theta_1, \dots, \theta_L))^\tau

    with the likelihood, the temperature and the places of the gains of the switched network, and W
    frozen. (The paper learns W too, beginning with the trained one.)

    Args:
        model: the switched network; its prior plays no part.
    """

    def __init__(self, model: SwitchedNetwork) -> None:
        super().__init__()
        self._model = (model,)  # a tuple: its parameters are not to be learned

    def forward(self, inputs: Any, targets: Tensor) -> None:
        model = self._model[0]
        gains = {}
        for name, site in model.sites.items():
            low, high = _bounds(model.device)
            prior = TruncatedLogUniform(low, high).expand((site.size,))
            theta = pyro.sample(name, prior.to_event(1))
            gains[name] = theta.to(model.body_dtype).reshape(-1, site.size)
        outputs = model.outputs_at_gains(inputs, gains)
        batch = torch.arange(len(outputs), device=model.device)
        data = pyro.plate("data", model.num_data, subsample=batch)
        with data, poutine.scale(scale=model.temperature):
            pyro.sample("targets", model.likelihood(outputs), obs=targets)


class NoiseGuide(nn.Module):
    r"""Its mean-field posterior: :math:`q(\theta_{lk}) = \text{LogN}_{[a,b]}(\mu_{lk},
    \sigma_{lk}^2)`.

    The parameters are float64: a few hundred numbers whose closed forms have few digits in float32.

    Args:
        model: the switched network.
    """

    def __init__(self, model: SwitchedNetwork) -> None:
        super().__init__()
        self.names = list(model.sites)

        def full(value: float) -> nn.ParameterList:
            return nn.ParameterList(
                torch.full((site.size,), value, dtype=torch.float64, device=model.device)
                for site in model.sites.values()
            )

        self.loc, self.log_scale = full(START_LOC), full(START_LOG_SCALE)

    def posterior(self) -> dict[str, TruncatedLogNormal]:
        """Site -> the posterior of its units' noise, batch shape [K]."""
        return {
            name: TruncatedLogNormal(loc, log_scale.exp(), *_bounds(loc.device))
            for name, loc, log_scale in zip(self.names, self.loc, self.log_scale, strict=True)
        }

    def forward(self, inputs: Any, targets: Tensor) -> None:
        for name, q in self.posterior().items():
            pyro.sample(name, q.to_event(1))

    @torch.no_grad()
    def project(self) -> None:
        """Back into bounds, beyond which a unit's posterior hardly changes."""
        for loc, log_scale in zip(self.loc, self.log_scale, strict=True):
            loc.clamp_(LOG_LOW, LOG_HIGH)
            log_scale.clamp_(*LOG_SCALES)


@dataclass(frozen=True)
class Noise:
    """The noise that a network bears.

    Attributes:
        posterior: site -> the posterior of its units' noise, batch shape [K], float64 on the CPU.
        losses: the negative ELBO of every step, in nats.
        passes: what it took.
    """

    posterior: Mapping[str, TruncatedLogNormal]
    losses: list[float]
    passes: Passes


def learn_noise(
    model: SwitchedNetwork,
    loader: Loader,
    *,
    steps: int,
    lr: float,
    seed: int = 0,
    progress: bool | None = None,
) -> Noise:
    r"""Learn the posterior of log-normal noise on every unit, by stochastic variational inference.

    .. math::
        \text{ELBO} = \tau \frac{N}{B} \sum_i E_q[\log p(y_i \mid x_i, \theta)]
        - \sum_{lk} KL(q(\theta_{lk}) \,\|\, \text{LogU}_{[a,b]})

    with noise of its own for every example, as in the paper, and the KL in closed form. Adam, whose
    step size falls linearly to zero.

    Args:
        model: the switched network.
        loader: batches of training images, gone through as often as the steps need.
        steps: batches to learn from.
        lr: Adam's first step size, for mu and log sigma.
        seed: of the noise and the loader's order; generators are left as they were.
        progress: show a progress bar; None shows it on a terminal only.

    Raises:
        DirpruneError: the loader is empty, or its batches do not fit the network.
        NonFiniteError: NaN or infinity.

    References:
        Kirill Neklyudov, Dmitry Molchanov, Arsenii Ashukha, Dmitry Vetrov, "Structured Bayesian
        Pruning via Log-Normal Multiplicative Noise", 2017, arXiv 1705.07283.
    """
    job = NoiseJob(model, lr, steps)
    numbers = [seed, steps]
    # Of the loader itself: within, the job sees a longer one.
    with same_batches(loader, numbers, model.device):
        losses = run_epochs(
            job,
            _Steps(loader, steps),
            epochs=1,
            seed=numbers,
            checkpoint=Checkpoint(),
            device=model.device,
            label="noise",
            progress=progress,
        )
    posterior = {
        name: TruncatedLogNormal(
            q.loc.detach().cpu(), q.scale.detach().cpu(), q.low.cpu(), q.high.cpu()
        )
        for name, q in job.guide.posterior().items()
    }
    return Noise(posterior, losses, Passes(job.examples, job.examples))


class _Steps:
    """A loader of so many batches: another one's, again and again."""

    def __init__(self, loader: Loader, steps: int) -> None:
        self.loader, self.steps = loader, steps
        self.generator = getattr(loader, "generator", None)

    def __len__(self) -> int:
        return self.steps if batches_in(self.loader) else 0

    def __iter__(self) -> Iterator[Any]:
        left = self.steps
        while left:
            before = left
            for batch in self.loader:
                yield batch
                left -= 1
                if not left:
                    return
            if left == before:
                raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")


class NoiseJob:
    """The guide, its optimiser, and one step on a batch, for :func:`run_epochs`."""

    def __init__(self, model: SwitchedNetwork, lr: float, steps: int) -> None:
        self.model, self.guide = model, NoiseGuide(model)
        self.elbo = TraceMeanField_ELBO()
        self.noisy = NoiseModel(model)
        self.parameters = list(self.guide.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=lr, betas=(0.9, 0.99))
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 1e-3, steps)
        self.examples = self.steps_done = 0

    def step(self, inputs: Any, targets: Tensor) -> float:
        if self.steps_done == 0:
            self._refuse(check_batch(self.model, inputs, targets))
        with (
            pyro.get_param_store().scope(),
            pyro.validation_enabled(self.steps_done == 0),
            Particles(len(targets)),
        ):
            loss = self.elbo.differentiable_loss(self.noisy, self.guide, inputs, targets)
        # Of the guide alone: a noise that the likelihood learns elsewhere keeps its gradient.
        grads = torch.autograd.grad(loss, self.parameters)
        if not all(bool(x.isfinite().all()) for x in (loss, *grads)):
            self._refuse([*not_finite(inputs, targets), "the loss or its gradient"])
        for parameter, grad in zip(self.parameters, grads, strict=True):
            parameter.grad = grad
        self.optimizer.step()
        self.schedule.step()
        self.guide.project()
        self.steps_done += 1
        self.examples += len(targets)
        return loss.item()

    def _refuse(self, places: list[str]) -> None:
        if places:
            raise NonFiniteError(
                f"noise, step {self.steps_done + 1}: not finite: {', '.join(places)}"
            )

    def state(self) -> dict[str, Any]:
        return {
            "guide": self.guide.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "counts": [self.examples, self.steps_done],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.guide.load_state_dict(state["guide"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.examples, self.steps_done = state["counts"]


def _bounds(device: torch.device) -> tuple[Tensor, Tensor]:
    low, high = (
        torch.tensor(math.exp(x), dtype=torch.float64, device=device) for x in (LOG_LOW, LOG_HIGH)
    )
    return low, high
