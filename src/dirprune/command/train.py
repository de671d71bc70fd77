"""``dirprune train``: a method that prunes while it trains, and what came of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..analysis.posterior import package_versions
from ..inference.batchnorm import recalibrate
from ..inference.data import ImageData
from ..inference.evaluate import evaluate
from ..inference.latency import measure_latency
from ..inference.loop import seed_of
from ..inference.train_time import (
    STRUCTURES,
    Pruned,
    gibbs_layers,
    gibbs_pruning,
    structured_probabilistic_pruning,
    weight_layers,
)
from ..model.cost import count_macs, count_params
from ..model.errors import DirpruneError, unknown_name
from ..model.networks import is_own, load_weights
from ..model.reasons import few
from ..model.storage import save
from ..model.switched import SwitchedNetwork
from ..model.writing import atomic_write
from .checks import HISTORY, METRICS, check_numbers, check_shared
from .job import TIMED, Job, do_job
from .parts import batches_of, data_notes, load_line, new_network, read_data, train_network
from .settings import recipe
from .train_settings import TrainSettings

RATIOS = {"gibbs": 0.9, "spp": 0.5}  # the methods, and what goes where nothing is said
# What the summary tells.
TOLD = ("accuracy", "macs", "params", "sparsity", "trained", "settings", "notes", "network")


def train_job(settings: TrainSettings, folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Train and prune into ``folder``, and print what came of it."""
    check_train_options(settings)
    metrics = do_job(_TrainJob, settings, folder, TOLD, resume=resume, overwrite=overwrite)
    print(train_summary(metrics, folder))


def check_train_options(s: TrainSettings) -> None:
    """Refuse unknown names and bad numbers before anything takes time."""
    if s.method not in RATIOS:
        raise unknown_name("method", s.method, RATIOS)
    if s.structure is not None and s.method != "gibbs":
        raise DirpruneError(
            f"--structure {s.structure} is for --method gibbs: {s.method} removes units"
        )
    if s.structure is not None and s.structure not in STRUCTURES:
        raise unknown_name("structure", s.structure, STRUCTURES)
    if s.ratio is not None and not 0 < s.ratio < 1:
        raise DirpruneError(f"--ratio {s.ratio}: expected the share that goes, between 0 and 1")
    check_numbers(s, epochs=1, train_epochs=0, batch_size=1)
    check_shared(s)
    if s.weights is not None and s.train_epochs:
        raise DirpruneError(
            f"--weights with --train-epochs {s.train_epochs}: --train-epochs are of the training "
            "before the method, which weights stand for; --epochs are the method's own"
        )


class _TrainJob(Job[TrainSettings]):
    def run(self) -> None:
        s = self.settings
        usual = recipe(s.data).train_epochs
        before = 0 if s.method == "gibbs" or s.weights is not None else usual
        used: dict[str, Any] = {
            "ratio": RATIOS[s.method] if s.ratio is None else s.ratio,
            "epochs": usual if s.epochs is None else s.epochs,
            "train_epochs": before if s.train_epochs is None else s.train_epochs,
        }
        if s.method == "gibbs":
            used["structure"] = s.structure or "filter"
        self.metrics = {
            "method": s.method, "structure": used.get("structure"), "network": s.network,
            "data": s.data, "seed": s.seed, "settings": {**s.to_dict(), **used}, "seconds": {},
            "accuracy": {}, "accuracy_validation": {},
        }  # fmt: skip
        self._recall_seconds()
        data = self._stage("data", lambda: read_data(s))
        self.metrics["images"] = {
            part: len(getattr(data, part)) for part in ("train", "validation", "test")
        }
        network, model = self._stage("network", lambda: self._network(data, used["train_epochs"]))
        self.metrics["trained"] = s.weights is not None or used["train_epochs"] > 0
        self._measure("original", network, data)
        found = self._stage("pruning", lambda: self._prune(model, data, used))
        self.history["pruning"] = list(found.losses)
        self._measure("pruned", found.network, data)
        self._recalibrate(found.network, data)
        self._tell_size(network, found, model, data)
        self._stage("latency", lambda: self._latency(network, found.network, data))
        if found.decision is not None:
            found.decision.save(self.folder / "decision.json")
        save(self.folder / "pruned", found.network, notes=data_notes(data))
        self.metrics["versions"] = package_versions()
        atomic_write(self.folder / HISTORY, json.dumps(self.history))
        atomic_write(self.folder / METRICS, json.dumps(self.metrics, indent=1))
        shutil.rmtree(self.folder / "checkpoints")

    def _network(self, data: ImageData, epochs: int) -> tuple[nn.Module, SwitchedNetwork]:
        """The network that the method begins with."""
        s = self.settings
        network = new_network(s, data).to(self.device)
        if s.weights is not None:
            load_weights(network, s.weights)
        # What cannot be pruned is refused before it is trained, and before anything is kept.
        model = SwitchedNetwork(
            network.eval(), data.train[[0, 1]][0].to(self.device), num_data=len(data.train),
            include=s.include, exclude=s.exclude, attention=s.attention,
        ).to(self.device)  # fmt: skip
        if s.method == "gibbs":
            gibbs_layers(model, self._layers(model))
        self.history["training"] = train_network(
            s, data, network, epochs, self._checkpoint("training")
        )
        save(self.folder / "original", network, notes=data_notes(data))
        return network.eval(), model

    def _prune(self, model: SwitchedNetwork, data: ImageData, used: Mapping[str, Any]) -> Pruned:
        s = self.settings
        batches = batches_of(s, data, "train", shuffle=True, augment=True)
        options: dict[str, Any] = {
            "ratio": used["ratio"], "epochs": used["epochs"], "seed": seed_of([s.seed, 2]),
            "checkpoint": self._checkpoint("pruning"), "resume": True,
        }  # fmt: skip
        if s.method == "spp":
            return structured_probabilistic_pruning(model, batches, **options)
        return gibbs_pruning(
            model, batches, structure=used["structure"], layers=self._layers(model), **options
        )

    def _layers(self, model: SwitchedNetwork) -> list[str] | None:
        """The layers that gibbs prunes: those of the sites that the user names, the first too."""
        return weight_layers(model.network, model.graph) if self.settings.include else None

    def _recalibrate(self, network: nn.Module, data: ImageData) -> None:
        """Batch norms have seen the masks of the whole training: let them see what is left."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed_of([self.settings.seed, 3]))
            if recalibrate(
                network, batches_of(self.settings, data, "train", shuffle=True, augment=True)
            ):
                self._measure("recalibrated", network, data)

    def _tell_size(
        self, network: nn.Module, found: Pruned, model: SwitchedNetwork, data: ImageData
    ) -> None:
        example = (data.train[[0, 1]][0].to(self.device),)
        after = found.network
        left = sum(int(p.count_nonzero()) for p in after.parameters())
        self.metrics |= {
            "macs": {"before": count_macs(network, example), "after": count_macs(after, example)},
            "params": {"before": count_params(network), "after": count_params(after)},
            "params_nonzero": {"after": left},
            "sparsity": {
                "layers": {k: round(v, 6) for k, v in found.sparsity.items()},
                "network": round(1 - left / count_params(network), 6),
            },
            "sites": [
                {
                    "name": site.name, "units": site.size,
                    "kept": len(found.decision.kept[site.name]) if found.decision else site.size,
                }
                for site in model.sites.values()
            ],
            "notes": dict(found.notes),
        }  # fmt: skip

    def _latency(self, network: nn.Module, pruned: nn.Module, data: ImageData) -> None:
        images = data.train[list(range(min(TIMED, len(data.train))))][0].to(self.device)
        before, after = measure_latency([network, pruned], images)
        self.metrics["latency_ms"] = {"before": before.median_ms, "after": after.median_ms}

    def _measure(self, stage: str, network: nn.Module, data: ImageData) -> None:
        """Accuracy on validation and on test images; nothing later reads either."""
        for key, part in (("accuracy_validation", "validation"), ("accuracy", "test")):
            found = evaluate(network, batches_of(self.settings, data, part))
            self.metrics[key][stage] = round(found.percent, 4)


def train_summary(metrics: Mapping[str, Any], folder: Path) -> str:
    """The lines that a finished training prints."""
    accuracy, macs, params = metrics["accuracy"], metrics["macs"], metrics["params"]
    start = "trained" if metrics["trained"] else "untrained"
    sizes = ", ".join(
        f"{what} {size['before']:,} -> {size['after']:,} "
        f"({100 * size['after'] / size['before']:.1f} %)"
        for what, size in (("MACs", macs), ("parameters", params))
    )
    layers = [
        f"{layer} {100 * share:.1f} %"
        for layer, share in metrics["sparsity"]["layers"].items()
        if share > 0
    ]
    stages = ", ".join(
        f"{stage if stage != 'original' else start} {percent:.2f} %"
        for stage, percent in accuracy.items()
    )
    epochs = metrics["settings"]["epochs"]
    lines = [
        f"test accuracy: {stages} (after {epochs} epoch{'s' if epochs > 1 else ''} of "
        f"{metrics['method']})",
        sizes,
        f"weights gone: {100 * metrics['sparsity']['network']:.1f} % ({few(layers)})",
    ]
    if macs["after"] == macs["before"] and params["after"] == params["before"]:
        lines.append(
            "they are zeros that are stored and multiplied: the file is no smaller and the network "
            "no faster"
        )
    early = [
        site for site, step in metrics["notes"].get("done_at_step", {}).items() if step is None
    ]
    if early:
        lines.append(
            f"not settled when the training ended, the likeliest units went: {few(early)} "
            "(more --epochs settle them)"
        )
    if is_own(metrics["network"]):
        lines.append(f"in Python: {load_line(folder / 'pruned', metrics['network'])}")
    else:
        lines.append(f"network: {folder / 'pruned'}")
    return "\n".join(lines)
