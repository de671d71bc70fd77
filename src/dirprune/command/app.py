"""The commands and their options, as ``--help`` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .compare_options import compare
from .options import (
    Attention,
    DataRoot,
    Download,
    Exclude,
    Flatten,
    Include,
    RoundTo,
    Seed,
    Size,
    Widths,
)
from .run_options import run
from .settings import Settings, parse_aim, parse_numbers
from .train_options import train

app = typer.Typer(
    help="Prune a trained network by Bayesian inference: learn which units its layers need, remove "
    "the others, and see how sure each cut is.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"dirprune {version('dirprune')}")
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version)
    ] = False,
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(2)


app.command()(run)
app.command()(compare)
app.command()(train)


@app.command()
def info(
    network: Annotated[
        str | None,
        typer.Argument(
            help="A network's name, or FILE.py:FACTORY or MODULE:FACTORY of your own; or 'guides', "
            "'priors', or the name of one of these; without, all names are listed."
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Pixels a side of the images [default: what is usual for the network]."),
    ] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the images, likewise.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes, likewise.")] = None,
    include: Include = None,
    exclude: Exclude = None,
    attention: Attention = "heads",
    flatten: Flatten = "channels",
    graph: Annotated[
        Path | None,
        typer.Option(help="Draw the channel graph into this file: .png, .svg or .pdf."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A network's sites: units, producers, consumers, share of the cost, and what is left alone.

    An own network that takes no images carries its inputs as an attribute example_inputs: a tensor,
    a tuple, or a dict of inputs by name.
    """
    from .info import list_names, look_up

    if network is None:
        typer.echo(list_names(as_json))
    elif (entry := look_up(network, as_json)) is not None:
        typer.echo(entry)
    else:
        from .describe import describe

        typer.echo(
            describe(
                network, size=size, channels=channels, classes=classes, include=include or None,
                exclude=exclude or None, attention=attention, flatten=flatten, graph=graph,
                as_json=as_json,
            )
        )  # fmt: skip


@app.command()
def decide(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A folder of dirprune run.")],
    budget: Annotated[
        str | None,
        typer.Option(
            help="macs=0.5, params=0.2 or keep=0.5; several, macs=0.5,params=0.2, hold all."
        ),
    ] = None,
    widths: Widths = None,
    round_to: RoundTo = None,
    evidence: Annotated[
        str | None,
        typer.Option(
            help="A criterion that the file holds, or that follows from its posterior. [default: "
            "the run's]"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the kept units and their inclusion probabilities here (JSON)."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Another decision under another budget, from RUN/posterior.nc alone."""
    wanted, chosen = parse_aim(budget, widths)
    from .decide import decide_again

    typer.echo(
        decide_again(run_folder, wanted, chosen, round_to, evidence, out, overwrite=overwrite)
    )


@app.command()
def prior(
    network: Annotated[str, typer.Option(help="Network, as in 'dirprune run'.")] = "digits-cnn",
    weights: Annotated[
        Path | None,
        typer.Option(
            help="Trained weights: safetensors or a plain state dict. Without, units are counted, "
            "and nothing is predicted."
        ),
    ] = None,
    data: Annotated[
        str,
        typer.Option(help="Data set: digits, mnist, fashion-mnist, cifar10 or folder:PATH."),
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
    priors: Annotated[
        list[str] | None,
        typer.Option(
            "--prior",
            help="A prior, as in symmetric:0.3 or hierarchical:1:1 (may be repeated); 'dirprune "
            "info priors' lists them. [default: symmetric]",
        ),
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws from each prior.")] = 200,
    seed: Seed = 0,
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


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A folder of dirprune run, whose pruned network it is, or of dirprune.save.",
        ),
    ],
    format: Annotated[str, typer.Option(help="onnx, torch-export or state-dict.")],
    out: Annotated[
        Path,
        typer.Option(help="The file, *.onnx or *.pt2; the folder of a state dict."),
    ],
    network: Annotated[
        str | None,
        typer.Option(
            help="FILE.py:FACTORY or MODULE:FACTORY of the unpruned original, for a network of "
            "your own."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """A saved network as ONNX, as a program of torch.export, or as a state dict with JSON.

    What is written is read back and compared with the network first, and takes batches of any size.
    """
    from .export import export_saved

    typer.echo(export_saved(source, format, out, network=network, overwrite=overwrite))
