"""Simulation-based calibration: does a guide give the truth its due, over the whole prior?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from tqdm import tqdm

from ..inference.fit import Fit, GuideSpec, fit
from ..inference.loop import seed_of
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .calibration import LIKELIHOOD, Calibration, Ranks
from .evidence.switches import draw_switches, log_likelihood
from .uniformity import Floats

Data = list[tuple[Tensor, Tensor]]  # one batch of all examples
Approximate = Callable[[Data, int], Mapping[str, Tensor]]  # (data, seed) -> site -> draws [S, K]

LEAST_SIMULATIONS = 20


def sbc(
    model: SwitchedNetwork,
    inputs: Any,
    guide: GuideSpec,
    *,
    simulations: int = 200,
    draws: int = 99,
    steps: int = 300,
    particles: int = 8,
    lr: float | None = None,
    guide_options: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Calibration:
    r"""Fit a guide to data simulated from the prior, again and again, and rank the truth.

    .. math::
        \tilde s \sim p(s), \quad \tilde y \sim p(y \mid f_W(x; \tilde s)), \quad
        s_1 \dots s_L \sim q(s; \tilde y), \quad r_k = \#\{l : s_{lk} < \tilde s_k\}

    If q is the posterior, every :math:`r_k` is uniform on 0..L. A U of ranks says that q is too
    narrow, a hump that it is too wide, a slope that it is shifted. Ranks of the log likelihood
    :math:`\log p(\tilde y \mid s)` are added, since ranks of switches alone are uniform, too, for a
    guide that ignores the data and gives the prior. Parameters of priors that have priors of their
    own are drawn and fitted with the rest, and not ranked.

    The guide is fitted by full-batch SVI, ``steps`` steps for each simulation. To start each fit
    from a warm guide, give a factory: ``lambda model: copy.deepcopy(fitted.guides[0])``.

    Args:
        model: at temperature 1, its likelihood without parameters of its own; it stays as it is.
        inputs: all N of them: a tensor [N, ...] (``num_data`` is N).
        guide: a name, a class or a factory; one guide would be fitted on from data to data.
        simulations: 100 see a guide with half the standard deviation, 200 to 500 are usual.
        draws: L, of the guide, in each simulation.
        steps: of SVI in each simulation.
        particles: as in ``fit``.
        lr: as in ``fit``.
        guide_options: as in ``fit``.
        seed: of everything.
        progress: show a progress bar; None shows it on a terminal only.

    Raises:
        DirpruneError: a temperature other than 1, learned parameters in the likelihood, inputs that
            are not N, or a number out of range.
        KeyboardInterrupt: Ctrl-C; there is no result then.

    References:
        Sean Talts, Michael Betancourt, Daniel Simpson, Aki Vehtari, Andrew Gelman, "Validating
        Bayesian Inference Algorithms with Simulation-Based Calibration", 2018, arXiv 1804.06788.

        Martin Modrák, Angie H. Moon, Shinyoung Kim, Paul Bürkner, Niko Huurre, Kateřina
        Faltejsková, Andrew Gelman, Aki Vehtari, "Simulation-Based Calibration Checking for Bayesian
        Computation: The Choice of Test Quantities Shapes Sensitivity", 2022, arXiv 2211.02383 (why
        the likelihood is ranked).
    """
    if isinstance(guide, torch.nn.Module):
        raise DirpruneError(
            f"guide: expected a name, a class or a factory, got one {type(guide).__name__}, which "
            "would go on from one simulation to the next: give "
            "lambda model: copy.deepcopy(guide)"
        )
    options: dict[str, Any] = {
        "epochs": steps,
        "particles": particles,
        "lr": lr,
        "guide_options": dict(guide_options or {}),
    }

    def approximate(data: Data, seed: int) -> Mapping[str, Tensor]:
        fitted: Fit = fit(model, guide, data, seed=seed, progress=False, **options)
        return {
            site: s[0] for site, s in draw_switches(model, fitted, draws, seed).switches.items()
        }

    settings = {
        "guide": guide if isinstance(guide, str) else getattr(guide, "__name__", "custom"),
        **options,
    }
    return calibrate(
        model,
        inputs,
        approximate,
        simulations=simulations,
        draws=draws,
        seed=seed,
        progress=progress,
        settings=settings,
    )


def calibrate(
    model: SwitchedNetwork,
    inputs: Any,
    approximate: Approximate,
    *,
    simulations: int,
    draws: int,
    seed: int = 0,
    progress: bool | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Calibration:
    """:func:`sbc` of any approximation: a function (data, seed) -> site -> draws [draws, K].

    ``data`` is a loader of one batch, all inputs with simulated targets. The draws must be
    independent of each other: thin those of a Markov chain first.
    """
    _check(model, inputs, simulations, draws)
    started = time.perf_counter()
    ranks: dict[str, list[Ranks]] = {name: [] for name in (*model.sites, LIKELIHOOD)}
    devices = [model.device] if model.device.type == "cuda" else []
    bar = tqdm(
        range(simulations),
        desc="SBC",
        unit="fit",
        disable=None if progress is None else not progress,
        leave=False,
    )
    for i in bar:
        number = seed_of([seed, i])
        with torch.random.fork_rng(devices):
            torch.manual_seed(number)
            with torch.no_grad(), poutine.block():
                true = model.sample_switches()
                targets = model.likelihood(model.outputs(inputs, true)).sample()
            found = approximate([(inputs, targets)], number)
        _check_draws(model, found, draws)
        switches = {
            name: torch.cat([true[name][None].double().cpu(), found[name].double().cpu()])
            for name in model.sites
        }
        fits = log_likelihood(model, switches, inputs, targets, batch_size=8192).sum(1)
        rng = np.random.default_rng(number)
        for name, values in {**switches, LIKELIHOOD: fits[:, None]}.items():
            ranks[name].append(_rank(values.numpy(), rng))
    return Calibration(
        {name: np.stack(rows) for name, rows in ranks.items()},
        draws,
        time.perf_counter() - started,
        {**(settings or {}), "simulations": simulations, "seed": seed},
    )


def _rank(values: Floats, rng: np.random.Generator) -> Ranks:
    """Ranks [K] of the first row among the others [S, K]; ties are broken by lot."""
    first, others = values[:1], values[1:]
    ties = (others == first).sum(0)
    return np.asarray((others < first).sum(0) + rng.integers(0, ties + 1))


def _check_draws(model: SwitchedNetwork, found: Mapping[str, Tensor], draws: int) -> None:
    for name, site in model.sites.items():
        shape = list(found[name].shape) if name in found else None
        if shape != [draws, site.size]:
            raise DirpruneError(
                f"SBC: expected draws of the site {name!r} of shape [{draws}, {site.size}] from "
                f"the approximation, got {shape or 'none'}"
            )


def _check(model: SwitchedNetwork, inputs: Any, simulations: int, draws: int) -> None:
    if not isinstance(model, SwitchedNetwork):
        raise DirpruneError(f"SBC: expected a SwitchedNetwork, got {type(model).__name__}")
    if model.temperature != 1:
        raise DirpruneError(
            f"SBC: expected temperature 1, got {model.temperature}. Ranks are uniform because the "
            "posterior, averaged over data from the model, is the prior; a likelihood to another "
            "power is not the one that the data come from, and the exact posterior would fail too"
        )
    learned = [name for name, p in model.named_parameters() if p.requires_grad]
    if learned:
        raise DirpruneError(
            f"SBC: the likelihood learns {', '.join(learned)}, which has no prior to simulate "
            "from: expected a likelihood without parameters, as in likelihood=lambda outputs: "
            "dist.Normal(outputs, 0.5).to_event(1)"
        )
    count = len(inputs) if isinstance(inputs, Tensor) else None
    if count != model.num_data:
        raise DirpruneError(
            f"SBC: expected a tensor of all num_data = {model.num_data} inputs, got "
            + (f"{count}" if count is not None else type(inputs).__name__)
            + ": a part of them would be counted for the whole"
        )
    for name, value, least in (
        ("simulations", simulations, LEAST_SIMULATIONS),
        ("draws", draws, 9),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DirpruneError(f"{name}: expected a whole number of at least {least}, got {value}")
