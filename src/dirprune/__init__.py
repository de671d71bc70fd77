"""Prune a trained network by Dirichlet switches, with the posterior of every decision on show.

The public names are imported when first used (PEP 562): torch, Pyro and ArviZ take seconds to
import, and ``dirprune --help`` should not wait for them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .analysis.class_effects import class_effects
    from .analysis.decision.decide import decide
    from .analysis.decision.predicted_accuracy import predict_accuracy
    from .analysis.decision.rounds import prune_in_rounds
    from .analysis.decision.threshold import keep_above
    from .analysis.diagnostics import swap_calibration
    from .analysis.evidence import Scores, evidence
    from .analysis.posterior import posterior
    from .analysis.prior_predictive import prior_predictive
    from .analysis.subnetworks.posterior import subnetwork_posterior
    from .analysis.subnetworks.reselect import reselect
    from .analysis.subnetworks.search import refine
    from .guides import (
        AutoDirichlet,
        AutoGeneralizedDirichlet,
        AutoLogisticNormal,
        AutoLowRankLogisticNormal,
        SwitchGuide,
    )
    from .inference.compensation import compensate
    from .inference.data import load_data, loader
    from .inference.evaluate import evaluate
    from .inference.fit import Fit, fit
    from .inference.sample import sample
    from .inference.training import finetune, train
    from .model.decision import Decision
    from .model.errors import DirpruneError
    from .model.export import Exported, export
    from .model.graph import register_rule
    from .model.networks import build_network, load_weights
    from .model.resizing import register_resizer
    from .model.sites import Site
    from .model.storage import load, save
    from .model.surgery import mask, prune
    from .model.switched import SwitchedNetwork

    __version__: str

__all__ = [
    "AutoDirichlet",
    "AutoGeneralizedDirichlet",
    "AutoLogisticNormal",
    "AutoLowRankLogisticNormal",
    "Decision",
    "DirpruneError",
    "Exported",
    "Fit",
    "Scores",
    "Site",
    "SwitchGuide",
    "SwitchedNetwork",
    "__version__",
    "build_network",
    "class_effects",
    "compensate",
    "decide",
    "evaluate",
    "evidence",
    "export",
    "finetune",
    "fit",
    "keep_above",
    "load",
    "load_data",
    "load_weights",
    "loader",
    "mask",
    "posterior",
    "predict_accuracy",
    "prior_predictive",
    "prune",
    "prune_in_rounds",
    "refine",
    "register_resizer",
    "register_rule",
    "reselect",
    "sample",
    "save",
    "subnetwork_posterior",
    "swap_calibration",
    "train",
]

# Where each name lives. The three lists of this file are written out because type checkers read the
# first two without running anything; a test compares them.
_HOME = {
    "AutoDirichlet": "guides",
    "AutoGeneralizedDirichlet": "guides",
    "AutoLogisticNormal": "guides",
    "AutoLowRankLogisticNormal": "guides",
    "Decision": "model.decision",
    "DirpruneError": "model.errors",
    "Exported": "model.export",
    "Fit": "inference.fit",
    "Scores": "analysis.evidence",
    "Site": "model.sites",
    "SwitchGuide": "guides",
    "SwitchedNetwork": "model.switched",
    "build_network": "model.networks",
    "class_effects": "analysis.class_effects",
    "compensate": "inference.compensation",
    "decide": "analysis.decision.decide",
    "evaluate": "inference.evaluate",
    "evidence": "analysis.evidence",
    "export": "model.export",
    "finetune": "inference.training",
    "fit": "inference.fit",
    "keep_above": "analysis.decision.threshold",
    "load": "model.storage",
    "load_data": "inference.data",
    "load_weights": "model.networks",
    "loader": "inference.data",
    "mask": "model.surgery",
    "posterior": "analysis.posterior",
    "predict_accuracy": "analysis.decision.predicted_accuracy",
    "prior_predictive": "analysis.prior_predictive",
    "prune": "model.surgery",
    "prune_in_rounds": "analysis.decision.rounds",
    "refine": "analysis.subnetworks.search",
    "register_resizer": "model.resizing",
    "register_rule": "model.graph",
    "reselect": "analysis.subnetworks.reselect",
    "sample": "inference.sample",
    "save": "model.storage",
    "subnetwork_posterior": "analysis.subnetworks.posterior",
    "swap_calibration": "analysis.diagnostics",
    "train": "inference.training",
}


def _import(name: str) -> object:
    """Import the public name ``name`` and keep it, so that this is asked once for each."""
    value: object
    if name == "__version__":
        from importlib.metadata import version

        value = version("dirprune")
    elif name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker that saw it would take any name, misspelt ones too
    __getattr__ = _import


def __dir__() -> list[str]:
    """Name what can be had, imported already or not (for completion in a shell)."""
    return sorted({*globals(), *__all__})
