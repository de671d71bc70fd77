"""Wall time of ``make demo`` after the install: ``dirprune run`` in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import write_result

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dirprune", "run", "--out", str(out)], check=True)
        seconds = time.perf_counter() - started
        metrics = json.loads((out / "metrics.json").read_text())
    write_result(
        "demo",
        {
            "wall_seconds": round(seconds, 1),
            "stages": metrics["seconds"],
            "accuracy": metrics["accuracy"],
            "macs": metrics["macs"],
            "params": metrics["params"],
        },
    )
