"""The decision of a run, and what it predicts of the pruned network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import arviz as az
import numpy as np
import xarray as xr
from torch import Tensor
from torch.utils.data import Subset

from ..analysis.decision.decide import decide
from ..analysis.decision.drop_budget import halves
from ..analysis.decision.predicted_accuracy import predict_accuracy
from ..analysis.decision.rounds import Rounds, prune_in_rounds
from ..analysis.evidence import evidence
from ..analysis.subnetworks.masks import keeps_all
from ..analysis.subnetworks.posterior import inclusion, subnetwork_posterior
from ..analysis.subnetworks.reselect import reselect
from ..analysis.subnetworks.search import refine
from ..analysis.tree import save_tree
from ..inference.data import ImageData, loader
from ..inference.loop import seed_of
from ..model.decision import Decision
from ..model.switched import SwitchedNetwork
from .parts import batches_of
from .settings import MAX_DROP, Settings


def decide_in_rounds(
    s: Settings, data: ImageData, model: SwitchedNetwork, tree: xr.DataTree, checkpoint: Path
) -> Rounds:
    """All rounds, of which the first reads the run's posterior; finished ones are not made again.

    Compensation sees images that are augmented as in training: batch norms were trained on the
    statistics of such.
    """
    budget: dict[str, Any] = dict(s.budget)
    return prune_in_rounds(
        model, batches_of(s, data, "train", shuffle=True), rounds=s.rounds, evidence=s.evidence,
        **budget, widths=s.widths, round_to=s.round_to, guide=s.guide,
        guide_options=s.guide_options, particles=s.particles, source=tree,
        compensate=s.compensate,
        compensation_loader=batches_of(s, data, "train", shuffle=True, augment=True),
        seed=seed_of([s.seed, 6]), checkpoint=checkpoint, resume=True,
    )  # fmt: skip


def decide_and_predict(
    s: Settings,
    data: ImageData,
    model: SwitchedNetwork,
    tree: xr.DataTree,
    timed: Tensor,
    folder: Path,
    in_rounds: Decision | None = None,
) -> Decision:
    """The units that stay, with the accuracy that is predicted of them among the settings.

    Both the loss that ``max_drop`` bounds and the predicted accuracy are those of the network as it
    is cut, before its batch norms are recalibrated and before it is fine-tuned. They are measured
    on validation images, which neither the posterior nor, under other budgets, the decision has
    seen; under ``max_drop`` the prediction is from the half that did not choose but confirm. Of a
    decision in rounds too it is the original that is cut, at once and without compensation.

    Args:
        s: budget, widths, criterion.
        data: test images are counted, not read.
        model: the switched network.
        tree: its posterior.
        timed: the batch whose latency a budget in latency is about.
        folder: gets ``subnetworks.nc`` where the decision is refined.
        in_rounds: what rounds have decided; None decides in one shot.
    """
    decision, found = in_rounds, None
    if decision is None:
        found = evidence(s.evidence, model, tree, batches_of(s, data, "train", shuffle=True))
        decision = decide(
            model, found, **s.budget, widths=s.widths, round_to=s.round_to, latency_inputs=timed,
            validation=batches_of(s, data, "validation"),
        )  # fmt: skip
    if s.refine:
        decision = _refine(s, data, model, decision, folder)
    if s.reselect and not keeps_all(model, decision):
        decision = reselect(
            model, decision, batches_of(s, data, "train", shuffle=True), sweeps=s.reselect,
            seed=seed_of([s.seed, 7]),
        )  # fmt: skip
    # Other masks are those of other draws in one shot: of rounds there are none.
    predicted = predict_accuracy(
        model, decision, tree, _unselected(s, data), evidence=found, new_images=len(data.test)
    )
    told = {"evidence": s.evidence, "predicted_accuracy": predicted.to_dict()}
    return Decision(decision.kept, decision.probability, {**decision.settings, **told})


def _refine(
    s: Settings, data: ImageData, model: SwitchedNetwork, decision: Decision, folder: Path
) -> Decision:
    """A better sub-network, with probabilities from the posterior over those like it.

    A decision that keeps every unit has none beside it.
    """
    if keeps_all(model, decision):
        return decision
    batches = batches_of(s, data, "train", shuffle=True)
    found = refine(model, decision, batches, steps=s.refine, seed=seed_of([s.seed, 7]))
    if not model.costs.nesting.is_flat:  # whose masks the sampler does not move in
        return found
    # A second chain begins where a search from random units of the same widths ended: chains that
    # begin together cannot show that there is another place.
    widths = {name: len(units) for name, units in found.kept.items()}
    scores = evidence("random", model, seed=seed_of([s.seed, 8]) % 2**31)
    other = refine(
        model, decide(model, scores, widths=widths), batches, steps=s.refine,
        seed=seed_of([s.seed, 9]),
    )  # fmt: skip
    tree = subnetwork_posterior(model, [found, other], batches, seed=seed_of([s.seed, 10]))
    save_tree(tree, folder / "subnetworks.nc")
    lp = np.asarray(tree["sample_stats"]["lp"])
    chains = {
        "rhat": float(az.rhat(lp)),
        "ess": float(az.ess(lp)),
        "log_density": lp.mean(1).tolist(),
    }
    settings = dict(found.settings)
    settings["refined"] = {**settings["refined"], "chains": chains}
    return Decision(found.kept, inclusion(tree), settings)


def _unselected(s: Settings, data: ImageData) -> Any:
    """Batches of the validation images that chose nothing."""
    if MAX_DROP not in s.budget:
        return batches_of(s, data, "validation")
    _, confirming = halves(len(data.validation))
    return loader(Subset(data.validation, confirming.tolist()), s.batch_size)
