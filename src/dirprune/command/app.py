"""The commands and their options, as ``--help`` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .settings import (
    Settings,
    parse_budget,
    parse_names,
    parse_numbers,
    parse_options,
    parse_seeds,
)

app = typer.Typer(
    help="Prune a trained network by Bayesian inference: learn which units its layers need, remove "
    "the others, and see how sure each cut is.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DATA, MODEL, INFERENCE, RESULT = "Data", "Network", "Inference", "Result"


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"dirprune {version('dirprune')}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    network: Annotated[
        str,
        typer.Option(
            help="Network: lenet5, digits-cnn, mlp, vgg16, resnet20 (32, 44, 56, 110), wrn28_10, "
            "or torchvision:NAME. 'dirprune info' lists them.",
            rich_help_panel=MODEL,
        ),
    ] = "digits-cnn",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Trained weights: safetensors or a plain state dict. Without, the network is "
            "trained first.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    train_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of that training; by default what suits the data."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="Data set: digits (embedded, no download), mnist, fashion-mnist, cifar10, or "
            "folder:PATH with PATH/train/CLASS/* and PATH/test/CLASS/*.",
            rich_help_panel=DATA,
        ),
    ] = "digits",
    data_root: Annotated[
        Path | None, typer.Option(help="Where data sets are, or are downloaded to.")
    ] = None,
    download: Annotated[bool, typer.Option(help="Download a data set that is missing.")] = True,
    size: Annotated[
        int | None, typer.Option(help="Resize images to this many pixels a side.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Mean of the pixels, as the weights expect: 0.485,0.456,0.406"),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of the pixels, likewise.")
    ] = None,
    budget: Annotated[
        str,
        typer.Option(
            help="What may be left: macs=0.5 or params=0.2 (share of multiply-adds or parameters), "
            "keep=0.5 (share of the units); 1 removes nothing. The widths of the layers follow."
        ),
    ] = "macs=0.5",
    evidence: Annotated[
        str, typer.Option(help="What decides: removal-cost or concentration.")
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
    scaling: Annotated[
        str, typer.Option(help="Gain of a unit: mean-one (K s) or simplex (s).")
    ] = "mean-one",
    svi_epochs: Annotated[
        int | None, typer.Option(help="Epochs of SVI; by default as many as make 400 steps.")
    ] = None,
    restarts: Annotated[
        int, typer.Option(help="Independent SVI runs; they become ArviZ's chains.")
    ] = 2,
    particles: Annotated[int, typer.Option(help="Independent switches in each batch.")] = 8,
    null_control: Annotated[
        bool,
        typer.Option(help="Learn once more from permuted labels, which must predict nothing."),
    ] = True,
    include: Annotated[
        list[str] | None, typer.Option(help="Switch this layer only (may be repeated).")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave this layer alone (may be repeated).")
    ] = None,
    finetune_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of fine-tuning; 0 for none, by default what suits the data."),
    ] = None,
    distill: Annotated[
        bool, typer.Option(help="Fine-tune towards the original network's probabilities too.")
    ] = True,
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 128,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
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
    settings = Settings(
        network=network,
        data=data,
        budget=parse_budget(budget),
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


@app.command()
def info(
    network: Annotated[
        str | None,
        typer.Argument(
            help="A network's name, or 'guides' or 'priors'; without, all names are listed."
        ),
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels a side of the images.")] = 32,
    channels: Annotated[int, typer.Option(help="Channels of the images.")] = 3,
    classes: Annotated[int, typer.Option(help="Number of classes.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A network's sites: units, producers, consumers, share of the cost, and what is left alone."""
    from .info import describe, list_guides, list_names, list_priors

    if network is None:
        typer.echo(list_names(as_json))
    elif network in ("guides", "priors"):
        typer.echo((list_guides if network == "guides" else list_priors)(as_json))
    else:
        typer.echo(describe(network, size, channels, classes, as_json))


@app.command()
def decide(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A folder of dirprune run.")],
    budget: Annotated[str, typer.Option(help="macs=0.5, params=0.2 or keep=0.5.")],
    evidence: Annotated[str, typer.Option(help="removal-cost or concentration.")] = "removal-cost",
    out: Annotated[
        Path | None,
        typer.Option(help="Write the kept units and their inclusion probabilities here (JSON)."),
    ] = None,
) -> None:
    """Another decision under another budget, from RUN/posterior.nc alone."""
    wanted: dict[str, Any] = parse_budget(budget)
    from .decide import decide_again

    typer.echo(decide_again(run_folder, wanted, evidence, out))


@app.command()
def compare(
    network: Annotated[
        str,
        typer.Option(help="Network, as in 'dirprune run'.", rich_help_panel=MODEL),
    ] = "digits-cnn",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Trained weights. Without, a network is trained for every seed; with, the seeds "
            "are of SVI and of the draws alone."
        ),
    ] = None,
    train_epochs: Annotated[
        int | None,
        typer.Option(help="Epochs of that training; by default what suits the data."),
    ] = None,
    data: Annotated[str, typer.Option(help="Data set, as in 'dirprune run'.")] = "digits",
    data_root: Annotated[
        Path | None, typer.Option(help="Where data sets are, or are downloaded to.")
    ] = None,
    download: Annotated[bool, typer.Option(help="Download a data set that is missing.")] = True,
    size: Annotated[
        int | None, typer.Option(help="Resize images to this many pixels a side.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of the pixels, as the weights expect.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of the pixels, likewise.")
    ] = None,
    guides: Annotated[
        str, typer.Option(help="Guides, by name; 'dirprune info guides' lists them.")
    ] = "dirichlet,logistic-normal",
    priors: Annotated[
        str, typer.Option(help="Priors, by name and values: symmetric:1,alpha/K:1")
    ] = "symmetric:1",
    temperatures: Annotated[
        str, typer.Option(help="Powers of the likelihood; 1 is the plain posterior.")
    ] = "1,0.1",
    seeds: Annotated[
        str, typer.Option(help="Seeds; each is a network of its own, trained once.")
    ] = "0,1,2",
    budgets: Annotated[
        str, typer.Option(help="What is cut for the accuracy: macs=0.5,macs=0.25")
    ] = "macs=0.5",
    evidence: Annotated[
        str, typer.Option(help="What decides, as in 'dirprune run'.")
    ] = "removal-cost",
    scaling: Annotated[
        str, typer.Option(help="Gain of a unit: mean-one (K s) or simplex (s).")
    ] = "mean-one",
    svi_epochs: Annotated[
        int | None, typer.Option(help="Epochs of SVI; by default as many as make 400 steps.")
    ] = None,
    restarts: Annotated[int, typer.Option(help="Independent SVI runs in each cell.")] = 1,
    particles: Annotated[int, typer.Option(help="Independent switches in each batch.")] = 8,
    include: Annotated[
        list[str] | None, typer.Option(help="Switch this layer only (may be repeated).")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave this layer alone (may be repeated).")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images in a batch.")] = 128,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
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
    """Guides x priors x temperatures x seeds: a posterior for each, one table, and pictures.

    Compares by validation images alone; test images are not read. Writes comparison.csv,
    comparison.json, figures/, networks/ and cells/ (posterior.nc and cell.json for each) to --out.
    A cell that fails costs no other; the exit status is then 1.
    """
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
        include=include or None,
        exclude=exclude or None,
        batch_size=batch_size,
        device=device,
    )
    axes: dict[str, Any] = {
        "guides": parse_names("--guides", guides),
        "priors": parse_names("--priors", priors),
        "temperatures": parse_numbers("--temperatures", temperatures),
        "seeds": parse_seeds(seeds),
        "budgets": [parse_budget(budget) for budget in parse_names("--budgets", budgets)],
    }
    from .compare import compare_grid
    from .grid import Grid

    status = compare_grid(
        Grid(base, **axes), out, processes=processes, resume=resume, overwrite=overwrite
    )
    raise typer.Exit(status)


@app.command()
def prior(
    network: Annotated[
        str, typer.Option(help="Network; 'dirprune info' lists them.", rich_help_panel=MODEL)
    ] = "digits-cnn",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Trained weights: safetensors or a plain state dict. Without, units are counted, "
            "and nothing is predicted.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="Data set: digits, mnist, fashion-mnist, cifar10 or folder:PATH.",
            rich_help_panel=DATA,
        ),
    ] = "digits",
    data_root: Annotated[
        Path | None, typer.Option(help="Where data sets are, or are downloaded to.")
    ] = None,
    download: Annotated[bool, typer.Option(help="Download a data set that is missing.")] = True,
    size: Annotated[
        int | None, typer.Option(help="Resize images to this many pixels a side.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(help="Mean of the pixels, as the weights expect: 0.485,0.456,0.406"),
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation of the pixels, likewise.")
    ] = None,
    priors: Annotated[
        list[str] | None,
        typer.Option(
            "--prior",
            help="A prior, as in symmetric:0.3 or hierarchical:1:1 (may be repeated); 'dirprune "
            "info priors' lists them. [default: symmetric]",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws from each prior.")] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for a picture, prior.png.")] = None,
) -> None:
    """What priors believe before data: units that hold 95 % of the mass, and predictions.

    Predictions are on validation images; test images are not read.
    """
    settings = Settings(
        network=network,
        data=data,
        weights=None if weights is None else str(weights),
        data_root=None if data_root is None else str(data_root),
        download=download,
        size=size,
        mean=parse_numbers("--mean", mean),
        std=parse_numbers("--std", std),
        seed=seed,
    )
    from .prior import show_priors

    typer.echo(show_priors(settings, priors or ["symmetric"], draws, out, as_json))


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A folder of dirprune run.")],
) -> None:
    """Write RUN/report.html and its pictures again, from the files of the run."""
    from ..analysis.report import write_report

    typer.echo(write_report(run_folder))
