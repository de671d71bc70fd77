"""The reference: draws from the posterior by the No-U-Turn sampler, for small networks."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import NUTS
from pyro.infer.autoguide.initialization import init_to_uniform
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import StickBreakingTransform, Transform
from torch.nn.functional import logsigmoid, pad
from torch.utils._pytree import tree_leaves, tree_map
from tqdm import tqdm

from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .batches import check_batch
from .fingerprint import fingerprint, model_settings
from .fit import Fit
from .interrupt import Interrupt, deferred_interrupt
from .loop import Checkpoint, Loader, NonFiniteError, move_batch, same_batches, seed_of


def sample(
    model: SwitchedNetwork,
    loader: Loader,
    *,
    draws: int = 500,
    warmup: int = 500,
    chains: int = 2,
    target_accept: float = 0.8,
    max_tree_depth: int = 8,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Fit:
    r"""Draw from the posterior of all latent sites, switches and hyper-priors, by NUTS.

    .. math:: p(s \mid y) \propto p(s) \prod_{i=1}^{N} p(y_i \mid x_i, s)^\tau

    It has no family to be wrong about, so it is what a guide is compared with. Each of a draw's up
    to :math:`2^{\text{max\_tree\_depth}}` steps is a forward and a backward pass over *all*
    examples, gathered once into one batch: small networks and small data only.

    A likelihood's own parameters (the noise of ``likelihood="gaussian"``) are no latent sites. They
    are held at their present values, so that the draws are of p(s | y, noise); ``fit`` before
    ``sample`` gives them good ones.

    Chains run one after the other, each from a start of its own: uniform in (-2, 2) on the scale of
    log gains (log values for positive hyper-parameters), as in Stan. That is wide of the posterior
    for any data that say something, and always of finite density, which draws from a sparse prior
    are not. Look at R-hat and at the divergences before the draws: prior concentrations below
    about 0.1 give the density a long flat tail beside a steep wall, and ask for a ``target_accept``
    of 0.9 or more.

    Source: Matthew D. Hoffman, Andrew Gelman, "The No-U-Turn Sampler: Adaptively Setting Path
    Lengths in Hamiltonian Monte Carlo", 2011, arXiv 1111.4246; in Pyro's version, with multinomial
    sampling of the trajectory and a diagonal mass matrix.

    Args:
        model: the switched network.
        loader: batches of (inputs, targets), together all ``num_data`` examples. Where it augments,
            one pass of it is taken.
        draws: how many each chain keeps.
        warmup: how many each chain drops at first, while step size and mass matrix are adapted.
        chains: independent chains.
        target_accept: mean acceptance probability that the step size aims at; nearer one means
            smaller steps.
        max_tree_depth: a trajectory is doubled so many times at most.
        seed: same seed, same result (bit for bit on a CPU with one thread).
        checkpoint: keep each finished chain in a file of this name and the chain's number.
        resume: take finished chains from there; the result is that of an undisturbed run.
        progress: show a progress bar; None shows it on a terminal only.

    Returns:
        A fit without guides: ``draws`` has for each chain latent site -> [draws, *shape of the
        site], float64 on the CPU. ``stats`` has by the names of ArviZ, [draws] each: "diverging";
        "tree_depth", how often the trajectory was doubled; "n_steps", its leapfrog steps; and
        "energy", its Hamiltonian at the start, which it keeps but for the integrator's error.

    Raises:
        DirpruneError: a bad argument, data that do not fit the network or are not ``num_data``
            examples, a checkpoint of another run, or no start of finite density.
        NonFiniteError: NaN or infinity in the data or in the network's outputs.
        KeyboardInterrupt: Ctrl-C, after the present draw; finished chains are in the checkpoint.

    >>> import torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> x, y = torch.randn(8, 2), torch.tensor([0, 1] * 4)
    >>> model = SwitchedNetwork(network, x, num_data=8)
    >>> reference = sample(model, [(x, y)], draws=4, warmup=4)
    >>> len(reference.draws), reference.draws[0]["0"].shape
    (2, torch.Size([4, 3]))
    """
    counts = {"draws": draws, "warmup": warmup, "chains": chains, "max_tree_depth": max_tree_depth}
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise DirpruneError(f"{name}: expected a whole number of at least 1, got {value!r}")
    if not isinstance(model, SwitchedNetwork):
        raise DirpruneError(
            f"expected a SwitchedNetwork to sample from, got {type(model).__name__}; Pyro's own "
            "MCMC takes any model"
        )
    if not 0 < target_accept < 1:
        raise DirpruneError(f"target_accept: expected a number in (0, 1), got {target_accept}")
    started = time.perf_counter()
    held = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    settings = {
        "guide": "NUTS",
        **counts,
        "target_accept": target_accept,
        "seed": seed,
        **model_settings(model),
    }
    fitted = Fit([], [], 0.0, settings, learned=[dict(held) for _ in range(chains)])
    with _undisturbed(model), deferred_interrupt() as interrupt:
        with same_batches(loader, [seed], model.device):
            data = _gather(model, loader)
        identity = dict(settings)
        if checkpoint is not None:
            identity |= fingerprint(model) | {"data": _crc(data), "noise": _crc(held)}
        identity.pop("chains")  # one more chain leaves the others as they are
        for chain in range(chains):
            path = None if checkpoint is None else Path(f"{checkpoint}.{chain}")
            file = Checkpoint(path, identity, resume)
            saved = file.read()
            if saved is None:
                torch.manual_seed(seed_of([seed, chain]))
                kernel = NUTS(
                    model,
                    transforms=_transforms(model),
                    target_accept_prob=target_accept,
                    max_tree_depth=max_tree_depth,
                    init_strategy=partial(init_to_uniform, radius=2.0),
                )
                with tqdm(
                    total=warmup + draws,
                    desc=f"NUTS {chain + 1}/{chains}",
                    unit="draw",
                    disable=None if progress is None else not progress,
                    leave=False,
                ) as bar:
                    job = _run_chain(kernel, data, draws, warmup, bar, interrupt)
                saved = {"job": job, "values": [], "generators": {}}
                file.write(saved)
            fitted.draws.append(saved["job"]["draws"])
            fitted.stats.append(saved["job"]["stats"])
        if interrupt.requested:  # while the last chain was written
            raise KeyboardInterrupt
    fitted.seconds = time.perf_counter() - started
    return fitted


def _run_chain(
    kernel: NUTS,
    data: tuple[Any, Tensor],
    draws: int,
    warmup: int,
    bar: tqdm[Any],
    interrupt: Interrupt,
) -> dict[str, dict[str, Tensor]]:
    """One chain; Pyro's ``MCMC`` would do it too, but has no ETA and resets a logger's handlers."""
    try:
        kernel.setup(warmup, *data)
    except ValueError as error:
        if "initial params" not in str(error):
            raise
        raise DirpruneError(
            "NUTS found no start of finite density in 100 tries: does the prior or the likelihood "
            "give NaN or -inf at gains near one?"
        ) from error
    z = kernel.initial_params
    kept, energy, depth, steps = [], [], [], []
    kernel.potential_fn = potential = _Counted(kernel.potential_fn)
    for number in range(warmup + draws):
        with torch.no_grad():
            start = float(potential(z))
        potential.calls = 0
        with _Transition() as transition:
            z = kernel.sample(z)
        if number >= warmup:
            kept.append(z)
            energy.append(start + transition.kinetic)
            depth.append(transition.doublings)
            steps.append(potential.calls)
        bar.update()
        if interrupt.requested:
            raise KeyboardInterrupt
    constrained = {
        name: kernel.transforms[name].inv(torch.stack([z[name] for z in kept]))
        for name in kernel.initial_params
    }
    diverging = torch.zeros(draws, dtype=torch.bool)
    diverging[torch.tensor(kernel.diagnostics()["divergences"], dtype=torch.long)] = True
    return {
        "draws": {name: value.double().cpu() for name, value in constrained.items()},
        "stats": {
            "diverging": diverging,
            "energy": torch.tensor(energy, dtype=torch.float64),
            "tree_depth": torch.tensor(depth),
            "n_steps": torch.tensor(steps),
        },
    }


class _Counted:
    """The potential, which every leapfrog step asks for once."""

    def __init__(self, potential: Callable[..., Tensor]) -> None:
        self.potential, self.calls = potential, 0

    def __call__(self, z: Any) -> Tensor:
        self.calls += 1
        return self.potential(z)


class _Transition(Messenger):
    """What a transition of Pyro's NUTS did, as its own sample statements tell.

    It samples the momentum as ``r_t=...``, in the units of the mass matrix, and ``rand_t=...`` once
    for each doubling that neither turned nor diverged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kinetic, self.doublings = 0.0, 0

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"].startswith("r_t="):
            self.kinetic += 0.5 * float(msg["value"].square().sum())
        elif msg["name"].startswith("rand_t="):
            self.doublings += 1


def _gather(model: SwitchedNetwork, loader: Loader) -> tuple[Any, Tensor]:
    """All examples of the loader as one batch on the model's device."""
    batches: list[tuple[Any, Tensor]] = []
    for batch in loader:
        inputs, targets = move_batch(batch, model.device)
        if places := check_batch(model, inputs, targets):
            raise NonFiniteError(f"batch {len(batches) + 1}: not finite: {', '.join(places)}")
        batches.append((inputs, targets))
    if not batches:
        raise DirpruneError("NUTS: the loader is empty, expected batches of (inputs, targets)")
    found = sum(len(targets) for _, targets in batches)
    if found != model.num_data:
        raise DirpruneError(
            f"the loader has {found} examples, but num_data is {model.num_data}: NUTS takes the "
            "likelihood of the whole training set; give a loader over all of it (drop_last=False), "
            "or a SwitchedNetwork with the num_data of this part"
        )
    return tree_map(lambda *x: torch.cat(x) if isinstance(x[0], Tensor) else x[0], *batches)


def _crc(tree: Any) -> int:
    """A checksum of all tensors in nested containers."""
    crc = 0
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor):
            data = leaf.detach().cpu().contiguous().flatten().view(torch.uint8)
            crc = zlib.crc32(data.numpy(), crc)
    return crc


@contextmanager
def _undisturbed(model: SwitchedNetwork) -> Iterator[None]:
    """Leave the caller's random state, parameter store and handlers as they are.

    Pyro's checks are off: a leapfrog step that diverges has infinities by design, and the data have
    been looked at.
    """
    with (
        torch.random.fork_rng([model.device] if model.device.type == "cuda" else []),
        pyro.get_param_store().scope(),
        poutine.block(),
        pyro.validation_enabled(False),
    ):
        yield


class LogStickBreaking(StickBreakingTransform):
    r"""Stick breaking from :math:`R^{K-1}` to the simplex, computed through logarithms.

    .. math::
        z_k = \sigma(x_k - \log(K - k)), \qquad
        \log y_k = \log z_k + \sum_{j<k} \log(1 - z_j), \qquad
        \log |\det J| = \sum_{k<K} \log y_k + \log(1 - z_k)

    torch's own transform, the default for a simplex, clamps z below 1 - 2e-16: the units after k
    together never have less. A Beta(3.02, .02) has half of its mass beyond that, and NUTS then
    gives :math:`E \log y` as -17 for -51.5, E y as twice what it is, without one divergence. Here
    the limit is the smallest float (2e-308), which the concentrations of practice do not reach.
    """

    def _sticks(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log z, log(1 - z), and the log of what is left before each of the K units."""
        units_after = torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device)
        logits = x - units_after.log()
        rest = logsigmoid(-logits)
        return logsigmoid(logits), rest, pad(rest.cumsum(-1), [1, 0])

    def _call(self, x: Tensor) -> Tensor:
        broken, _, left = self._sticks(x)
        return (pad(broken, [0, 1]) + left).exp().clamp(min=torch.finfo(x.dtype).tiny)

    def _inverse(self, y: Tensor) -> Tensor:
        # Sums from the end: 1 - (y_1 + ... + y_k) would cancel.
        after = y.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        units_after = torch.arange(after.shape[-1], 0, -1, dtype=y.dtype, device=y.device)
        return y[..., :-1].log() - after.log() + units_after.log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        broken, rest, left = self._sticks(x)
        return (broken + rest + left[..., :-1]).sum(-1)


def _transforms(model: SwitchedNetwork) -> dict[str, Transform]:
    """For each latent site the map from its support to the reals."""
    trace: Any = poutine.trace(model.sample_switches).get_trace()
    supports = {name: node["fn"].support for name, node in trace.iter_stochastic_nodes()}
    return {
        name: (LogStickBreaking() if support is constraints.simplex else biject_to(support)).inv
        for name, support in supports.items()
    }
