"""``dirprune info``: what can be pruned in a network, and the names that options take."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import Any

import torch

from ..analysis.evidence import CRITERIA
from ..guides import GUIDES, Family
from ..inference.data import data_names
from ..model.cost import CostTable
from ..model.errors import DirpruneError
from ..model.networks import NETWORKS, build_network, network_names
from ..model.priors import PRIORS, PriorFamily
from ..model.switched import SwitchedNetwork


def list_names(as_json: bool) -> str:
    """All names that options take."""
    names = {
        "networks": network_names(),
        "data": data_names(),
        "guides": list(GUIDES),
        "priors": list(PRIORS),
        "evidence": list(CRITERIA),
    }
    if as_json:
        return json.dumps(names, indent=1)
    others = len(names["networks"]) - len(NETWORKS)
    names["networks"] = [*NETWORKS, f"torchvision:NAME ({others} names; --json lists them)"]
    return "\n".join(f"{kind + ':':10} {', '.join(values)}" for kind, values in names.items())


def look_up(name: str, as_json: bool) -> str | None:
    """All guides, all priors, or the one of that name; None where it may be a network's.

    Raises:
        DirpruneError: the name is like one of these, and like no network's.
    """
    if name == "guides":
        return list_guides(GUIDES, as_json)
    if name == "priors":
        return list_priors(PRIORS, as_json)
    family = name.partition(":")[0]  # a value or an option may follow
    if family in GUIDES:
        return list_guides({family: GUIDES[family]}, as_json)
    if family in PRIORS:
        return list_priors({family: PRIORS[family]}, as_json)
    entries = ["guides", "priors", *GUIDES, *PRIORS]
    near = difflib.get_close_matches(name, [*NETWORKS, *entries], n=3)
    if name not in NETWORKS and near and near[0] in entries:
        raise DirpruneError(
            f"unknown name {name!r}; did you mean {' or '.join(map(repr, near))}? 'dirprune info' "
            "lists all"
        )
    return None


def list_guides(guides: Mapping[str, Family], as_json: bool) -> str:
    """Guides by name: what they are, their ELBO and their options."""
    if as_json:
        found = [
            {"name": n, "summary": f.summary, "elbo": f.right_elbo, "options": f.options}
            for n, f in guides.items()
        ]
        return json.dumps(found, indent=1)
    lines = []
    for name, family in guides.items():
        options = ", ".join(f"{k}={v}" for k, v in family.options.items()) or "none"
        lines += [
            f"{name}: {family.summary}",
            f"    {family.right_elbo}; --guide-options: {options}",
        ]
    return "\n".join(lines)


def list_priors(priors: Mapping[str, PriorFamily], as_json: bool) -> str:
    """Priors by name, with their parameters and usual values."""
    if as_json:
        found = [
            {"name": n, "summary": p.summary, "parameters": p.parameters} for n, p in priors.items()
        ]
        return json.dumps(found, indent=1)
    lines = []
    for name, family in priors.items():
        form = ":".join([name, *map(str.upper, family.parameters)])
        usual = ":".join([name, *(f"{value:g}" for value in family.parameters.values())])
        lines += [f"{form}: {family.summary}", f"    default: {usual}"]
    return "\n".join(lines)


def describe(name: str, size: int, channels: int, classes: int, as_json: bool) -> str:
    """A network's sites as a table, or as JSON."""
    network = build_network(name, num_classes=classes, in_channels=channels, size=size)
    model = SwitchedNetwork(network, torch.randn(2, channels, size, size), num_data=1)
    sites = [
        {
            "name": site.name,
            "units": site.size,
            "producers": list(site.producers),
            "consumers": list(site.consumers),
            **{
                f"{what}_share": share_of(model.costs, site.name, what)
                for what in ("macs", "params")
            },
        }
        for site in model.sites.values()
    ]
    data: dict[str, Any] = {
        "network": name,
        "macs": model.costs.total("macs"),
        "params": model.costs.total("params"),
        "sites": sites,
        "unprunable": dict(model.unprunable),
    }
    return json.dumps(data, indent=1) if as_json else _table(data)


def share_of(costs: CostTable, site: str, what: str) -> float:
    """The share of the cost that goes when the site alone shrinks to one unit."""
    full = costs.total(what)
    return 1 - costs.total(what, {site: torch.tensor([0])}) / full


def _table(data: dict[str, Any]) -> str:
    rows = [["site", "units", "MACs", "params", "produced by", "read by"]]
    for site in data["sites"]:
        rows.append(
            [
                site["name"],
                str(site["units"]),
                f"{100 * site['macs_share']:.1f} %",
                f"{100 * site['params_share']:.1f} %",
                _few(site["producers"]),
                _few(site["consumers"]),
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [f"{data['network']}: {data['macs']:,} MACs, {data['params']:,} parameters", ""]
    for row in rows:
        cells = [
            cell.rjust(width) if 1 <= i <= 3 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines += ["", "MACs, params: what goes when the site alone shrinks to one unit.", "Left alone:"]
    lines += [f"  {layer}: {reason}" for layer, reason in data["unprunable"].items()]
    return "\n".join(lines)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
