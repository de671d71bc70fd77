"""``dirprune run``: the stages of the whole job, each kept when it is finished."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import nn

from ..analysis.decide import decide
from ..analysis.diagnostics import diagnose
from ..analysis.evidence import evidence
from ..analysis.held_out import held_out
from ..analysis.null_control import null_control
from ..analysis.posterior import posterior
from ..analysis.report import write_report
from ..analysis.tree import load_tree, save_tree
from ..guides import make_guide
from ..inference.batchnorm import recalibrate
from ..inference.evaluate import Accuracy, evaluate
from ..inference.fit import Fit, fit
from ..inference.latency import measure_latency
from ..inference.loop import seed_of
from ..inference.training import finetune
from ..model.cost import count_macs, count_params
from ..model.decision import Decision
from ..model.networks import load_weights
from ..model.priors import make_prior
from ..model.storage import save
from ..model.surgery import prune
from ..model.switched import SwitchedNetwork
from ..model.writing import atomic_write
from .checks import (
    HISTORY,
    METRICS,
    check_options,
    claim_folder,
    find_device,
    hold_folder,
    tidy_after_refusal,
)
from .export import export_program
from .parts import (
    batches_of,
    data_notes,
    new_network,
    read_data,
    train_network,
    usual_svi_epochs,
)
from .settings import Settings, recipe

# The default temperature makes the likelihood that of so many images: near the plain posterior for
# a small data set, and wide enough to rank units for a large one.
EFFECTIVE_IMAGES = 500


def run_job(settings: Settings, folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Run all stages into ``folder`` and print what came of it."""
    check_options(settings)
    device = find_device(settings.device)
    with hold_folder(folder):
        claim_folder(folder, settings, resume=resume, overwrite=overwrite)
        job = _Job(settings, folder, device)
        finished = folder / METRICS
        if resume and finished.exists() and not (folder / "checkpoints").exists():
            job.metrics = json.loads(finished.read_text())
        else:
            with tidy_after_refusal(folder):
                job.run()
    print(job.summary())


@dataclass
class _Job:
    settings: Settings
    folder: Path
    device: torch.device
    metrics: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[Any]] = field(default_factory=dict)

    # -- the stages -------------------------------------------------------------------------------

    def run(self) -> None:
        s = self.settings
        self.metrics = {
            "network": s.network, "data": s.data, "budget": s.budget, "evidence": s.evidence,
            "seed": s.seed, "settings": s.to_dict(), "warnings": [], "seconds": {},
            "accuracy": {}, "accuracy_validation": {},
        }  # fmt: skip
        earlier = self._checkpoint("seconds")  # of the run that is resumed
        if earlier.exists():
            self.metrics["seconds"] = json.loads(earlier.read_text())
        self.data = self._stage("data", lambda: read_data(s))
        self.metrics["images"] = {
            part: len(getattr(self.data, part)) for part in ("train", "validation", "test")
        }
        network = self._stage("network", self._trained_network)
        self._measure("original", network)
        self._warn_at_chance()
        model = self._stage("graph", lambda: self._switched(network))
        fitted = self._stage("svi", lambda: self._fit(model))
        decision = self._stage("posterior", lambda: self._decide(model, fitted))
        if s.null_control:
            self._stage("null control", lambda: self._null_control(model))
        pruned = prune(model, decision)
        self._measure("pruned", pruned)
        pruned = self._stage("finetuning", lambda: self._finetune(pruned, network))
        self._sizes(model, decision, network, pruned)
        self._stage("latency", lambda: self._latency(network, pruned))
        self._stage("export", lambda: self._export(pruned))
        tree = load_tree(self.folder / "posterior.nc")
        self.metrics["versions"] = {
            str(key).removeprefix("version_"): value
            for key, value in tree.attrs.items()
            if str(key).startswith("version_")
        }
        self._write()
        self._stage("report", lambda: write_report(self.folder))
        self._write()
        shutil.rmtree(self.folder / "checkpoints")

    def _stage[T](self, name: str, work: Callable[[], T]) -> T:
        """Run a stage, say so on a terminal, and note its time."""
        if sys.stderr.isatty():
            print(f"{name} ...", file=sys.stderr)
        started = time.perf_counter()
        result = work()
        seconds = self.metrics["seconds"]
        seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - started, 3)
        atomic_write(self._checkpoint("seconds"), json.dumps(seconds))
        return result

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
        self._switched(network.eval())
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
        ).to(self.device)  # fmt: skip
        # What the guide refuses and an impossible budget are said now, before anything is learned.
        make_guide(s.guide, model, s.guide_options)
        decide(model, {n: torch.ones(site.size) for n, site in model.sites.items()}, **s.budget)
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

    def _decide(self, model: SwitchedNetwork, fitted: Fit) -> Decision:
        s = self.settings
        batches = self._loader("train", shuffle=True)
        path = self.folder / "posterior.nc"
        if not path.exists():
            tree = posterior(model, fitted, batches, seed=s.seed)
            predicted = held_out(model, fitted, self._loader("validation"), seed=s.seed)
            tree["validation"] = xr.DataTree(predicted)
            save_tree(tree, path)
        tree = load_tree(path)
        self.metrics["diagnostics"] = diagnose(tree, self.history)
        decision = decide(model, evidence(s.evidence, model, tree, batches), **s.budget)
        decision = Decision(
            decision.kept, decision.probability, {**decision.settings, "evidence": s.evidence}
        )
        decision.save(self.folder / "decision.json")
        return decision

    def _null_control(self, model: SwitchedNetwork) -> None:
        s = self.settings
        self.metrics["diagnostics"]["null_control"] = null_control(
            model, s.guide, self._loader("train", shuffle=True), self._loader("validation"),
            tree=load_tree(self.folder / "posterior.nc"), seed=seed_of([s.seed, 5]),
            epochs=self.metrics["settings"]["svi_epochs"], particles=s.particles,
            guide_options=s.guide_options, checkpoint=self._checkpoint("null"), resume=True,
        )  # fmt: skip

    def _finetune(self, pruned: nn.Module, original: nn.Module) -> nn.Module:
        s = self.settings
        accuracy = self.metrics["accuracy"], self.metrics["accuracy_validation"]
        batches = self._loader("train", shuffle=True, augment=True)
        for values in accuracy:
            values.update(recalibrated=None, finetuned=None)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed_of([s.seed, 3]))
            if recalibrate(pruned, self._loader("train", shuffle=True)):
                self._measure("recalibrated", pruned)
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

    def _latency(self, network: nn.Module, pruned: nn.Module) -> None:
        batch = self.data.test[list(range(min(128, len(self.data.test))))][0].to(self.device)
        before, after = measure_latency(network, batch), measure_latency(pruned, batch)
        self.metrics["latency_ms"] = {"before": before.median_ms, "after": after.median_ms}
        self.metrics["latency_iqr_ms"] = {"before": before.iqr_ms, "after": after.iqr_ms}
        self.metrics["latency_batch"] = len(batch)

    def _export(self, pruned: nn.Module) -> None:
        example = self.data.train[[0, 1]][0].to(self.device)
        export_program(pruned, example, self.folder / "pruned.pt2")

    # -- figures ----------------------------------------------------------------------------------

    def _measure(self, stage: str, network: nn.Module) -> None:
        """Accuracy on validation and on test images; nothing later reads the latter."""
        for key, part in (("accuracy_validation", "validation"), ("accuracy", "test")):
            found: Accuracy = evaluate(network, self._loader(part))
            self.metrics[key][stage] = round(found.percent, 4)

    def _warn_at_chance(self) -> None:
        accuracy = self.metrics["accuracy_validation"]["original"]
        chance, images = 100 / self.data.num_classes, len(self.data.validation)
        error = math.sqrt(chance * (100 - chance) / images)
        if accuracy < chance + 3 * error:
            self._warn(
                f"the network classifies {accuracy:.1f} % of {images} validation images correctly, "
                f"which cannot be told from chance ({chance:.1f} %, standard error {error:.1f}): "
                + (
                    "too few --train-epochs, or too few images"
                    if self.settings.weights is None
                    else "are --mean, --std and --size those that the weights were trained with?"
                )
                + " What follows says nothing about a trained network"
            )

    def _warn(self, message: str) -> None:
        print(f"dirprune: warning: {message}", file=sys.stderr)
        self.metrics["warnings"].append(message)

    def _sizes(
        self, model: SwitchedNetwork, decision: Decision, network: nn.Module, pruned: nn.Module
    ) -> None:
        example = (self.data.train[[0, 1]][0].to(self.device),)
        self.metrics["macs"] = {
            "before": count_macs(network, example), "after": count_macs(pruned, example)
        }  # fmt: skip
        self.metrics["params"] = {"before": count_params(network), "after": count_params(pruned)}
        self.metrics["sites"] = [
            {
                "name": site.name, "units": site.size, "kept": len(decision.kept[site.name]),
                "producers": list(site.producers), "consumers": list(site.consumers),
            }
            for site in model.sites.values()
        ]  # fmt: skip
        self.metrics["unprunable"] = dict(model.unprunable)

    # -- files ------------------------------------------------------------------------------------

    def _checkpoint(self, stage: str) -> Path:
        return self.folder / "checkpoints" / stage

    def _notes(self) -> dict[str, Any]:
        return data_notes(self.data)

    def _write(self) -> None:
        atomic_write(self.folder / METRICS, json.dumps(self.metrics, indent=1))
        atomic_write(self.folder / HISTORY, json.dumps(self.history))

    def summary(self) -> str:
        m = self.metrics
        accuracy = ", ".join(
            f"{stage} {value:.2f} %" for stage, value in m["accuracy"].items() if value is not None
        )
        shares = ", ".join(
            f"{what} {m[key]['before']:,} -> {m[key]['after']:,} "
            f"({100 * m[key]['after'] / m[key]['before']:.1f} %)"
            for what, key in (("MACs", "macs"), ("parameters", "params"))
        )
        widths = ", ".join(f"{s['name']} {s['units']} -> {s['kept']}" for s in m["sites"][:8])
        more = f" and {len(m['sites']) - 8} more" if len(m["sites"]) > 8 else ""
        return "\n".join(
            [
                f"test accuracy: {accuracy}",
                shares,
                f"widths: {widths}{more}",
                f"report: {self.folder / 'report.html'}",
            ]
        )
