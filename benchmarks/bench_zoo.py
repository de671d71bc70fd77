"""Every classification network of torchvision: what of it can be pruned, exactly, and what cannot.

One process for each network. The graph is built from a skeleton (1000 classes, the usual images, on
the meta device: no memory for the weights). Where memory allows, 30 % of all units of the network
itself (ten classes, small images, random weights and statistics) are then removed, and the pruned
network is compared with the masked one in float64, trained for a step, saved and loaded.

Results are kept network by network: run again, it goes on where it was stopped. ``--models`` does
some anew. Seconds are of the processor, on one thread. Writes ``results/zoo.json`` and, for people,
``results/zoo.md``.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, write_result
from tables import zoo_table
from zoo import (
    NAMES,
    check_storage,
    check_training,
    differences,
    family,
    graph_of,
    random_decision,
    shares,
    skeleton,
    small_size,
    switched,
    target,
)

from dirprune import prune

# The comparison holds, for each parameter, 4 bytes of the network and 4 of its traced copy, and in
# float64 8 of the network and 8 of the masked or the pruned one; and more while these are made:
# vit_h_14 was killed at 33.
BYTES_PER_PARAMETER = 36


def examine(name: str) -> dict[str, Any]:
    """The row of one network; run in a process of its own."""
    started = time.process_time()
    network, graph = graph_of(name)
    seconds = time.process_time() - started
    row: dict[str, Any] = {
        "network": name,
        "family": family(name),
        "parameters": sum(p.numel() for p in network.parameters()),
        "sites": len(graph.sites),
        "units": graph.num_units,
        "share": {what: round(value, 4) for what, value in shares(network, graph).items()},
        "target": target(name),
        "seconds": round(seconds, 1),
        "peak_mb": _peak_mb(),
        "left_alone": dict(Counter(map(_kind, graph.unprunable.values())).most_common()),
    }
    return row | compare(name)


def compare(name: str) -> dict[str, Any]:
    """The comparison of the pruned network with the masked one, where there is memory for it."""
    small = sum(p.numel() for p in skeleton(name)[0].parameters())
    needed, free = BYTES_PER_PARAMETER * small, 1024 * _proc("/proc/meminfo", "MemAvailable")
    if needed > free:
        why = f"needs about {needed / 2**30:.0f} GiB of memory, {free / 2**30:.0f} GiB are free"
        return {"verified": None, "why_not": why}
    started = time.process_time()
    model = switched(name)
    decision = random_decision(model)
    pruned = prune(model, decision)
    row = differences(model, decision, pruned)
    check_storage(model, pruned)
    check_training(pruned, *model.example_inputs)
    return {
        "image": small_size(name),
        "verified": row["exact"],
        "effect": round(row["effect"], 3),
        "parameters_left": round(
            sum(p.numel() for p in pruned.parameters())
            / sum(p.numel() for p in model.network.parameters()),
            3,
        ),
        "sites_that_failed": {
            layer: why for layer, why in model.unprunable.items() if "cannot be cut" in why
        },
        "verify_seconds": round(time.process_time() - started, 1),
        "verify_peak_mb": _peak_mb(),
    }


def _peak_mb() -> int:
    """The most memory that this process has held, in MB."""
    # Not resource.getrusage: it counts what the parent held when it started this process.
    return _proc("/proc/self/status", "VmHWM") // 1024


def _proc(path: str, field: str) -> int:
    """A number of kB in one of Linux's status files."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


def _kind(reason: str) -> str:
    """A reason without the names of layers."""
    return re.sub(r"'[^']*'", "...", re.sub(r" in [\w.]+\)", ")", reason))


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each network, in markdown."""
    lines = [
        "| network | sites | units | parameters | multiply-adds | s | MB | masked − pruned | "
        "left alone (layers) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: NAMES.index(r["network"])):
        left = "; ".join(f"{reason} ({count})" for reason, count in row["left_alone"].items())
        verified = row.get("verified")
        lines.append(
            f"| {row['network']} | {row['sites']} | {row['units']} | "
            f"{100 * row['share']['params']:.1f} % | {100 * row['share']['macs']:.1f} % | "
            f"{row['seconds']:.1f} | {row['peak_mb']} | "
            f"{row.get('why_not', '–') if verified is None else f'{verified:.0e}'} | {left} |"
        )
    return "\n".join(lines)


def main(models: list[str]) -> None:
    path = RESULTS / "zoo.json"
    rows = {r["network"]: r for r in json.loads(path.read_text())["rows"]} if path.exists() else {}
    for name in models or [name for name in NAMES if name not in rows]:
        done = subprocess.run(
            [sys.executable, __file__, "--examine", name], capture_output=True, text=True
        )
        if done.returncode:
            print(f"{name}: {(done.stderr.splitlines() or ['killed'])[-1]}", flush=True)
            continue
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {rows[name]}", flush=True)
        write_result("zoo", {"rows": list(rows.values())}, show=False)
    families = "\n".join(zoo_table())
    (RESULTS / "zoo.md").write_text(f"{families}\n\n{table(list(rows.values()))}\n")
    print(families)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=[], choices=NAMES, metavar="NAME")
    parser.add_argument("--examine", choices=NAMES, metavar="NAME", help="print one row as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.examine:
        print(json.dumps(examine(options.examine)))
    else:
        main(options.models)
