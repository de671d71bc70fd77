"""``dirprune info NETWORK``: sites, their share of the cost, and what is left alone and why."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..analysis.plots import save_figure
from ..analysis.plots.graph import graph_figure
from ..analysis.plots.style import check_format
from ..inference.evaluate import eval_mode
from ..model.cost import CostTable
from ..model.errors import DirpruneError
from ..model.graph.trace import as_tuple
from ..model.networks import build_network, is_own, usual_arguments
from ..model.reasons import few, group_reasons
from ..model.switched import SwitchedNetwork

EXAMPLES = "example_inputs"


def describe(
    name: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    attention: str = "heads",
    flatten: str = "channels",
    graph: Path | None = None,
    as_json: bool = False,
) -> str:
    """A network's sites as a table, or as JSON; the channel graph as a picture at ``graph``.

    Args:
        name: of a network, or of a factory of the user's own.
        size: pixels a side of the images; by default what is usual for the network.
        channels: of the images, likewise.
        classes: outputs, likewise.
        include: names or patterns of the layers to switch.
        exclude: names or patterns of the layers to leave alone.
        attention: its units, "heads" or "head-dims".
        flatten: those of a flattened map that a linear layer reads, "channels" or "features".
        graph: a file for the picture.
        as_json: JSON instead of the table.
    """
    if graph is not None:
        check_format(graph)
    usual = usual_arguments(name)
    given = {"num_classes": classes, "in_channels": channels, "size": size}
    arguments = usual | {key: value for key, value in given.items() if value is not None}
    network = build_network(name, **arguments)
    inputs: tuple[Any, ...]
    kwargs: dict[str, Any]
    if size is not None or channels is not None or not hasattr(network, EXAMPLES):
        shape = (2, arguments["in_channels"], arguments["size"], arguments["size"])
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        like = next((p for p in network.parameters() if p.is_floating_point()), images)
        inputs, kwargs = (images.to(like.device, like.dtype),), {}
    else:
        inputs, kwargs = examples_of(network, name)
    if is_own(name):
        _try(network, name, inputs, kwargs)
    if sys.stderr.isatty():
        print("tracing the network and trying its cuts ...", file=sys.stderr)
    model = SwitchedNetwork(
        network,
        inputs,
        num_data=1,
        example_kwargs=kwargs,
        include=include,
        exclude=exclude,
        attention=attention,
        flatten=flatten,
    )
    data = _gather(name, model)
    if graph is not None:
        save_figure(graph_figure(model.graph, name), graph)
        data["graph"] = str(graph)
    return json.dumps(data, indent=1) if as_json else _table(data)


def examples_of(network: nn.Module, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs that a network of the user's own carries, positional and by name."""
    found: Any = getattr(network, EXAMPLES)
    if not any(isinstance(x, Tensor) and x.dim() for x in tree_leaves(found)):
        raise DirpruneError(
            f"{name}: {EXAMPLES} is a {type(found).__name__} without tensors: expected a tensor, a "
            "tuple of the positional inputs, or a dict of inputs by name, batch first"
        )
    return ((), dict(found)) if isinstance(found, Mapping) else (as_tuple(found), {})


def _try(network: nn.Module, name: str, inputs: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse inputs that a network of the user's own does not take, and say how to give others."""
    try:
        with torch.no_grad(), eval_mode(network):
            network(*inputs, **kwargs)
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DirpruneError(
            f"{name} fails on {_shapes((inputs, kwargs))}: {line[:200]}. --channels and --size are "
            f"for other images; a network that takes something else has an attribute {EXAMPLES} "
            "(a tensor, a tuple, or a dict of inputs by name)"
        ) from error


def _gather(name: str, model: SwitchedNetwork) -> dict[str, Any]:
    whats = ("macs", "params")
    smallest = _smallest(model.costs)
    return {
        "network": name,
        "inputs": _shapes((model.example_inputs, model.example_kwargs)),
        **{what: model.costs.total(what) for what in whats},
        **{f"prunable_{what}_share": _share(model.costs, what, smallest) for what in whats},
        "sites": [
            {
                "name": site.name,
                "units": site.size,
                "producers": list(site.producers),
                "consumers": list(site.consumers),
                **{
                    f"{what}_share": _share(model.costs, what, {site.name: torch.tensor([0])})
                    for what in whats
                },
            }
            for site in model.sites.values()
        ],
        "unprunable": dict(model.unprunable),
    }


def _share(costs: CostTable, what: str, kept: Mapping[str, Tensor]) -> float:
    """The share of the cost that goes when only these units are kept."""
    return 1 - costs.total(what, kept) / costs.total(what)


def _smallest(costs: CostTable) -> dict[str, Tensor]:
    """The smallest decision: one unit of each site, and of each set that a layer needs one of."""
    starts, start = {}, 0
    for site, size in costs.sites.items():
        starts[site] = start
        start += size
    keep = torch.zeros(start, dtype=torch.bool)
    sites = [range(starts[site], starts[site] + size) for site, size in costs.sites.items()]
    for units in (*costs.needed, *sites):
        if not bool(keep[list(units)].any()):
            keep[costs.nesting.coming(keep.numpy(), [units[0]])] = True
    return {s: keep[starts[s] : starts[s] + k].nonzero()[:, 0] for s, k in costs.sites.items()}


def _shapes(tree: Any) -> str:
    """What goes in, for one example: "float32[3, 224, 224]"."""
    return ", ".join(
        f"{str(x.dtype).removeprefix('torch.')}{list(x.shape[1:])}"
        for x in tree_leaves(tree)
        if isinstance(x, Tensor)
    )


def _table(data: dict[str, Any]) -> str:
    rows = [["site", "units", "MACs", "params", "produced by", "read by"]]
    for site in data["sites"]:
        rows.append(
            [
                site["name"],
                str(site["units"]),
                f"{100 * site['macs_share']:.1f} %",
                f"{100 * site['params_share']:.1f} %",
                few(site["producers"]),
                few(site["consumers"]),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        f"{data['network']}: {data['macs']:,} MACs, {data['params']:,} parameters; one example is "
        f"{data['inputs']}",
        "",
    ]
    for row in rows:
        cells = [
            cell.rjust(width) if 1 <= i <= 3 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    sites, units = len(data["sites"]), sum(site["units"] for site in data["sites"])
    lines += [
        "",
        "MACs, params: what goes when the site alone shrinks to one unit.",
        f"{sites} site{'s' if sites > 1 else ''}, {units:,} units. With one unit left of each, "
        f"{100 * data['prunable_macs_share']:.1f} % of the MACs and "
        f"{100 * data['prunable_params_share']:.1f} % of the parameters are gone.",
    ]
    if data["unprunable"]:
        lines.append("Left alone:")
    for reason, layers in group_reasons(data["unprunable"]).items():
        lines.append(f"  {few(layers)}: {reason}")
    if "graph" in data:
        lines += [f"picture: {data['graph']}"]
    return "\n".join(lines)
