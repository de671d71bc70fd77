"""Draw a run's pictures into its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from ...model.errors import DirpruneError
from ..diagnostics.findings import from_sampler, spread_draws
from ..diagnostics.reliability import calibration, predictions
from ..diagnostics.restarts import rhats
from ..diagnostics.sensitivity import THRESHOLD, sensitivities
from ..plots import (
    class_effect_figure,
    comparison_figure,
    elbo_figure,
    evidence_figure,
    feature_map_figure,
    inclusion_figure,
    rank_figure,
    rank_plot_figure,
    reliability_figure,
    save_figure,
    sensitivity_figure,
    share_of_macs,
    spread_out,
    switch_figure,
    training_figure,
    widths_figure,
)
from .reading import Run

MOST_SITES = 12  # shown one by one; beyond, evenly spread ones, and the tables hold all


@dataclass(frozen=True)
class Picture:
    """A picture on disk: the report's section it stands in, the file, a text for those who cannot
    see it."""

    section: str
    path: Path
    alt: str


def draw(run: Run, folder: Path) -> list[Picture]:
    """Write all pictures that the run has data for, and remove those of an earlier report."""
    pictures, written = [], set()
    for section, name, alt, figure in _figures(run):
        path = folder / f"{name}.png"
        save_figure(figure, path)
        written.add(path)
        pictures.append(Picture(section, path, alt))
    for old in folder.glob("*.png"):
        if old not in written:
            old.unlink()
    return pictures


def _figures(run: Run) -> Iterator[tuple[str, str, str, Figure]]:
    """(section, file name, alternative text, figure), one at a time."""
    views, history = run.views, run.history
    some = spread_out(views, MOST_SITES)
    yield (
        "comparison",
        "comparison",
        "Accuracy, multiply-adds, parameters and latency before and after",
        comparison_figure(run.metrics),
    )
    yield (
        "overview",
        "widths",
        "Units kept and removed, and multiply-adds before and after, of every site",
        widths_figure(views, share_of_macs(run.tree, run.decision)),
    )
    if any(view.probability is not None for view in views.values()):
        yield (
            "overview",
            "inclusion",
            "Inclusion probability of every unit of every site",
            inclusion_figure(views),
        )
    for number, view in enumerate(some):
        yield (
            "switches",
            f"switches-{number:02d}",
            f"Gains{'' if view.concentration is None else ', concentrations'} and inclusion "
            f"probabilities of {view.name}",
            switch_figure(view),
        )
    if any(view.cost is not None for view in some):
        yield "evidence", "evidence", "Removal cost of units by rank", evidence_figure(some)
    yield (
        "ranks",
        "ranks",
        "Probability that a unit is among the k best",
        rank_figure(some),
    )
    if run.closeups is not None:
        yield (
            "classes",
            "classes",
            "How much the loss of every class rises when units are removed",
            class_effect_figure(run.closeups.effects, run.decision),
        )
        for number, (site, (units, maps)) in enumerate(run.closeups.maps.items()):
            yield (
                "maps",
                f"maps-{number:02d}",
                f"Feature maps of the first and the last channels of {site}",
                feature_map_figure(views[site], run.closeups.pictures, maps, units=units),
            )
    if any(history["svi"]):
        yield "elbo", "elbo", "The loss of SVI at every step", elbo_figure(history["svi"])
    training, finetuning = history.get("training") or [], history.get("finetuning") or []
    if training or finetuning:
        yield (
            "training",
            "training",
            "The losses of training and fine-tuning at every step",
            training_figure(training, finetuning),
        )
    yield from _trust_figures(run, [view.name for view in some])


def _trust_figures(run: Run, sites: list[str]) -> Iterator[tuple[str, str, str, Figure]]:
    """Those of the diagnostics that can be computed; the table says why others cannot."""

    def reliability() -> Figure:
        names = {"posterior": "Posterior predictive", "network": "Trained network"}
        found = {names[n]: calibration(p, t) for n, (p, t) in predictions(run.tree).items()}
        return reliability_figure(
            {n: (c.confidence, c.accuracy, c.resampled_accuracy) for n, c in found.items()}
        )

    def ranks() -> Figure:
        if from_sampler(run.tree):
            raise DirpruneError("the band is for independent draws, and those of NUTS are not")
        draws = spread_draws(run.tree, "there are no ranks")
        return rank_plot_figure(draws, rhats(run.tree, draws))

    def sensitivity() -> Figure:
        found = sensitivities(run.tree)
        return sensitivity_figure(found, [s for s in sites if s in found["prior"]], THRESHOLD)

    tasks: dict[str, tuple[str, Callable[[], Figure]]] = {
        "reliability": ("Accuracy against confidence on validation images", reliability),
        "restarts": ("Ranks of the draws of every restart, for three units", ranks),
        "sensitivity": ("Power-scaling sensitivity of every unit", sensitivity),
    }
    for name, (alt, make) in tasks.items():
        with suppress(DirpruneError):
            yield name, name, alt, make()
