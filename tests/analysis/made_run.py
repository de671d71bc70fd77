"""A run's folder with made-up draws, and a reader of its report."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser

import numpy as np
import torch
import xarray as xr

from dirprune.analysis.diagnostics import diagnose
from dirprune.analysis.tree import save_tree, site_dataset
from dirprune.model.cost import CostTable, Term
from dirprune.model.decision import Decision


def make_run(folder, sizes, *, probability=True, evidence="removal-cost", **changes):
    """A run's folder with made-up draws; ``changes`` go into metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    phi = {n: 0.5 + 5 * torch.rand(2, k) for n, k in sizes.items()}
    switches = {
        n: torch.distributions.Dirichlet(p).sample((30,)).transpose(0, 1) for n, p in phi.items()
    }
    total, terms, start = sum(sizes.values()), [], 0
    for k in sizes.values():
        rows = np.zeros(total, dtype=np.int64)
        rows[start : start + k] = 1
        start += k
        terms.append(Term(100, 0, rows, 3, 0 * rows))
    table = CostTable(sizes, (0, terms), (0, terms))
    rng = np.random.default_rng(0)
    stats, sample = rng.normal(size=(2, 30)), ("chain", "draw")
    p = rng.dirichlet(np.ones(3), size=40)
    predicted = dict.fromkeys(("probabilities", "network_probabilities"), (("image", "class"), p))
    tree = xr.DataTree.from_dict(
        {
            "posterior": site_dataset(switches, ("chain", "draw")),
            "prior": site_dataset({n: s[:1] for n, s in switches.items()}, ("chain", "draw")),
            "concentration": site_dataset(phi, ("chain",)),
            "evidence": site_dataset(
                {n: s * torch.rand(s.shape[-1]) for n, s in switches.items()}, ("chain", "draw")
            ),
            "sample_stats": xr.Dataset({"lp": (sample, stats), "log_q": (sample, 0 * stats)}),
            "log_prior": xr.Dataset({"switches": (sample, stats)}),
            "log_likelihood": xr.Dataset({"targets": ((*sample, "image"), stats[..., None])}),
            "validation": xr.Dataset(
                {
                    "log_likelihood": ((*sample, "image"), rng.normal(size=(2, 30, 40))),
                    "targets": ("image", np.arange(40) % 3),
                    **predicted,
                }
            ),
            "cost_table": xr.Dataset({"json": json.dumps(table.to_dict())}),
        }
    )
    made = {"created_at": "2026-01-01T00:00:00+00:00", "seed": 7}
    tree.attrs = {"temperature": 0.01, "num_data": 100, **made}
    kept = {n: torch.arange(max(1, k // 2)) for n, k in sizes.items()}
    chance = {n: torch.linspace(0.9, 0.05, k) for n, k in sizes.items()}
    decision = Decision(kept, chance if probability else {}, {"budget": {"macs": 0.5}})
    losses = np.random.default_rng(0).normal(100, 5, size=(2, 60)).tolist()
    history = {"svi": losses, "training": [], "finetuning": losses[0][:20]}
    metrics = {
        "network": "lenet5",
        "data": "mnist",
        "budget": {"macs": 0.5},
        "evidence": evidence,
        "accuracy": {"original": 99.4, "pruned": 60.1, "compensated": None, "finetuned": 99.21},
        "accuracy_validation": {"original": 99.1, "pruned": 61.5, "finetuned": 98.9},
        "images": {"train": 55000, "validation": 5000, "test": 10000},
        "macs": {"before": 2293000, "after": 1100000},
        "params": {"before": 431080, "after": 216000},
        "latency_ms": {"before": 4.25, "after": 2.5},
        "latency_iqr_ms": {"before": 0.25, "after": 0.125},
        "latency_batch": 128,
        "seconds": {"svi": 12.5},
        "seed": 7,
        "posterior": made,
        "versions": {"torch": "2.15.0"},
        "settings": {"temperature": 0.01, "weights": None},
        "sites": [
            {"name": n, "units": k, "kept": len(kept[n]), "producers": [n], "consumers": ["next"]}
            for n, k in sizes.items()
        ],
        "unprunable": {"fc2": "it is the network's output"},
        "diagnostics": diagnose(tree, history),
        "warnings": [],
    }
    save_tree(tree, folder / "posterior.nc")
    decision.save(folder / "decision.json")
    (folder / "history.json").write_text(json.dumps(history))
    (folder / "metrics.json").write_text(json.dumps({**metrics, **changes}))
    return folder


class Parser(HTMLParser):
    """Collects tags and attributes, and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def visible(text):
    """The words of a page, without tags and pictures."""
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text)))
