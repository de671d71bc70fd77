"""``dirprune info``: the names that options take, and what guides, priors and criteria are."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
    if name in KINDS:
        return KINDS[name].tell(KINDS[name].entries, as_json)
    family = name.partition(":")[0]  # a value or an option may follow
    for kind in KINDS.values():
        if family in kind.entries:
            return kind.tell([family], as_json)
    if is_own(name) and name.rpartition(":")[2].isidentifier():
        return None
    entries = [*KINDS, *(entry for kind in KINDS.values() for entry in kind.entries)]
    near = difflib.get_close_matches(name, [*NETWORKS, *entries], n=3)
    if name not in NETWORKS and near and near[0] in entries:
        raise DirpruneError(
            f"unknown name {name!r}; did you mean {' or '.join(map(repr, near))}? 'dirprune info' "
            "lists all"
        )
    return None


@dataclass(frozen=True)
class Kind[T: Family | PriorFamily | Criterion]:
    """What can be said of the entries of a registry, beside their names and summaries.

    Attributes:
        entries: the registry.
        facts: of an entry, for JSON.
        detail: (name, entry) -> the second line about it.
        form: (name, entry) -> how the name is written.
    """

    entries: Mapping[str, T]
    facts: Callable[[T], dict[str, Any]]
    detail: Callable[[str, T], str]
    form: Callable[[str, T], str] = lambda name, _: name

    def tell(self, names: Iterable[str], as_json: bool) -> str:
        """These entries, as two lines each or as JSON."""
        found = {name: self.entries[name] for name in names}
        if as_json:
            return json.dumps(
                [{"name": n, "summary": e.summary, **self.facts(e)} for n, e in found.items()],
                indent=1,
            )
        return "\n".join(
            f"{self.form(n, e)}: {e.summary}\n    {self.detail(n, e)}" for n, e in found.items()
        )


def _options(entry: Family | Criterion) -> str:
    return ", ".join(f"{k}={v}" for k, v in entry.options.items()) or "none"


def _reads(criterion: Criterion) -> str:
    *others, last = "the network", *criterion.reads
    return " and ".join([", ".join(others), last] if others else [last])


KINDS: dict[str, Kind[Any]] = {
    "guides": Kind[Family](
        GUIDES,
        lambda guide: {"elbo": guide.right_elbo, "options": guide.options},
        lambda _, guide: f"{guide.right_elbo}; --guide-options: {_options(guide)}",
    ),
    "priors": Kind[PriorFamily](
        PRIORS,
        lambda prior: {"parameters": prior.parameters},
        lambda name, prior: (
            "default: " + ":".join([name, *(f"{value:g}" for value in prior.parameters.values())])
        ),
        lambda name, prior: ":".join([name, *map(str.upper, prior.parameters)]),
    ),
    "evidence": Kind[Criterion](
        CRITERIA,
        lambda criterion: {"reads": criterion.reads, "options": criterion.options},
        lambda _, criterion: f"reads {_reads(criterion)}; options: {_options(criterion)}",
    ),
}
