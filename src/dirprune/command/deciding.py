"""The decision of a run, and what it predicts of the pruned network."""

from __future__ import annotations

from typing import Any

import xarray as xr
from torch import Tensor
from torch.utils.data import Subset

from ..analysis.decision.decide import decide
from ..analysis.decision.drop_budget import halves
from ..analysis.decision.predicted_accuracy import predict_accuracy
from ..analysis.evidence import evidence
from ..inference.data import ImageData, loader
from ..model.decision import Decision
from ..model.switched import SwitchedNetwork
from .parts import batches_of
from .settings import MAX_DROP, Settings


def decide_and_predict(
    s: Settings, data: ImageData, model: SwitchedNetwork, tree: xr.DataTree, timed: Tensor
) -> Decision:
    """The units that stay, with the accuracy that is predicted of them among the settings.

    Both the loss that ``max_drop`` bounds and the predicted accuracy are those of the network as it
    is cut, before its batch norms are recalibrated and before it is fine-tuned. They are measured
    on validation images, which neither the posterior nor, under other budgets, the decision has
    seen; under ``max_drop`` the prediction is from the half that did not choose but confirm.

    Args:
        s: budget, widths, criterion.
        data: test images are counted, not read.
        model: the switched network.
        tree: its posterior.
        timed: the batch whose latency a budget in latency is about.
    """
    found = evidence(s.evidence, model, tree, batches_of(s, data, "train", shuffle=True))
    decision = decide(
        model, found, **s.budget, widths=s.widths, round_to=s.round_to, latency_inputs=timed,
        validation=batches_of(s, data, "validation"),
    )  # fmt: skip
    predicted = predict_accuracy(
        model, decision, tree, _unselected(s, data), evidence=found, new_images=len(data.test)
    )
    told = {"evidence": s.evidence, "predicted_accuracy": predicted.to_dict()}
    return Decision(decision.kept, decision.probability, {**decision.settings, **told})


def _unselected(s: Settings, data: ImageData) -> Any:
    """Batches of the validation images that chose nothing."""
    if MAX_DROP not in s.budget:
        return batches_of(s, data, "validation")
    _, confirming = halves(len(data.validation))
    return loader(Subset(data.validation, confirming.tolist()), s.batch_size)
