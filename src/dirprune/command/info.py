"""``dirprune info``: the names that options take, and what guides, priors and criteria are."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping

from ..analysis.evidence import CRITERIA, Criterion
from ..guides import GUIDES, Family
from ..inference.data import data_names
from ..model.errors import DirpruneError
from ..model.networks import NETWORKS, is_own, network_names
from ..model.priors import PRIORS, PriorFamily


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
    names["networks"] = [
        *NETWORKS,
        f"torchvision:NAME ({others} names; --json lists them)",
        "FILE.py:FACTORY or MODULE:FACTORY (your own)",
    ]
    return "\n".join(f"{kind + ':':10} {', '.join(values)}" for kind, values in names.items())


def look_up(name: str, as_json: bool) -> str | None:
    """All guides, priors or criteria, or the one of that name; None where it may be a network's.

    Raises:
        DirpruneError: the name is like one of these, and like no network's.
    """
    if name == "guides":
        return list_guides(GUIDES, as_json)
    if name == "priors":
        return list_priors(PRIORS, as_json)
    if name == "evidence":
        return list_criteria(CRITERIA, as_json)
    family = name.partition(":")[0]  # a value or an option may follow
    if family in GUIDES:
        return list_guides({family: GUIDES[family]}, as_json)
    if family in PRIORS:
        return list_priors({family: PRIORS[family]}, as_json)
    if family in CRITERIA:
        return list_criteria({family: CRITERIA[family]}, as_json)
    if is_own(name) and name.rpartition(":")[2].isidentifier():
        return None
    entries = ["guides", "priors", "evidence", *GUIDES, *PRIORS, *CRITERIA]
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


def list_criteria(criteria: Mapping[str, Criterion], as_json: bool) -> str:
    """Criteria by name: what they are, what they read and their options."""
    if as_json:
        found = [
            {"name": n, "summary": c.summary, "reads": c.reads, "options": c.options}
            for n, c in criteria.items()
        ]
        return json.dumps(found, indent=1)
    lines = []
    for name, criterion in criteria.items():
        options = ", ".join(f"{k}={v}" for k, v in criterion.options.items()) or "none"
        *others, last = "the network", *criterion.reads
        reads = " and ".join([", ".join(others), last] if others else [last])
        lines += [f"{name}: {criterion.summary}", f"    reads {reads}; options: {options}"]
    return "\n".join(lines)
