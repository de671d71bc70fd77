"""Structured probabilistic pruning: units have probabilities to go, which training moves."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.graph.channels import ChannelGraph
from ...model.surgery import cut, without_empty_layers
from ...model.switched import SwitchedNetwork
from ..loop import Loader, batches_in
from ..training import train
from .gibbs import check_ratio
from .layers import kept_units, silencing_masks
from .masked import MaskedNetwork
from .result import Pruned, gone_shares

A, U = 0.05, 0.25  # the largest increment, and where it bends; both from the paper


def increments(ranks: Tensor, gone: int) -> Tensor:
    r"""How much the probability of a group to go changes, by its rank r (0 has the least norm).

    .. math::
        \Delta(r) = \begin{cases} A e^{-a r} & r \le N \\
        2 u A - A e^{-a (2 N - r)} & r > N \end{cases}, \quad
        a = \frac{\ln 2 - \ln u}{R n}, \quad N = -\frac{\ln u}{a}

    It is symmetric about (N, u A) and zero at r = R n: the R n groups with the least norms rise,
    the others fall.

    >>> increments(torch.tensor([0, 8, 12]), 8).round(decimals=6).tolist()
    [0.05, 0.0, -0.045711]

    Args:
        ranks: of any shape.
        gone: R n, how many groups are to go; at least 1.
    """
    a = (math.log(2) - math.log(U)) / gone
    bend = -math.log(U) / a
    r = ranks.double()
    return torch.where(
        r <= bend, A * torch.exp(-a * r), 2 * U * A - A * torch.exp(-a * (2 * bend - r))
    )


def updates_needed(gone: int) -> int:
    """How many updates a site takes until ``gone`` units are sure to go, if ranks never change.

    >>> [updates_needed(gone) for gone in (1, 32, 250)]
    [20, 99, 150]
    """
    probability, updates = torch.zeros(gone, dtype=torch.float64), 0
    while len(probability):
        probability = probability + increments(torch.arange(len(probability)), len(probability))
        probability = probability[probability < 1]
        updates += 1
    return updates


def usual_interval(gone: Sequence[int], steps: int) -> int:
    """Steps between updates such that, if ranks never change, all sites are done half-way.

    At least 1: a short training updates at every step, and may still not be done at its end.

    Args:
        gone: of each site, how many units are to go.
        steps: of the whole training.
    """
    slowest = max((updates_needed(n) for n in gone), default=0)
    return max(1, steps // max(1, 2 * slowest))


def structured_probabilistic_pruning(
    model: SwitchedNetwork,
    loader: Loader,
    *,
    ratio: float = 0.5,
    interval: int | None = None,
    epochs: int,
    lr: float = 0.05,
    weight_decay: float = 5e-4,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Pruned:
    """Train a network while its units are masked at random, with probabilities that training moves.

    Every step draws anew which units are masked. Every ``interval`` steps the probabilities change
    by the units' ranks within their site (:func:`increments`). A unit that is sure to go is gone:
    the others are ranked without it, and one fewer is to go. When R n units of a site are gone, the
    others stay, and training goes on with these. A site whose probabilities have not come so far by
    the end loses the units that are likeliest to go: ``notes`` says of each site at which step it
    was done.

    The increments and the ranks by L1 norms are the paper's. Masks at every step, updates every few
    steps and ranks without the units that are gone are as in the authors' published code
    (``ProbPruneCol`` in ``src/caffe/layer.cpp`` of github.com/MingSun-Tse/Caffe_IncReg), which
    leaves the interval to its user. Three things are ours:

    - A group of the paper is a column of a convolution's weights, all that reads one input at one
      position. Here it is all that reads a unit, so that the unit can be removed: a unit's norm is
      the L1 norm of these weights, and they are what is masked.
    - Ranks are those of the mean norms over the interval's steps. The code takes the norms of the
      moment, to which it can add a decaying sum of the earlier ones.
    - The default interval follows the length of the training (:func:`usual_interval`).

    Source: Huan Wang, Qiming Zhang, Yuehai Wang, Haoji Hu, "Structured Probabilistic Pruning for
    Convolutional Neural Network Acceleration", 2018, arXiv 1709.06994.

    Args:
        model: says which units there are; its network is copied, and the training begins with its
            weights, which should be trained ones.
        loader: batches of (images, labels).
        ratio: R, the share of units that goes, the same in every site.
        interval: steps between updates of the probabilities; by default such that, if ranks never
            changed, all sites would be done half-way through the training.
        epochs: passes over the loader.
        lr, weight_decay, seed, checkpoint, resume, progress: as in ``train``.

    Returns:
        The smaller network.

    Raises:
        DirpruneError: a bad argument.
    """
    check_ratio(ratio)
    if not model.graph.nesting.is_flat:
        raise DirpruneError(
            "SPP takes the same share of every site, and features of a flattened channel go with "
            "their channel: give a model without flatten='features'"
        )
    if interval is None:
        gone = to_go(model.graph, ratio)
        interval = usual_interval(gone, epochs * batches_in(loader))
    elif interval < 1:
        raise DirpruneError(
            f"interval {interval}: expected the steps between updates, a whole number of at least 1"
        )
    masked = SppMasked(copy.deepcopy(model.network), model.graph, ratio, interval)
    losses = train(
        masked, loader, epochs=epochs, lr=lr, weight_decay=weight_decay, seed=seed,
        checkpoint=checkpoint, resume=resume, progress=progress,
    )  # fmt: skip
    whole = masked.masked()
    decision = Decision(
        kept_units(model.graph, masked.final()), {}, {"method": "spp", "ratio": ratio}
    )
    done = masked.done_at.tolist()
    network = cut(whole, model.graph, decision.kept)
    return Pruned(
        network, whole, decision, gone_shares(model.network, network), losses,
        {
            "interval": interval,
            "done_at_step": {
                site: step if step >= 0 else None
                for site, step in zip(model.graph.sites, done, strict=True)
            },
        },
    )  # fmt: skip


def to_go(graph: ChannelGraph, ratio: float) -> list[int]:
    """R n of each site: how many of its units go. One at least stays."""
    return [min(round(ratio * site.size), site.size - 1) for site in graph.sites.values()]


class SppMasked(MaskedNetwork):
    """A network under masks of structured probabilistic pruning.

    Args:
        network: trained in place.
        graph: of the network.
        ratio: R.
        interval: steps between updates of the probabilities.

    Attributes:
        probability: [units], of going.
        norm_sum: [units], of the norms at the steps since the last update.
        done_at: [sites], the step at which a site had lost all that it was to lose; -1 before.
    """

    probability: Tensor
    norm_sum: Tensor
    done_at: Tensor

    def __init__(
        self, network: nn.Module, graph: ChannelGraph, ratio: float, interval: int
    ) -> None:
        options = {"ratio": ratio, "interval": interval, "sites": list(graph.sites)}
        super().__init__(network, {"method": "spp", **options})
        self.graph, self.interval = graph, interval
        starts = graph.offsets
        self.units = [slice(start, start + graph.sites[n].size) for n, start in starts.items()]
        self.gone = to_go(graph, ratio)
        for name in ("probability", "norm_sum"):
            units = torch.zeros(graph.num_units, dtype=torch.float64)
            self.register_buffer(name, units.to(self.device))
        self.register_buffer("done_at", torch.full((len(graph.sites),), -1, device=self.device))

    def draw(self) -> dict[str, Tensor]:
        """See :class:`MaskedNetwork`."""
        self._advance()
        keep = torch.ones(self.graph.num_units + 1, dtype=torch.bool)
        probability = self.probability.cpu()
        keep[:-1] = torch.rand_like(probability) >= probability
        return silencing_masks(self.graph, keep, dict(self.network.named_parameters()))

    def settle(self) -> dict[str, Tensor]:
        """See :class:`MaskedNetwork`."""
        return silencing_masks(self.graph, self.final(), dict(self.network.named_parameters()))

    def final(self) -> Tensor:
        """The units that stay, as booleans, one more at the end, True.

        Of each site those that are likeliest to go are gone; where two are as likely, the one with
        the smaller norm. A layer that owns only some units of a site keeps one.
        """
        norms, probability = self.norms(), self.probability.cpu()
        keep = torch.ones(self.graph.num_units + 1, dtype=torch.bool)
        for units, gone in zip(self.units, self.gone, strict=True):
            by_norm = norms[units].argsort(stable=True)
            order = by_norm[(-probability[units])[by_norm].argsort(stable=True)]
            keep[units.start + order[:gone]] = False
        kept = without_empty_layers(self.graph, kept_units(self.graph, keep))
        return self.graph.keep_vector(kept)

    def norms(self) -> Tensor:
        """The L1 norm of all weights that read a unit: [units], float64."""
        total = torch.zeros(self.graph.num_units + 1, dtype=torch.float64)
        for consumer in self.graph.consumers:
            weight = self.network.get_parameter(consumer.weight).detach()
            columns = weight.movedim(consumer.axis, 0).flatten(1).abs().sum(1, dtype=torch.float64)
            total.index_add_(0, consumer.units % len(total), columns.cpu())
        return total[:-1]

    def _advance(self) -> None:
        if bool((self.done_at >= 0).all()):
            return
        self.norm_sum += self.norms().to(self.norm_sum)
        if (int(self.steps) + 1) % self.interval:
            return
        for site, (units, gone) in enumerate(zip(self.units, self.gone, strict=True)):
            if int(self.done_at[site]) >= 0:
                continue
            p = self.probability[units]
            left = gone - int((p >= 1).sum())
            if left:
                # Units that are sure to go stay so; the others are ranked without them.
                open_ = (p < 1).nonzero()[:, 0]
                ranks = self.norm_sum[units][open_].argsort(stable=True).argsort()
                p[open_] = (p[open_] + increments(ranks, left).to(p)).clamp(0, 1)
            if int((p >= 1).sum()) >= gone:
                p.copy_(p >= 1)
                self.done_at[site] = self.steps
        self.norm_sum.zero_()
