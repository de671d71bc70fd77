"""Options that several commands have, with one name, type and help each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TrainEpochs = Annotated[
    int | None,
    typer.Option(
        help="Epochs of that training; by default what suits the data. 0 takes the network as it "
        "comes."
    ),
]
DataRoot = Annotated[Path | None, typer.Option(help="Where data sets are, or are downloaded to.")]
Download = Annotated[bool, typer.Option(help="Download a data set that is missing.")]
Size = Annotated[int | None, typer.Option(help="Resize images to this many pixels a side.")]
Scaling = Annotated[str, typer.Option(help="Gain of a unit: mean-one (K s) or simplex (s).")]
SviEpochs = Annotated[
    int | None, typer.Option(help="Epochs of SVI; by default as many as make 400 steps.")
]
Particles = Annotated[int, typer.Option(help="Independent switches in each batch.")]
Include = Annotated[
    list[str] | None,
    typer.Option(help="Switch this layer only, or those of a pattern: 'layer3.*' (repeatable)."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        help="Leave this layer alone, or those of a pattern: '*.downsample.*' (likewise)."
    ),
]
Attention = Annotated[
    str,
    typer.Option(
        help="Units of attention: whole heads, or head-dims (features that all heads lose)."
    ),
]
Flatten = Annotated[
    str,
    typer.Option(
        help="Units of a flattened map that a linear layer reads: whole channels, or features "
        "(single inputs, a site beside that of the channels)."
    ),
]
Widths = Annotated[
    str | None,
    typer.Option(
        help="uniform: the same share of every site, the largest within the budget; or units by "
        "site, conv1=10,fc1=50, without a budget. By default the evidence chooses."
    ),
]
RoundTo = Annotated[
    int | None,
    typer.Option(
        help="Keep a multiple of so many channels in every layer (8 suits most hardware); one that "
        "has fewer stays whole."
    ),
]
BatchSize = Annotated[int, typer.Option(help="Images in a batch.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
Seed = Annotated[int, typer.Option(help="Same seed, same result.")]
