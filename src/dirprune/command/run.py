"""``dirprune run``: the stages of the whole job, each kept when it is finished."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from ..analysis.decision.decide import decide
from ..analysis.decision.latency_budget import check_latency
from ..analysis.decision.rounds import Rounds
from ..analysis.diagnostics import diagnose
from ..analysis.evidence import CRITERIA, evidence, parse_criterion, stored_evidence
from ..analysis.gains import mean_gains
from ..analysis.held_out import held_out
from ..analysis.null_control import null_control
from ..analysis.posterior import posterior
from ..analysis.report import write_report
from ..analysis.report.closeups_file import write_closeups
from ..analysis.tree import load_tree, save_tree
from ..guides import make_guide
from ..inference.compensation import compensate
from ..inference.evaluate import Accuracy, evaluate
from ..inference.fit import Fit, fit
from ..inference.latency import measure_latency
from ..inference.loop import seed_of
from ..inference.training import finetune
from ..model.decision import Decision
from ..model.errors import DirpruneError
from ..model.export import export
from ..model.networks import load_weights
from ..model.priors import make_prior
from ..model.storage import save
from ..model.surgery import prune
from ..model.switched import SwitchedNetwork
from ..model.writing import atomic_write
from .checks import HISTORY, METRICS, check_options
from .deciding import decide_and_predict, decide_in_rounds
from .job import TIMED, Job, do_job
from .parts import (
    batches_of,
    data_notes,
    new_network,
    read_data,
    train_network,
    usual_svi_epochs,
)
from .settings import BUDGETS, LATENCY, MAX_DROP, Settings, recipe
from .words import chance_warning, size_metrics, summary

# The default temperature makes the likelihood that of so many images: near the plain posterior for
# a small data set, and wide enough to rank units for a large one.
EFFECTIVE_IMAGES = 500
TOLD = ("accuracy", "macs", "params", "latency_ms", "sites", "network")  # in the summary


def run_job(settings: Settings, folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Run all stages into ``folder`` and print what came of it."""
    check_options(settings)
    metrics = do_job(_Job, settings, folder, TOLD, resume=resume, overwrite=overwrite)
    print(summary(metrics, folder))


class _Job(Job[Settings]):
    # -- the stages -------------------------------------------------------------------------------

    def run(self) -> None:
        s = self.settings
        self.metrics = {
            "network": s.network, "data": s.data, "budget": s.budget, "widths": s.widths,
            "evidence": s.evidence, "seed": s.seed, "settings": s.to_dict(), "warnings": [],
            "seconds": {}, "accuracy": {}, "accuracy_validation": {},
        }  # fmt: skip
        self._recall_seconds()
        self.data = self._stage("data", lambda: read_data(s))
        self.metrics["images"] = {
            part: len(getattr(self.data, part)) for part in ("train", "validation", "test")
        }
        network = self._stage("network", self._trained_network)
        self._measure("original", network)
        at_chance = chance_warning(self.metrics, self.data.num_classes, trained=s.weights is None)
        if at_chance is not None:
            self._warn(at_chance)
        model = self._stage("graph", lambda: self._switched(network))
        fitted = self._stage("svi", lambda: self._fit(model))
        tree = self._stage("posterior", lambda: self._posterior(model, fitted))
        found = self._stage("rounds", lambda: self._rounds(model, tree)) if s.rounds > 1 else None
        decision = self._stage("decision", lambda: self._decide(model, tree, found))
        if s.null_control:
            self._stage("null control", lambda: self._null_control(model, tree))
        for key in ("predicted_accuracy", MAX_DROP, "refined", "reselected"):
            if key in decision.settings:
                self.metrics[key] = decision.settings[key]
        pruned = prune(model, decision)
        self._measure("pruned", pruned)
        pruned = self._stage(
            "compensation", lambda: self._compensate(model, decision, pruned, tree, found)
        )
        pruned = self._stage("finetuning", lambda: self._finetune(pruned, network))
        example = (self.data.train[[0, 1]][0].to(self.device),)
        self.metrics |= size_metrics(model, decision, network, pruned, example)
        self._stage("latency", lambda: self._latency(decision, network, pruned))
        self._stage("export", lambda: self._export(pruned))
        self._stage("close-ups", lambda: write_closeups(
            self.folder, model, tree, decision, s.evidence, self.data
        ))  # fmt: skip
        # By these the report knows the file again.
        self.metrics["posterior"] = {
            "created_at": str(tree.attrs["created_at"]), "seed": int(tree.attrs["seed"])
        }  # fmt: skip
        self.metrics["versions"] = {
            str(key).removeprefix("version_"): value
            for key, value in tree.attrs.items()
            if str(key).startswith("version_")
        }
        self._write()
        self._stage("report", lambda: write_report(self.folder))
        self._write()
        shutil.rmtree(self.folder / "checkpoints")

    def _used[T](self, option: str, default: T) -> T:
        """The value of an option, or what is usual where the user said nothing; it is noted."""
        given = getattr(self.settings, option)
        value: T = default if given is None else given
        self.metrics["settings"][option] = value
        return value

    def _loader(self, part: str, *, shuffle: bool = False, augment: bool = False) -> Any:
        return batches_of(self.settings, self.data, part, shuffle=shuffle, augment=augment)

    def _trained_network(self) -> nn.Module:
        s = self.settings
        network = new_network(s, self.data).to(self.device)
        if s.weights is not None:
            load_weights(network, s.weights)
        # What cannot be pruned is refused before it is trained, and before anything is kept.
        model = self._switched(network.eval())
        if LATENCY in s.budget and not (self.folder / "original").exists():
            check_latency(
                model, s.budget[LATENCY], round_to=s.round_to or 1, inputs=self._timed_batch()
            )
        self.history["training"] = []
        if s.weights is None:
            epochs = self._used("train_epochs", recipe(s.data).train_epochs)
            self.history["training"] = train_network(
                s, self.data, network, epochs, self._checkpoint("training")
            )
        save(self.folder / "original", network, notes=self._notes())
        return network.eval()

    def _switched(self, network: nn.Module) -> SwitchedNetwork:
        s, data = self.settings, self.data
        example, images = data.train[[0, 1]][0].to(self.device), len(data.train)
        temperature = self._used("temperature", min(1.0, EFFECTIVE_IMAGES / images))
        model = SwitchedNetwork(
            network, example, num_data=images, prior=make_prior(s.prior), temperature=temperature,
            scaling=s.scaling, include=s.include, exclude=s.exclude,
            attention=s.attention, flatten=s.flatten,
        ).to(self.device)  # fmt: skip
        # What the guide refuses and an impossible budget are said now, before anything is learned.
        make_guide(s.guide, model, s.guide_options)
        if not CRITERIA[parse_criterion(s.evidence)[0]].reads:  # the network alone
            evidence(s.evidence, model, None)
        counted: dict[str, Any] = {
            what: share for what, share in s.budget.items() if what in BUDGETS
        }
        if counted or not s.budget:
            ones = {name: torch.ones(site.size) for name, site in model.sites.items()}
            decide(model, ones, **counted, widths=s.widths, round_to=s.round_to)
        return model

    def _fit(self, model: SwitchedNetwork) -> Fit:
        s = self.settings
        batches = self._loader("train", shuffle=True)
        fitted = fit(
            model, s.guide, batches,
            epochs=self._used("svi_epochs", usual_svi_epochs(len(batches))),
            restarts=s.restarts, particles=s.particles, seed=seed_of([s.seed, 2]),
            guide_options=s.guide_options,
            checkpoint=self._checkpoint("svi"), resume=True,
        )  # fmt: skip
        self.history["svi"] = fitted.history
        return fitted

    def _posterior(self, model: SwitchedNetwork, fitted: Fit) -> xr.DataTree:
        s = self.settings
        batches = self._loader("train", shuffle=True)
        path = self.folder / "posterior.nc"
        if not path.exists():
            tree = posterior(model, fitted, batches, seed=s.seed)
            predicted = held_out(model, fitted, self._loader("validation"), seed=s.seed)
            tree["validation"] = xr.DataTree(predicted)
            stored_evidence(tree, s.evidence, model, fitted, batches)
            save_tree(tree, path)
        tree = load_tree(path)
        self.metrics["diagnostics"] = diagnose(tree, self.history)
        return tree

    def _rounds(self, model: SwitchedNetwork, tree: xr.DataTree) -> Rounds:
        found = decide_in_rounds(self.settings, self.data, model, tree, self._checkpoint("rounds"))
        self.metrics["rounds"] = [one.to_dict() for one in found.rounds]
        return found

    def _decide(self, model: SwitchedNetwork, tree: xr.DataTree, found: Rounds | None) -> Decision:
        written = self.folder / "decision.json"
        if written.exists():  # of the run that is resumed: a latency is not measured twice alike
            return Decision.load(written)
        decision = decide_and_predict(
            self.settings, self.data, model, tree, self._timed_batch(), self.folder,
            None if found is None else found.decision,
        )  # fmt: skip
        decision.save(written)
        return decision

    def _null_control(self, model: SwitchedNetwork, tree: xr.DataTree) -> None:
        s = self.settings
        self.metrics["diagnostics"]["null_control"] = null_control(
            model, s.guide, self._loader("train", shuffle=True), self._loader("validation"),
            tree=tree, seed=seed_of([s.seed, 5]),
            epochs=self.metrics["settings"]["svi_epochs"], particles=s.particles,
            guide_options=s.guide_options, checkpoint=self._checkpoint("null"), resume=True,
        )  # fmt: skip

    def _compensate(
        self,
        model: SwitchedNetwork,
        decision: Decision,
        pruned: nn.Module,
        tree: xr.DataTree,
        found: Rounds | None,
    ) -> nn.Module:
        """What makes up for the units that went; after rounds, what did so in each of them."""
        for values in (self.metrics["accuracy"], self.metrics["accuracy_validation"]):
            values.update(compensated=None, finetuned=None)
        if found is None:
            # Augmented as in training: batch norms were trained on the statistics of such images.
            batches = self._loader("train", shuffle=True, augment=True)
            done = compensate(
                self.settings.compensate, model, decision, pruned, batches,
                gains=mean_gains(model, tree),
            )  # fmt: skip
            network, reports = done.network, done.reports
        else:
            network, reports = found.network, found.rounds[-1].compensation
        self.metrics["compensation"] = {name: asdict(report) for name, report in reports}
        if any(report.layers for _, report in reports):
            self._measure("compensated", network)
        return network

    def _finetune(self, pruned: nn.Module, original: nn.Module) -> nn.Module:
        s = self.settings
        batches = self._loader("train", shuffle=True, augment=True)
        epochs = self._used("finetune_epochs", recipe(s.data).finetune_epochs)
        self.history["finetuning"] = []
        if epochs:
            self.history["finetuning"] = finetune(
                pruned, batches, epochs=epochs, teacher=original if s.distill else None,
                seed=seed_of([s.seed, 4]), checkpoint=self._checkpoint("finetuning"), resume=True,
            )  # fmt: skip
            self._measure("finetuned", pruned)
        save(self.folder / "pruned", pruned, notes=self._notes())
        return pruned

    def _timed_batch(self) -> Tensor:
        images: Tensor = self.data.train[list(range(min(TIMED, len(self.data.train))))][0]
        return images.to(self.device)

    def _latency(self, decision: Decision, network: nn.Module, pruned: nn.Module) -> None:
        before, after = measure_latency([network, pruned], self._timed_batch())
        share = after.share_of(before)
        self.metrics |= {
            "latency_ms": {"before": before.median_ms, "after": after.median_ms},
            "latency_iqr_ms": {"before": before.iqr_ms, "after": after.iqr_ms},
            "latency_share": {"median": share.median, "low": share.low, "high": share.high},
            "latency_rounds": len(after.rounds_ms),
            "latency_batch": after.batch,
            "latency_threads": after.threads,
        }
        bound = self.settings.budget.get(LATENCY)
        if bound is None:
            return
        found = self.metrics["latency_budget"] = decision.settings["latency"]
        if share.median > bound:
            self._warn(
                f"the budget latency={bound} held when the units were chosen "
                f"({found['share']:.3f} of the original's latency), but measured again after "
                f"fine-tuning it is {share.median:.3f} (quartiles {share.low:.3f} to "
                f"{share.high:.3f}): the network is the same size, so the machine was not quiet"
            )

    def _export(self, pruned: nn.Module) -> None:
        example = self.data.train[[0, 1]][0].to(self.device)
        path = self.folder / "pruned.pt2"
        try:
            export(pruned, example, path, format="torch-export", notes=self._notes())
        except DirpruneError as error:  # pruned/ is there all the same
            self._warn(f"pruned.pt2 is missing: {error}")

    # -- figures ----------------------------------------------------------------------------------

    def _measure(self, stage: str, network: nn.Module) -> None:
        """Accuracy on validation and on test images; nothing later reads the latter."""
        for key, part in (("accuracy_validation", "validation"), ("accuracy", "test")):
            found: Accuracy = evaluate(network, self._loader(part))
            self.metrics[key][stage] = round(found.percent, 4)

    def _warn(self, message: str) -> None:
        print(f"dirprune: warning: {message}", file=sys.stderr)
        self.metrics["warnings"].append(message)

    # -- files ------------------------------------------------------------------------------------

    def _notes(self) -> dict[str, Any]:
        return data_notes(self.data)

    def _write(self) -> None:
        atomic_write(self.folder / METRICS, json.dumps(self.metrics, indent=1))
        atomic_write(self.folder / HISTORY, json.dumps(self.history))
