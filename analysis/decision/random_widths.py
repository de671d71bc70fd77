"""Random channel pruning: random widths under a budget, of which the best is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import trange

from ...inference.batchnorm import recalibrate
from ...inference.evaluate import evaluate
from ...inference.loop import Loader, same_batches, seed_of
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.surgery import cut, without_empty_layers
from ...model.switched import SwitchedNetwork
from ..evidence import Scores
from ..evidence.switches import fixed_images
from .budget import full_cost, target, up
from .flat_scores import flat_scores
from .removal import site_units

HALVINGS = 50  # of the interval in which the power lies, far below what moves a width


def random_widths(
    model: SwitchedNetwork,
    evidence: Mapping[str, Scores] | Mapping[str, Tensor],
    loader: Loader,
    *,
    macs: float | None = None,
    params: float | None = None,
    candidates: int = 50,
    images: int = 512,
    recalibration_batches: int = 10,
    seed: int = 0,
) -> Decision:
    r"""Cut at many random widths within a budget, and keep the one that classifies best.

    It is the floor for methods that find widths. Each candidate draws :math:`u_l` uniformly from
    (0, 1) for every site and keeps :math:`\max(1, \lfloor K_l u_l^t + \frac12 \rfloor)` units, with
    the smallest power t >= 0 for which the cost is within the budget: Li et al. draw until one is,
    which with many sites hardly happens. Units are chosen within the site, by the evidence. The
    candidate is physically cut, its batch norms are recalibrated, and the accuracy is that on
    training images; the log likelihood parts equals. Nothing is trained.

    Source: Yawei Li, Kamil Adamczewski, Wen Li, Shuhang Gu, Radu Timofte, Luc Van Gool, "Revisiting
    Random Channel Pruning for Neural Network Compression", 2022, arXiv 2205.05676.

    Args:
        model: the switched network.
        evidence: site name -> scores, high = keep, as in ``decide``: the criterion inside. A site
            without evidence stays whole.
        loader: training images, for the accuracy and for batch norms.
        macs: the share of the network's multiply-adds that may be left, in (0, 1].
        params: the same for its parameters.
        candidates: how many.
        images: how many training images tell the best one.
        recalibration_batches: how many batches each recalibration reads.
        seed: of the widths and the images' order.

    Returns:
        The decision; ``settings`` has the accuracy of all candidates on the training images, in
        percent.

    Raises:
        DirpruneError: not exactly one budget, one that cannot be met, or evidence that does not
            fit.
    """
    budget = {k: v for k, v in {"macs": macs, "params": params}.items() if v is not None}
    if len(budget) != 1:
        raise DirpruneError(f"expected one budget of macs= or params=, got {len(budget)}")
    ((what, share),) = budget.items()
    if not 0 < share <= 1:
        raise DirpruneError(f"budget {what}={share}: expected a share in (0, 1]")
    for name, number in (("candidates", candidates), ("images", images)):
        if number < 1:
            raise DirpruneError(f"{name}: expected at least 1, got {number}")
    order = _best_first(model, evidence)
    generator = np.random.default_rng(seed_of([seed]))
    chosen = fixed_images(model, loader, images, seed)
    found: list[tuple[float, float]] = []
    best: dict[str, Tensor] = {}
    for _ in trange(candidates, desc="random widths", unit="cut", disable=None, leave=False):
        kept = _within(model, order, generator.uniform(size=len(order)), what, share)
        network = cut(model.network, model.graph, kept)
        with same_batches(loader, [seed, 1], model.device):  # the same for all
            recalibrate(network, loader, batches=recalibration_batches)
        result = evaluate(_Outputs(model, network), [chosen], model.device)
        found.append((result.percent, result.log_likelihood))
        if found[-1] == max(found):
            best = kept
    accuracies = [round(accuracy, 4) for accuracy, _ in found]
    return Decision(
        best, {},
        {"budget": budget, "widths": "random", "candidates": candidates, "seed": seed,
         "train_accuracies": accuracies},
    )  # fmt: skip


def _best_first(
    model: SwitchedNetwork, evidence: Mapping[str, Scores] | Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Of each site with evidence its units, best first, ties by index."""
    scores, _ = flat_scores(model.costs, evidence)
    if not evidence:
        raise DirpruneError("no evidence: there is nothing to choose units by")
    return {
        name: torch.from_numpy(np.argsort(-scores[units], kind="stable"))
        for name, units in zip(model.costs.sites, site_units(model.costs), strict=True)
        if name in evidence
    }


class _Outputs(nn.Module):
    """A network that was cut, with the outputs that ``output=`` picks from what it returns."""

    def __init__(self, model: SwitchedNetwork, network: nn.Module) -> None:
        super().__init__()
        self.network, self._model = network, (model,)  # a tuple: no part of it

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._model[0].picked(self.network(*args, **kwargs))


def _within(
    model: SwitchedNetwork,
    order: Mapping[str, Tensor],
    u: NDArray[np.float64],
    what: str,
    share: float,
) -> dict[str, Tensor]:
    """The units that stay at the smallest power that meets the budget."""
    table = model.costs
    allowed = target(what, share, full_cost(table, what))

    def keep(power: float) -> dict[str, Tensor]:
        widths = [
            max(1, int(len(units) * part**power + 0.5))
            for units, part in zip(order.values(), u, strict=True)
        ]
        kept = {
            name: units[:width].sort().values
            for (name, units), width in zip(order.items(), widths, strict=True)
        }
        return without_empty_layers(model.graph, kept)

    if table.total(what, keep(0.0)) <= allowed:
        return keep(0.0)
    # At the largest power every site with evidence has one unit, whatever was drawn.
    low, high = 0.0, 1e6
    if table.total(what, keep(high)) > allowed:
        least = up(table.total(what, keep(high)), full_cost(table, what))
        raise DirpruneError(
            f"budget {what}={share}: with one unit in each site at least {least} must stay"
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if table.total(what, keep(middle)) <= allowed:
            high = middle
        else:
            low = middle
    return keep(high)
