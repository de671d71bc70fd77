"""Gibbs pruning: masks are drawn from an annealed Gibbs distribution while the network trains."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from ...model.decision import Decision
from ...model.errors import DirpruneError, unknown_name
from ...model.graph.channels import ChannelGraph
from ...model.surgery import cut
from ...model.switched import SwitchedNetwork
from ..loop import Loader, batches_in
from ..training import train
from .annealing import inverse_temperature
from .gibbs_structures import STRUCTURES
from .layers import kept_units, living_units, silencing_masks, weight_layers
from .masked import MaskedNetwork
from .result import Pruned, gone_shares


def gibbs_pruning(
    model: SwitchedNetwork,
    loader: Loader,
    *,
    structure: str = "filter",
    ratio: float = 0.9,
    layers: Sequence[str] | None = None,
    epochs: int,
    lr: float = 0.05,
    weight_decay: float = 5e-4,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Pruned:
    r"""Train a network and prune it at once, by masks from an annealed Gibbs distribution.

    .. math::
        p(x) \propto e^{-\beta H(x)}, \quad H(x) = x^\top A x + b^\top x, \quad b = Q_p - w^2

    over the weights of a layer, with :math:`x_i \in \{-1, +1\}` and the mask (x + 1)/2. Q_p is the
    p-quantile of the layer's squared weights, or of their means over kernels or filters, and A
    couples the weights of a kernel or a filter (:mod:`.gibbs_structures`). Every forward pass
    draws a mask; beta rises geometrically over the first 64 % of the training. At the end the
    layer is cut at Q_p. There is no fine-tuning.

    "unstructured" and "kernel" leave zeros in a network of full size: it is no smaller and no
    faster. "filter" masks the weights that make an output channel: a unit of the channel graph, or
    one of its layers' part in it. Where all of a unit's layers mask it, nothing reads it any more,
    in training too, and it is physically removed at the end. So the constant that a bias or a batch
    norm makes of a masked filter goes with it, which the paper's networks keep.

    Source: Alex Labach, Shahrokh Valaee, "A Framework For Neural Network Pruning Using Gibbs
    Distributions", 2020, arXiv 2006.04981. The optimiser is that of
    :func:`~dirprune.inference.training.train` instead of the paper's Adam.

    Args:
        model: says which layers and units there are; its network is copied, and the training begins
            with its weights.
        loader: batches of (images, labels).
        structure: "unstructured", "kernel" or "filter".
        ratio: p, the share that goes, the same in every layer.
        layers: convolutions and linear layers to prune; by default all of
            :func:`~.layers.weight_layers` but the first, which the authors leave whole.
        epochs: passes over the loader.
        lr, weight_decay, seed, checkpoint, resume, progress: as in ``train``.

    Returns:
        The network, cut.

    Raises:
        DirpruneError: a bad argument, or no layer to prune.
    """
    if structure not in STRUCTURES:
        raise unknown_name("structure", structure, STRUCTURES)
    check_ratio(ratio)
    chosen = gibbs_layers(model, layers)
    masked = GibbsMasked(
        copy.deepcopy(model.network), model.graph, chosen, structure, ratio,
        epochs * batches_in(loader),
    )  # fmt: skip
    losses = train(
        masked, loader, epochs=epochs, lr=lr, weight_decay=weight_decay, seed=seed,
        checkpoint=checkpoint, resume=resume, progress=progress,
    )  # fmt: skip
    whole = masked.masked()
    decision, network = None, whole
    if STRUCTURES[structure].whole_units:
        kept = kept_units(model.graph, living_units(model.graph, masked.final()))
        decision = Decision(kept, {}, {"method": "gibbs", "structure": structure, "ratio": ratio})
        network = cut(whole, model.graph, decision.kept)
    return Pruned(network, whole, decision, gone_shares(model.network, network), losses)


def gibbs_layers(model: SwitchedNetwork, layers: Sequence[str] | None = None) -> list[str]:
    """The layers that are pruned: those given, by default all but the first.

    Raises:
        DirpruneError: a layer that cannot be pruned, or none at all.
    """
    known = weight_layers(model.network, model.graph)
    chosen = known[1:] if layers is None else list(layers)
    for layer in chosen:
        if layer not in known:
            raise unknown_name("layer to prune", layer, known)
    if not chosen:
        raise DirpruneError(
            "Gibbs pruning leaves the first layer whole, and there is no other to prune: name the "
            f"layers (it has {', '.join(known) or 'none'})"
        )
    return chosen


def check_ratio(ratio: float) -> None:
    """Refuse what is no share."""
    if not 0 < ratio < 1:
        raise DirpruneError(f"ratio={ratio}: expected the share that goes, between 0 and 1")


class GibbsMasked(MaskedNetwork):
    """A network under masks of Gibbs pruning.

    Args:
        network: trained in place.
        graph: of the network.
        layers: those with masks.
        structure: a name of ``STRUCTURES``.
        ratio: p.
        total: the steps of the whole training.
    """

    def __init__(
        self,
        network: nn.Module,
        graph: ChannelGraph,
        layers: Sequence[str],
        structure: str,
        ratio: float,
        total: int,
    ) -> None:
        options = {"structure": structure, "ratio": ratio, "layers": list(layers)}
        super().__init__(network, {"method": "gibbs", **options})
        self.graph, self.layers, self.total = graph, list(layers), total
        self.structure, self.ratio = STRUCTURES[structure], ratio

    @property
    def beta(self) -> float:
        """The inverse temperature of the next step."""
        return inverse_temperature(int(self.steps), self.total, *self.structure.betas)

    def draw(self) -> dict[str, Tensor]:
        """See :class:`MaskedNetwork`."""
        beta = self.beta
        return self._with_readers(
            {
                name: self.structure.draw(squares, self.ratio, beta)
                for name, squares in self._squares().items()
            }
        )

    def final(self) -> dict[str, Tensor]:
        """The cut of each layer's own weights."""
        return {
            name: self.structure.cut(squares, self.ratio).to(squares.dtype)
            for name, squares in self._squares().items()
        }

    def settle(self) -> dict[str, Tensor]:
        """See :class:`MaskedNetwork`."""
        return self._with_readers(self.final())

    def _squares(self) -> dict[str, Tensor]:
        """Squared weights, [filters, channels, positions]."""
        weights = {
            name: self.network.get_parameter(name)
            for name in (f"{layer}.weight" for layer in self.layers)
        }
        return {
            name: weight.detach().square().reshape(*weight.shape[:2], -1)
            for name, weight in weights.items()
        }

    def _with_readers(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """The masks in the weights' shapes, and those of the weights that read dead units."""
        parameters = dict(self.network.named_parameters())
        shaped = {name: mask.view_as(parameters[name]) for name, mask in masks.items()}
        if self.structure.whole_units:
            alive = living_units(self.graph, shaped)
            for name, mask in silencing_masks(self.graph, alive, parameters).items():
                shaped[name] = shaped[name] * mask if name in shaped else mask
        return shaped
