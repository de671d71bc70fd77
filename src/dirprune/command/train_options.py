"""The options of ``dirprune train``, as ``--help`` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Attention,
    BatchSize,
    DataRoot,
    Device,
    Download,
    Exclude,
    Include,
    Seed,
    Size,
)
from .settings import parse_numbers
from .train_settings import TrainSettings


def train(
    method: Annotated[
        str,
        typer.Option(
            help="gibbs (masks from an annealed Gibbs distribution) or spp (structured "
            "probabilistic pruning: units with probabilities to go)."
        ),
    ],
    structure: Annotated[
        str | None,
        typer.Option(
            help="What gibbs removes: filter (smaller layers), kernel or unstructured (zeros in a "
            "network of full size) [default: filter]."
        ),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="The share that goes, the same in every layer [default: 0.9 for gibbs, 0.5 for "
            "spp]."
        ),
    ] = None,
    network: Annotated[str, typer.Option(help="Network, as in 'dirprune run'.")] = "digits-cnn",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Trained weights to begin with: safetensors or a plain state dict. Without, gibbs "
            "begins with random ones, and spp, which is for trained networks, trains one first."
        ),
    ] = None,
    train_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of ordinary training before the method's [default: 0 for gibbs, what "
            "suits the data for spp]."
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of the method; by default what suits the data."),
    ] = None,
    data: Annotated[str, typer.Option(help="Data set, as in 'dirprune run'.")] = "digits",
    data_root: DataRoot = None,
    download: Download = True,
    size: Size = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Mean of the pixels, as the weights expect: 0.485,0.456,0.406"),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of the pixels, likewise.")
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    attention: Attention = "heads",
    batch_size: BatchSize = 128,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results [default: runs/METHOD-NETWORK-DATA]."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in that folder.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin again in a folder that holds a run.")
    ] = False,
) -> None:
    """Prune a network while it trains, by a rival of deciding from a posterior.

    gibbs leaves the first layer whole, as its authors do, unless --include names layers. Writes
    metrics.json, history.json, pruned/ (for dirprune.load) and, where units go, decision.json.
    """
    settings = TrainSettings(
        method=method,
        structure=structure,
        ratio=ratio,
        network=network,
        weights=None if weights is None else str(weights),
        train_epochs=train_epochs,
        epochs=epochs,
        data=data,
        data_root=None if data_root is None else str(data_root),
        download=download,
        size=size,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
        include=include or None,
        exclude=exclude or None,
        attention=attention,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    name = f"{method}-{network}-{data}".replace(":", "-").replace("/", "-")
    from .train import train_job

    train_job(
        settings, Path("runs") / name if out is None else out, resume=resume, overwrite=overwrite
    )
