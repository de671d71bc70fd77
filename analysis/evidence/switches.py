"""Posterior draws of the switches and a fixed set of images: what every criterion reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Categorical
from torch.utils._pytree import tree_leaves, tree_map
from tqdm import tqdm

from ...inference.fit import Fit
from ...inference.loop import Loader, move_batch, same_batches, seed_of
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork

DRAWS = 400  # of a chain, where nothing else is said


@dataclass(frozen=True)
class Draws:
    """Posterior draws, float64.

    Attributes:
        switches: site -> [chain, draw, K].
        hyper: parameter of a prior -> [chain, draw, ...]; empty where priors are fixed.
        log_q: the guide's density [chain, draw]; None for NUTS, which has no guide.
    """

    switches: dict[str, Tensor]
    hyper: dict[str, Tensor] = field(default_factory=dict)
    log_q: Tensor | None = None

    @property
    def latent(self) -> dict[str, Tensor]:
        """Switches and parameters of priors together."""
        return self.switches | self.hyper


def draw_switches(model: SwitchedNetwork, fit: Fit, draws: int, seed: int = 0) -> Draws:
    """Draws from every guide of a fit; each restart is a chain.

    The guide's own sample statements are run ``draws`` times in one call, under a plate, so that
    any guide's density is the sum of what its statements report. Of NUTS, whose draws are there
    already, evenly spaced ones are taken.

    Raises:
        DirpruneError: the fit is empty, or is of another model.
    """
    if fit.draws:
        return _thinned(model, fit.draws, draws)
    if not fit.guides:
        raise DirpruneError("the Fit holds no guide: there is nothing to draw from")
    latent: dict[str, list[Tensor]] = {name: [] for name in (*model.sites, *model.hyper_sites)}
    log_q = []
    with torch.random.fork_rng(_devices(model)), torch.no_grad():
        for restart, guide in enumerate(fit.guides):
            torch.manual_seed(seed_of([seed, restart, draws]))
            with pyro.get_param_store().scope(), pyro.plate("_draws", draws, dim=-1):
                trace = poutine.trace(guide).get_trace(model.example)
            log_q.append(density(trace, draws))
            for name in latent:
                if name not in trace.nodes:
                    raise DirpruneError(
                        f"{type(guide).__name__} does not sample the site {name!r}: it was fitted "
                        "to another model, or is only a part of a guide"
                    )
                value = trace.nodes[name]["value"]
                assert value is not None  # a sample statement has run
                latent[name].append(value.double().cpu())
    chains = {name: torch.stack(parts) for name, parts in latent.items()}
    return _sorted(model, chains, torch.stack(log_q))


def _thinned(model: SwitchedNetwork, chains: list[dict[str, Tensor]], draws: int) -> Draws:
    """So many of the draws, evenly spaced; all of them if there are not more."""
    number = min(len(value) for chain in chains for value in chain.values())
    index = _spaced(number, draws)
    names = (*model.sites, *model.hyper_sites)
    missing = [name for name in names if name not in chains[0]]
    if missing:
        raise DirpruneError(f"the draws are of another model: they lack {', '.join(missing)}")
    latent = {name: torch.stack([c[name][index].double() for c in chains]) for name in names}
    return _sorted(model, latent, None)


def chosen_stats(fit: Fit, draws: int) -> dict[str, Tensor]:
    """What the sampler says of the draws of :func:`draw_switches`, name -> [chain, draw]."""
    return {
        name: torch.stack([chain[name][_spaced(len(chain[name]), draws)] for chain in fit.stats])
        for name in fit.stats[0]
    }


def _spaced(number: int, draws: int) -> Tensor:
    return torch.linspace(0, number - 1, min(draws, number)).round().long()


def _sorted(model: SwitchedNetwork, latent: dict[str, Tensor], log_q: Tensor | None) -> Draws:
    switches = {name: latent[name] for name in model.sites}
    return Draws(switches, {name: latent[name] for name in model.hyper_sites}, log_q)


def each_restart[T](
    model: SwitchedNetwork,
    fit: Fit,
    switches: Mapping[str, Tensor],
    function: Callable[[dict[str, Tensor]], T],
) -> list[T]:
    """``function`` of every restart's switches, site -> [chain, S, K], one restart at a time.

    Meanwhile the model has what that restart learned beside its guide (a likelihood's noise).
    """
    parameters = dict(model.named_parameters())
    last = {name: parameters[name].detach().clone() for part in fit.learned for name in part}

    def put(values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(value)

    results = []
    try:
        for restart in range(len(fit.guides) or len(fit.draws)):
            if fit.learned:
                put(fit.learned[restart])
            results.append(function({site: s[restart] for site, s in switches.items()}))
    finally:
        put(last)
    return results


def density(trace: Any, draws: int) -> Tensor:
    """The log density [draws] of a trace that was run under a plate of ``draws``."""
    trace.compute_log_prob()
    total = torch.zeros(draws, dtype=torch.float64)
    for site in trace.nodes.values():
        if site["type"] == "sample" and not site["infer"].get("_do_not_score"):
            total += site["log_prob"].detach().double().cpu().expand(draws)
    return total


def log_prior(model: SwitchedNetwork, latent: Mapping[str, Tensor]) -> Tensor:
    """log p of draws [S, ...] of all latent sites, parameters of priors too: [S]."""
    number = len(next(iter(latent.values())))
    data = {name: value.to(model.device) for name, value in latent.items()}
    conditioned = poutine.condition(model.sample_switches, data=data)
    with torch.no_grad(), pyro.plate("_draws", number, dim=-1):
        return density(poutine.trace(conditioned).get_trace(), number)


def prior_draws(model: SwitchedNetwork, draws: int, seed: int = 0) -> dict[str, Tensor]:
    """Draws from the prior: site, or parameter of a prior -> [draws, ...], float64."""
    with torch.random.fork_rng(_devices(model)), torch.no_grad():
        torch.manual_seed(seed_of([seed, 1]))
        with pyro.plate("_draws", draws, dim=-1):
            trace = poutine.trace(model.sample_switches).get_trace()
    drawn = {}
    for name in (*model.sites, *model.hyper_sites):
        value = trace.nodes[name]["value"]
        assert value is not None  # a sample statement has run
        drawn[name] = value.double().cpu()
    return drawn


def log_likelihood(
    model: SwitchedNetwork,
    switches: Mapping[str, Tensor],
    inputs: Any,
    targets: Tensor,
    *,
    batch_size: int | None = None,
) -> Tensor:
    """log p(y_i | x_i, s) of every draw s on every example: [S, n], untempered, in nats."""
    number, count = len(next(iter(switches.values()))), len(targets)
    out = torch.empty(number * count, dtype=torch.float64)
    gains = model.gains(switches)
    for rows, values, _ in predictions(
        model, gains, inputs, targets, batch_size=batch_size, label="log likelihood"
    ):
        out[rows] = values
    return out.view(number, count)


@torch.no_grad()
def predictions(
    model: SwitchedNetwork,
    gains: Mapping[str, Tensor],
    inputs: Any,
    targets: Tensor,
    *,
    batch_size: int | None = None,
    label: str = "predictions",
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """What the network predicts for every example at every draw of the gains, in batches.

    Args:
        model: the switched network.
        gains: site -> [S, K], as :meth:`~.SwitchedNetwork.gains` and ``unit_gains`` give them.
        inputs: n examples.
        targets: of the examples.
        batch_size: examples at a time; by default what their size suggests.
        label: of the progress bar.

    Yields:
        B rows of :func:`grid`; log p(y_i | x_i, g) of each [B], untempered, in nats; and the
        probabilities [B, C] of its classes, None where the likelihood is not of one class for each
        example. Both are float64 on the CPU.
    """
    number, count = len(next(iter(gains.values()))), len(targets)
    for rows in grid(number, count, batch_size or usual_batch(inputs), label):
        draw, example = rows // count, (rows % count).to(model.device)
        chosen = {name: g[draw.to(g.device)].to(model.device) for name, g in gains.items()}
        predicted = model.likelihood(model.outputs_at_gains(take(inputs, example), chosen))
        classes = isinstance(predicted, Categorical) and len(predicted.batch_shape) == 1
        yield (
            rows,
            predicted.log_prob(targets[example]).double().cpu(),
            predicted.probs.double().cpu() if classes else None,
        )


def grid(draws: int, examples: int, batch_size: int, label: str = "") -> Iterator[Tensor]:
    """The draws x examples grid in batches; row r is draw r // examples, example r mod examples."""
    starts = range(0, draws * examples, batch_size)
    for start in tqdm(starts, desc=label, unit="batch", disable=None, leave=False):
        yield torch.arange(start, min(start + batch_size, draws * examples))


def usual_batch(inputs: Any) -> int:
    """Examples at a time: 512 small images, 27 of 224 x 224 pixels, whose activations are large."""
    values = sum(x[0].numel() for x in tree_leaves(inputs) if isinstance(x, Tensor))
    return max(1, min(512, 2**22 // max(1, values)))


def take(inputs: Any, index: Tensor) -> Any:
    """The examples of a tree of tensors at these indices."""
    return tree_map(lambda x: x[index] if isinstance(x, Tensor) else x, inputs)


def _devices(model: SwitchedNetwork) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []


def check_data_tree(model: SwitchedNetwork, sizes: Mapping[str, int]) -> None:
    """Refuse a DataTree whose sites are not the model's."""
    own = {name: site.size for name, site in model.sites.items()}
    if dict(sizes) != own:
        raise DirpruneError(
            "the DataTree is of another network: it has the sites "
            f"{', '.join(f'{n} ({k})' for n, k in sizes.items())}, the model has "
            f"{', '.join(f'{n} ({k})' for n, k in own.items())}"
        )


def fixed_images(
    model: SwitchedNetwork, loader: Loader, number: int, seed: int = 0
) -> tuple[Any, Tensor]:
    """The first ``number`` images of a loader under a fixed seed: (inputs, targets) on the device.

    The same loader gives the same images each time, also where it shuffles by torch's generators,
    which are left as they were.
    """
    with fixed_batches(model, loader, number, seed) as batches:
        parts = list(batches)
    inputs, targets = tree_map(lambda *xs: torch.cat(xs), *parts)
    return inputs, targets


@contextmanager
def fixed_batches(
    model: SwitchedNetwork, loader: Loader, number: int, seed: int = 0
) -> Iterator[Iterator[tuple[Any, Tensor]]]:
    """The images of :func:`fixed_images` batch by batch, of which one is held at a time.

    Batches are the loader's, or parts of them where their size suggests smaller ones.
    """
    with same_batches(loader, [seed], model.device):
        yield _first(loader, number, model.device)


def _first(loader: Loader, number: int, device: torch.device) -> Iterator[tuple[Any, Tensor]]:
    left = number
    for batch in loader:
        inputs, targets = move_batch(batch, device)
        for index in torch.arange(min(len(targets), left)).split(usual_batch(inputs)):
            yield take(inputs, index.to(device)), targets[index.to(device)]
        left -= len(targets)
        if left <= 0:
            return
    if left == number:
        raise DirpruneError("the loader is empty, expected batches of (inputs, targets)")
