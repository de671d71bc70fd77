"""The options of ``dirprune compare``, as ``--help`` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    Attention,
    BatchSize,
    DataRoot,
    Device,
    Download,
    Exclude,
    Flatten,
    Include,
    Particles,
    Scaling,
    Size,
    SviEpochs,
    TrainEpochs,
)
from .settings import UNIFORM, Settings, parse_budget, parse_names, parse_numbers, parse_seeds


def compare(
    network: Annotated[
        str,
        typer.Option(help="Network, as in 'dirprune run'."),
    ] = "digits-cnn",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Trained weights. Without, a network is trained for every seed; with, the seeds "
            "are of SVI and of the draws alone."
        ),
    ] = None,
    train_epochs: TrainEpochs = None,
    data: Annotated[str, typer.Option(help="Data set, as in 'dirprune run'.")] = "digits",
    data_root: DataRoot = None,
    download: Download = True,
    size: Size = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of the pixels, as the weights expect.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of the pixels, likewise.")
    ] = None,
    guides: Annotated[
        str | None,
        typer.Option(
            help="Guides, by name and options: dirichlet,low-rank-logistic-normal:rank=5; "
            "'dirprune info guides' lists them. [default: dirichlet,logistic-normal; of methods: "
            "dirichlet]"
        ),
    ] = None,
    priors: Annotated[
        str, typer.Option(help="Priors, by name and values: symmetric:1,alpha/K:1")
    ] = "symmetric:1",
    temperatures: Annotated[
        str | None,
        typer.Option(
            help="Powers of the likelihood; 1 is the plain posterior. [default: 1,0.1; of methods: "
            "the usual one for so many images]"
        ),
    ] = None,
    seeds: Annotated[
        str, typer.Option(help="Seeds; each is a network of its own, trained once.")
    ] = "0,1,2",
    budgets: Annotated[
        str,
        typer.Option(
            help="What is cut for the accuracy: macs=0.5,macs=0.25; two at once: "
            "macs=0.5+params=0.3"
        ),
    ] = "macs=0.5",
    widths: Annotated[
        str | None,
        typer.Option(
            help="uniform: the same share of every site; by default the evidence chooses."
        ),
    ] = None,
    evidence: Annotated[
        str,
        typer.Option(
            help="What decides, as in 'dirprune run'. Several are methods to compare, each with "
            "options and with stages behind a plus: "
            "removal-cost,shapley:std=0,l1-norm+rounds=6,removal-cost+refine"
        ),
    ] = "removal-cost",
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Of methods: one-shot, low-data, finetune, scratch, or several of them. [default: "
            "one-shot, where --evidence names several]"
        ),
    ] = None,
    compensate: Annotated[
        str | None,
        typer.Option(
            help="Of methods: what makes up for the cut, each alone: none,recalibrate,"
            "least-squares+recalibrate. [default: none, and recalibrate where there are batch "
            "norms; before training the latter alone]"
        ),
    ] = None,
    low_data: Annotated[
        int, typer.Option(help="Training images that there are under low-data, in all.")
    ] = 500,
    finetune_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of training after the cut; by default as 'dirprune run'."),
    ] = None,
    scaling: Scaling = "mean-one",
    svi_epochs: SviEpochs = None,
    restarts: Annotated[int, typer.Option(help="Independent SVI runs in each cell.")] = 1,
    particles: Particles = 8,
    include: Include = None,
    exclude: Exclude = None,
    attention: Attention = "heads",
    flatten: Flatten = "channels",
    batch_size: BatchSize = 128,
    device: Device = "cpu",
    processes: Annotated[
        int | None,
        typer.Option(help="Cells at a time, one thread each [default: the cores; 1 on a GPU]."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/compare"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Make what is missing in that folder; the grid may grow."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin again in a folder that holds a grid.")
    ] = False,
) -> None:
    """Posteriors against each other, or ways to choose units: one table, and pictures.

    With one criterion and no protocol: guides x priors x temperatures x seeds, a posterior for each
    in cells/, compared by validation images alone; test images are not read.

    With several criteria, or --protocol: methods x budgets x seeds, in trials/, by accuracy on test
    images (nothing is chosen by it) and by passes through the network. A posterior is learned once
    for all criteria that read it.

    Both write comparison.csv, comparison.json, figures/ and networks/ to --out. What fails costs
    nothing else; the exit status is then 1.
    """
    if widths not in (None, UNIFORM):
        from ..model.errors import DirpruneError

        raise DirpruneError(f"--widths {widths!r}: expected {UNIFORM}; budgets set the rest")
    base = Settings(
        network=network,
        data=data,
        weights=None if weights is None else str(weights),
        data_root=None if data_root is None else str(data_root),
        download=download,
        size=size,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
        train_epochs=train_epochs,
        scaling=scaling,
        svi_epochs=svi_epochs,
        restarts=restarts,
        particles=particles,
        evidence=evidence,
        finetune_epochs=finetune_epochs,
        widths=widths,
        include=include or None,
        exclude=exclude or None,
        attention=attention,
        flatten=flatten,
        batch_size=batch_size,
        device=device,
    )
    methods = parse_names("--evidence", evidence)
    of_methods = protocol is not None or len(methods) > 1 or "+" in evidence
    if guides is None:
        guides = "dirichlet" if of_methods else "dirichlet,logistic-normal"
    if temperatures is None and not of_methods:
        temperatures = "1,0.1"
    axes: dict[str, Any] = {
        "guides": parse_names("--guides", guides),
        "priors": parse_names("--priors", priors),
        "temperatures": parse_numbers("--temperatures", temperatures, "1,0.1") or [],
        "seeds": parse_seeds(seeds),
        "budgets": [parse_budget(budget) for budget in parse_names("--budgets", budgets)],
    }
    if of_methods:
        chains = None if compensate is None else parse_names("--compensate", compensate)
        from .compare_methods import compare_methods
        from .method_grid import MethodGrid

        status = compare_methods(
            MethodGrid(
                base, **axes, methods=methods,
                protocols=parse_names("--protocol", protocol or "one-shot"),
                compensations=chains,
                few=low_data,
            ),
            out, processes=processes, resume=resume, overwrite=overwrite,
        )  # fmt: skip
        raise typer.Exit(status)
    if compensate is not None:
        from ..model.errors import DirpruneError

        raise DirpruneError(
            "--compensate is for methods: name several in --evidence, or give --protocol one-shot"
        )
    from .compare import compare_grid
    from .grid import Grid

    status = compare_grid(
        Grid(base, **axes), out, processes=processes, resume=resume, overwrite=overwrite
    )
    raise typer.Exit(status)
