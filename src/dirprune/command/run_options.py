"""The options of ``dirprune run``, as ``--help`` shows them."""

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
    Flatten,
    Include,
    Particles,
    RoundTo,
    Scaling,
    Seed,
    Size,
    SviEpochs,
    TrainEpochs,
    Widths,
)
from .settings import (
    UNIFORM,
    USUAL_BUDGET,
    Settings,
    parse_aim,
    parse_compensations,
    parse_numbers,
    parse_options,
)


def run(
    network: Annotated[
        str,
        typer.Option(
            help="Network: lenet5, digits-cnn, mlp, vgg16, resnet20 (32, 44, 56, 110), wrn28_10, "
            "or torchvision:NAME ('dirprune info' lists them), or your own: FILE.py:FACTORY or "
            "MODULE:FACTORY, called with those of num_classes, in_channels and size that it names."
        ),
    ] = "digits-cnn",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Trained weights: safetensors or a plain state dict. Without, the network is "
            "trained first."
        ),
    ] = None,
    train_epochs: TrainEpochs = None,
    data: Annotated[
        str,
        typer.Option(
            help="Data set: digits (embedded, no download), mnist, fashion-mnist, cifar10, or "
            "folder:PATH with PATH/train/CLASS/* and PATH/test/CLASS/*."
        ),
    ] = "digits",
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
    budget: Annotated[
        str | None,
        typer.Option(
            help="What may be left: macs=0.5 or params=0.2 (share of multiply-adds or parameters), "
            "keep=0.5 (share of the units), latency=0.5 (share of the time of a forward pass, as "
            "measured here); 1 removes nothing. max_drop=0.5: the smallest network that loses at "
            "most so many points of accuracy on each half of the validation images, before "
            "recalibration and fine-tuning. Several hold all: macs=0.5,params=0.2. The widths of "
            "the layers follow. [default: macs=0.5]"
        ),
    ] = None,
    widths: Widths = None,
    round_to: RoundTo = None,
    rounds: Annotated[
        int,
        typer.Option(
            help="Remove in so many rounds: a share goes, and the units that are left are scored "
            "again before the next share goes, by a posterior that is learned again in 80 steps "
            "where the criterion reads one. posterior.nc and the report's pictures are of the "
            "first posterior, over all units. Not with latency or max_drop."
        ),
    ] = 1,
    refine: Annotated[
        int,
        typer.Option(
            help="Steps of a search that swaps units of the decision for better ones, at its "
            "widths or within its budgets (80 are usual; 0: none); inclusion probabilities are "
            "then those of the posterior over such sub-networks, in subnetworks.nc. Not with "
            "max_drop or rounds."
        ),
    ] = 0,
    reselect: Annotated[
        int,
        typer.Option(
            help="Sweeps over the sites (3 are usual; 0: none), each of which chooses their units "
            "anew, at the decision's widths, so that least squares can make up for the others: "
            "with --compensate least-squares. Not with max_drop, rounds or refine."
        ),
    ] = 0,
    evidence: Annotated[
        str,
        typer.Option(
            help="What decides, with options after its name (shapley:permutations=10); 'dirprune "
            "info evidence' lists them."
        ),
    ] = "removal-cost",
    guide: Annotated[
        str, typer.Option(help="Family of the posterior; 'dirprune info guides' lists them.")
    ] = "dirichlet",
    guide_options: Annotated[
        str | None, typer.Option(help="Options of that guide: rank=10,init_scale=0.1")
    ] = None,
    prior: Annotated[
        str,
        typer.Option(
            help="Prior of the switches: symmetric:A (concentration A for every unit; also just "
            "A), alpha/K:A, hierarchical:SHAPE:RATE, half-cauchy:SCALE, weight-norm:A or "
            "bn-scale:A; 'dirprune info priors' lists them, 'dirprune prior' shows what they say."
        ),
    ] = "symmetric",
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Power of the likelihood; 1 is the plain posterior, less is wider. By default "
            "500 / training images (at most 1): the posterior of 500 images."
        ),
    ] = None,
    scaling: Scaling = "mean-one",
    svi_epochs: SviEpochs = None,
    restarts: Annotated[
        int, typer.Option(help="Independent SVI runs; they become ArviZ's chains.")
    ] = 2,
    particles: Particles = 8,
    null_control: Annotated[
        bool,
        typer.Option(help="Learn once more from permuted labels, which must predict nothing."),
    ] = True,
    include: Include = None,
    exclude: Exclude = None,
    attention: Attention = "heads",
    flatten: Flatten = "channels",
    compensate: Annotated[
        str,
        typer.Option(
            help="What makes up for removed units without training, in this order: least-squares "
            "(weights that reproduce the original's outputs), recalibrate (batch norms), "
            "fold-gains (the posterior's mean gains), or none."
        ),
    ] = "recalibrate",
    finetune_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of fine-tuning; 0 for none, by default what suits the data."),
    ] = None,
    distill: Annotated[
        bool, typer.Option(help="Fine-tune towards the original network's probabilities too.")
    ] = True,
    batch_size: BatchSize = 128,
    seed: Seed = 0,
    device: Device = "cpu",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results [default: runs/NETWORK-DATA].")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in that folder.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin again in a folder that holds a run.")
    ] = False,
) -> None:
    """The whole job: train or load, learn the posterior, decide, prune, fine-tune, report.

    Writes report.html, metrics.json, decision.json, posterior.nc, pruned/ (for dirprune.load) and
    pruned.pt2 (for torch.export.load) to the folder --out.
    """
    given = widths is not None and widths != UNIFORM
    usual = None if given else USUAL_BUDGET
    wanted, chosen = parse_aim(budget or usual, widths, measured=True)
    settings = Settings(
        network=network,
        data=data,
        budget=wanted,
        widths=chosen,
        round_to=round_to,
        rounds=rounds,
        refine=refine,
        reselect=reselect,
        weights=None if weights is None else str(weights),
        data_root=None if data_root is None else str(data_root),
        download=download,
        size=size,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
        train_epochs=train_epochs,
        guide=guide,
        guide_options=parse_options(guide_options),
        prior=prior,
        temperature=temperature,
        scaling=scaling,
        svi_epochs=svi_epochs,
        restarts=restarts,
        particles=particles,
        evidence=evidence,
        null_control=null_control,
        include=include or None,
        exclude=exclude or None,
        attention=attention,
        flatten=flatten,
        compensate=parse_compensations(compensate),
        finetune_epochs=finetune_epochs,
        distill=distill,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    folder = (
        out
        if out is not None
        else Path("runs") / f"{network}-{data}".replace(":", "-").replace("/", "-")
    )
    from .run import run_job

    run_job(settings, folder, resume=resume, overwrite=overwrite)
