"""What the benchmarks share: where results go, and what is noted beside them."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def write_result(
    name: str, result: dict[str, Any], hide: tuple[str, ...] = (), *, show: bool = True
) -> None:
    """Write ``results/NAME.json`` with the command and the versions, and print it (``show``).

    ``hide`` names options with a value that says nothing to others (a folder of this machine).
    """
    shown = list(sys.argv[1:])
    for option in hide:
        if option in shown:
            i = shown.index(option)
            shown[i + 1] = option.removeprefix("--").replace("-", "_").upper()
    content = {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *shown]),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {p: version(p) for p in ("torch", "pyro-ppl", "arviz")},
        **result,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    if show:
        print(json.dumps(content, indent=1))


def digits(value: Any) -> Any:
    """The same with five significant digits: the file is for reading."""
    if isinstance(value, dict):
        return {key: digits(part) for key, part in value.items()}
    if isinstance(value, list):
        return [digits(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
