"""One cell of a grid: learn its posterior, score it, and what is kept of it."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from ...guides.families import parse_guide
from ...inference.batchnorm import recalibrate
from ...inference.elbo import estimate_elbo
from ...inference.evaluate import evaluate
from ...inference.fit import Fit, fit
from ...inference.loop import Loader, seed_of
from ...model.errors import DirpruneError
from ...model.priors import make_prior
from ...model.surgery import prune
from ...model.switched import SwitchedNetwork
from ...model.writing import atomic_write
from ..decision.decide import decide
from ..decision.rule import Widths
from ..diagnostics import importance, svi_convergence
from ..diagnostics.elpd import elpd as elpd_of
from ..diagnostics.elpd import mean_and_error
from ..diagnostics.findings import spread_draws
from ..evidence import stored_evidence
from ..held_out import held_out
from ..posterior import posterior
from ..tree import evidence_draws, load_tree, save_tree
from .agreement import UnitScores
from .grid import Cell
from .paired import pointwise_elpd

Floats = NDArray[np.float64]
Budget = Mapping[str, Any]
HELD_OUT_IMAGES = 2000
POSTERIOR, RECORD = "posterior.nc", "cell.json"


@dataclass(frozen=True)
class CellResult:
    """What is known of one cell; ``cell.json`` holds it.

    Attributes:
        cell: which.
        elpd: [images], log predictive density of validation images (2,000 at most), in nats.
        elbo: in nats, by fresh draws from the fitted guide, the mean over restarts. It compares
            guides and priors within one temperature (and one network) only. None for a guide that
            is a point: it has no entropy, and what Pyro reports is no bound.
        elbo_se: its standard error, of the estimate alone.
        khat: Pareto k-hat of the joint importance weights, the worst of the restarts; None where it
            cannot be had.
        sd_log_w: standard deviation of their logarithm; None likewise.
        accuracy: percent of the validation images: "original", and per budget "pruned" and, where
            the network has batch norms, "recalibrated"; no fine-tuning.
        scores: site -> [K], the evidence that decides.
        kept: budget -> site -> units that stay.
        seconds: of "svi", "posterior" (all draws, densities and costs) and "cuts".
        evidence: the criterion.
        at_rest: did SVI come to rest in every restart
            (:func:`~dirprune.analysis.diagnostics.svi_convergence`); None where its
            steps were too few to tell. A guide that needs more steps than it got looks bad by that
            alone.
        network_elpd: the log predictive density of the trained network itself, at gains of 1.
    """

    cell: Cell
    elpd: Floats
    elbo: float | None
    elbo_se: float | None
    khat: float | None
    sd_log_w: float | None
    accuracy: dict[str, Any]
    scores: dict[str, Floats]
    kept: dict[str, dict[str, list[int]]]
    seconds: dict[str, float]
    evidence: str
    at_rest: bool | None = None
    network_elpd: float | None = None

    @property
    def elpd_mean(self) -> float:
        return mean_and_error(self.elpd)[0]

    @property
    def elpd_se(self) -> float:
        """The standard error over images; NaN of one image."""
        return mean_and_error(self.elpd)[1]

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        content["elpd"] = [round(float(v), 6) for v in self.elpd]
        content["scores"] = {site: values.tolist() for site, values in self.scores.items()}
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> CellResult:
        fields = dict(content)
        fields["cell"] = Cell(**fields["cell"])
        fields["elpd"] = np.asarray(fields["elpd"], dtype=np.float64)
        fields["scores"] = {s: np.asarray(v, np.float64) for s, v in fields["scores"].items()}
        return CellResult(**fields)


def budget_name(budget: Budget) -> str:
    """A budget as one writes it.

    >>> budget_name({"macs": 0.5})
    'macs=0.5'
    """
    return ",".join(f"{what}={share:g}" for what, share in budget.items())


def run_cell(
    cell: Cell,
    network: nn.Module,
    loader: Loader,
    validation: Loader,
    *,
    num_data: int,
    budgets: Sequence[Budget],
    criterion: str = "removal-cost",
    widths: Widths = None,
    augmented: Loader | None = None,
    epochs: int = 1,
    restarts: int = 1,
    particles: int = 8,
    progress: bool | None = None,
    **options: Any,
) -> tuple[xr.DataTree, CellResult]:
    """Learn the posterior of one cell and measure it on validation images.

    ::

        cell = Cell("dirichlet", "symmetric:1", temperature=0.1, seed=0)
        tree, result = run_cell(
            cell, network, train, validation, num_data=60_000, budgets=[{"macs": 0.5}]
        )
        result.elpd_mean, result.accuracy["macs=0.5"]["pruned"]

    Args:
        cell: guide (with its options, "low-rank-logistic-normal:rank=5"), prior, temperature, and
            the seed of SVI and of the draws.
        network: the trained network, a classifier; it is not changed.
        loader: batches of training images.
        validation: batches of held-out images, in a fixed order: cells of one network are paired
            image by image. No test image is needed, and none should be given: cells are chosen by
            these figures.
        num_data: N, the number of training images.
        budgets: what is cut once each, without fine-tuning: ``[{"macs": 0.5}, {"keep": 0.25}]``.
        criterion: the evidence that decides, a name in ``CRITERIA``.
        widths: as in :func:`~dirprune.analysis.decision.decide.decide`; "uniform" compares criteria
            fairly.
        augmented: training images as the network was trained on, for the batch norms of what was
            cut; by default ``loader``.
        epochs, restarts, particles, progress: as in :func:`~dirprune.inference.fit.fit`.
        **options: further ones of :class:`~dirprune.model.switched.SwitchedNetwork`.

    Returns:
        the DataTree of :func:`~dirprune.analysis.posterior.posterior` and the figures.

    Raises:
        DirpruneError: a bad argument, or what the guide, the prior or the network refuses.
    """
    guide, guide_options = parse_guide(cell.guide)
    example = next(iter(loader))[0][:2].to(next(network.parameters()).device)
    model = SwitchedNetwork(
        network, example, num_data=num_data, prior=make_prior(cell.prior),
        temperature=cell.temperature, **options,
    ).to(example.device)  # fmt: skip
    fitted = fit(
        model, guide, loader, epochs=epochs, restarts=restarts, particles=particles,
        seed=seed_of([cell.seed, 2]), guide_options=guide_options, progress=progress,
    )  # fmt: skip
    started = time.perf_counter()
    tree = posterior(model, fitted, loader, seed=cell.seed)
    scored = held_out(model, fitted, validation, images=HELD_OUT_IMAGES, seed=cell.seed)
    tree["validation"] = xr.DataTree(scored)
    after_posterior = time.perf_counter()
    elbo, elbo_se = _elbo(model, fitted, tree, loader, cell.seed)
    scores = stored_evidence(tree, criterion, model, fitted, loader)
    accuracy: dict[str, Any] = {"original": evaluate(network, validation).percent}
    kept = {}
    for budget in budgets:
        decision = decide(model, scores, **budget, widths=widths)
        name = budget_name(budget)
        kept[name] = {site: units.tolist() for site, units in decision.kept.items()}
        accuracy[name] = _cut(prune(model, decision), augmented or loader, validation, cell.seed)
    khat, sd_log_w = _importance(tree)
    result = CellResult(
        cell=cell, elpd=pointwise_elpd(tree), elbo=elbo, elbo_se=elbo_se, khat=khat,
        sd_log_w=sd_log_w, accuracy=accuracy,
        scores={site: s.scores.double().cpu().numpy() for site, s in scores.items()},
        kept=kept, evidence=criterion, at_rest=_at_rest(fitted),
        network_elpd=elpd_of(tree)["value"].get("network"),
        seconds={
            "svi": round(fitted.seconds, 3),
            "posterior": round(after_posterior - started, 3),
            "cuts": round(time.perf_counter() - after_posterior, 3),
        },
    )  # fmt: skip
    return tree, result


def _elbo(
    model: SwitchedNetwork, fitted: Fit, tree: xr.DataTree, loader: Loader, seed: int
) -> tuple[float | None, float | None]:
    try:
        spread_draws(tree, "it has no ELBO")
    except DirpruneError:
        return None, None
    found = [estimate_elbo(model, guide, loader, seed=seed) for guide in fitted.guides]
    mean = sum(value for value, _ in found) / len(found)
    return mean, math.hypot(*(se for _, se in found)) / len(found)


def _at_rest(fitted: Fit) -> bool | None:
    try:
        good: bool | None = svi_convergence({"svi": fitted.history})["good"]
    except DirpruneError:
        return None
    return good


def _importance(tree: xr.DataTree) -> tuple[float | None, float | None]:
    """k-hat and sd(log w), where the guide has a density to weigh by."""
    try:
        value = importance(tree)["value"]
    except DirpruneError:
        return None, None
    return value["khat"], value["sd_log_w"]


def _cut(
    pruned: nn.Module, loader: Loader, validation: Loader, seed: int
) -> dict[str, float | None]:
    found: dict[str, float | None] = {"pruned": evaluate(pruned, validation).percent}
    again = copy.deepcopy(pruned)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed_of([seed, 3]))
        changed = recalibrate(again, loader)
    found["recalibrated"] = evaluate(again, validation).percent if changed else None
    return found


# -- files ----------------------------------------------------------------------------------------


def save_cell(folder: Path, tree: xr.DataTree, result: CellResult) -> None:
    """Write a finished cell; ``cell.json`` comes last, so that it stands for all of it."""
    save_tree(tree, folder / POSTERIOR)
    atomic_write(folder / RECORD, json.dumps(result.to_json()))


def save_error(folder: Path, cell: Cell, message: str, details: str) -> None:
    """Write a failed cell."""
    content = {"cell": asdict(cell), "error": message, "details": details}
    atomic_write(folder / RECORD, json.dumps(content, indent=1))


def load_cell(folder: Path) -> CellResult | None:
    """A finished cell of this folder; None where there is none, or it failed.

    Raises:
        DirpruneError: the file is damaged.
    """
    path = folder / RECORD
    if not path.exists() or not (folder / POSTERIOR).exists():
        return None
    try:
        content = json.loads(path.read_text())
        return None if "error" in content else CellResult.from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DirpruneError(f"{path} is damaged; --resume makes the cell again") from error


def is_damaged(folder: Path) -> bool:
    """Has this folder a cell that cannot be read to its end?"""
    try:
        if load_cell(folder) is not None:
            load_tree(folder / POSTERIOR)
    except DirpruneError:
        return True
    return False


def unit_scores(result: CellResult, folder: Path) -> UnitScores:
    """The cell's evidence with its draws, which are in its ``posterior.nc`` if it has any."""
    stored = evidence_draws(load_tree(folder / POSTERIOR), result.evidence)
    draws = None if stored is None else {s: d.double().numpy() for s, d in stored.items()}
    return UnitScores(result.scores, draws)
