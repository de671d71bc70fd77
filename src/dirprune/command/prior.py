"""``dirprune prior``: what priors believe before data, side by side."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..analysis.compare.grid import refuse_twice
from ..analysis.plots import save_figure
from ..analysis.plots.prior import prior_figure
from ..analysis.prior_predictive import MASS, PriorPredictive, prior_predictive
from ..inference.data import ImageData
from ..model.errors import DirpruneError
from ..model.networks import load_weights
from ..model.priors import NetworkPrior, make_prior
from ..model.switched import SwitchedNetwork
from .checks import check_options, hold_folder
from .parts import batches_of, new_network, read_data
from .settings import Settings

PICTURE = "prior.png"


def show_priors(
    settings: Settings, priors: Sequence[str], draws: int, folder: Path | None, as_json: bool
) -> str:
    """A table of what these priors believe, or JSON; the picture goes into ``folder``."""
    for prior in priors:
        check_options(replace(settings, prior=prior))
        if settings.weights is None and isinstance(make_prior(prior), NetworkPrior):
            raise DirpruneError(f"--prior {prior} reads the trained weights: give --weights")
    refuse_twice("--prior names", priors, [repr(make_prior(prior)) for prior in priors])
    with nullcontext() if folder is None else hold_folder(folder):
        data = read_data(settings)
        network = new_network(settings, data).eval()
        if settings.weights is not None:
            load_weights(network, settings.weights)
        found = {p: _look(settings, data, network, p, draws) for p in priors}
        if folder is not None:
            save_figure(prior_figure(found), folder / PICTURE)
    if as_json:
        return json.dumps(
            {
                "network": settings.network, "data": settings.data, "weights": settings.weights,
                "seed": settings.seed, "mass": MASS,
                "priors": {name: one.to_dict() for name, one in found.items()},
            },
            indent=1,
        )  # fmt: skip
    parts = [_units(found), _predictions(found)]
    if folder is not None:
        parts.append(f"picture: {folder / PICTURE}")
    return "\n\n".join(parts)


def _look(
    s: Settings, data: ImageData, network: nn.Module, prior: str, draws: int
) -> PriorPredictive:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            model = SwitchedNetwork(
                network, data.train[[0, 1]][0], num_data=len(data.train), prior=make_prior(prior)
            )
        except DirpruneError as error:
            raise DirpruneError(f"--prior {prior}: {error}") from error
    for warning in caught:
        print(f"dirprune: warning: {warning.message}", file=sys.stderr)
    images = None if s.weights is None else batches_of(s, data, "validation")
    return prior_predictive(model, images, draws=draws, seed=s.seed)


def _units(found: Mapping[str, PriorPredictive]) -> str:
    first = next(iter(found.values()))
    draws = len(next(iter(first.counts.values())))
    rows = [["prior", "site", "units", "with 95 % of the mass", "5-95 %"]]
    for prior, one in found.items():
        for site, spread in one.units.items():
            interval = f"{spread.low:.0f}-{spread.high:.0f}"
            rows.append([prior, site, str(one.sizes[site]), f"{spread.mean:.1f}", interval])
    rows += [
        ["uniform switch", site, str(first.sizes[site]), str(units), ""]
        for site, units in first.uniform.items()
    ]
    return _table(rows, left=2) + (
        f"\n\nOf {draws} draws from each prior: the least number of a site's units whose switches "
        "sum to\n0.95 or more. The uniform switch is the trained network."
    )


def _predictions(found: Mapping[str, PriorPredictive]) -> str:
    held_out = {name: one.held_out for name, one in found.items() if one.held_out is not None}
    if not held_out:
        return "There is no accuracy: without --weights the network is untrained."
    rows = [["prior", "accuracy of a draw", "5-95 %", "of the mixture", "log density", ""]]
    for name, one in held_out.items():
        spread = one.accuracy
        assert spread is not None  # images have classes
        assert one.mixture is not None
        rows.append(
            [
                name,
                f"{spread.mean:.1f} %",
                f"{spread.low:.1f}-{spread.high:.1f} %",
                f"{one.mixture:.1f} %",
                f"{one.log_density:.3f}",
                f"± {one.log_density_error:.3f}",
            ]
        )
    one = next(iter(held_out.values()))
    rows.append(
        ["network itself", f"{one.network:.1f} %", "", "", f"{one.network_log_density:.3f}", ""]
    )
    return _table(rows, left=1) + (
        f"\n\nOn {one.images} validation images. The mixture averages the probabilities of all "
        "draws; its log density\nis in nats an image, with the standard error over images."
    )


def _table(rows: list[list[str]], left: int) -> str:
    """Columns under each other: the first ones to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
