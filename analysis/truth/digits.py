"""A perceptron on the digits, trained and pruned to 6 and 5 units, with a long NUTS run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...inference.data import load_data, loader
from ...inference.fit import fit
from ...inference.sample import sample
from ...inference.training import finetune, train
from ...model.decision import Decision
from ...model.networks.mlp import MLP
from ...model.surgery import prune
from ...model.switched import SwitchedNetwork
from ..evidence import evidence
from .problem import Problem, frozen
from .references import DrawsReference

TRAINED, KEPT, BATCH = (24, 20), (6, 5), 128


def digits_mlp(*, draws: int = 1000, warmup: int = 500, chains: int = 4, seed: int = 0) -> Problem:
    """The switches of a tiny network that was pruned by them; nobody knows their evidence.

    An MLP 64 - 24 - 20 - 10 is trained on the digits, its units ranked by removal cost, all but 6
    and 5 removed, and the rest fine-tuned. The problem is the posterior of the 11 switches that are
    left given all training images; the reference is NUTS on the same model (minutes).

    Args:
        draws: of NUTS, per chain.
        warmup: steps of NUTS before them, per chain.
        chains: of NUTS.
        seed: of everything.
    """
    model, batches = pruned_network(seed)
    run = sample(model, batches, draws=draws, warmup=warmup, chains=chains, seed=seed)
    sites = {name: torch.stack([chain[name] for chain in run.draws]) for name in model.sites}
    return Problem("digits-mlp", model, batches, DrawsReference(sites))


def pruned_network(seed: int = 0) -> tuple[SwitchedNetwork, list[tuple[Any, Any]]]:
    """The pruned network with switches of its own, and its training images in batches."""
    data = load_data("digits").train
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: nn.Module = MLP(hidden=TRAINED)
    images = loader(data, 64, shuffle=True)
    train(network, images, epochs=10, seed=seed, progress=False)
    model = SwitchedNetwork(network, data[:2][0], num_data=len(data), temperature=0.01)
    fitted = fit(model, "dirichlet", images, epochs=10, seed=seed, progress=False)
    scores = evidence("removal-cost", model, fitted, images)
    kept = {
        name: found.scores.topk(number).indices
        for (name, found), number in zip(scores.items(), KEPT, strict=True)
    }
    network = prune(model, Decision(kept))
    finetune(network, images, epochs=20, seed=seed, progress=False)
    inputs, targets = data[:]
    inputs = inputs.double()
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    batches = [(inputs[rows], targets[rows]) for rows in order.split(BATCH)]
    return SwitchedNetwork(frozen(network), inputs[:2], num_data=len(targets)), batches
