"""All criteria against each other at equal widths, by ``dirprune compare`` of methods.

LeNet-5 on MNIST (three trained networks; ``--networks`` reuses those of a folder) and ResNet-20 on
CIFAR-10 (``--weights``, one network, so that seeds are of the scoring), 90 ... 10 % kept, one-shot:
with nothing, with recalibrated batch norms and with least squares. Writes
``results/criteria_lenet5.json``, ``results/criteria_resnet20.json`` (``--resnet20``) or
``results/criteria_digits.json`` (``--digits``: the quick form, on embedded images). With ``--out``
the trials stay there, and what was interrupted goes on.

``--budgets macs=0.5,macs=0.3 --widths none`` gives each method its own widths, ``--protocol
low-data`` few images; ``--name`` then names the result.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from common import digits, write_result

from dirprune.command import main

RIVALS = (
    "random,l1-norm,l2-norm,apoz,taylor,fisher,leave-one-out,shapley,shapley:std=0,sbp,bmrs,"
    "l1-norm+rounds=6,fisher+rounds=6,fisher+rounds-least-squares=6"
)
OURS = (
    "removal-cost,concentration,mean,snr,among-best,removal-cost+rounds=6,l1-norm+refine,"
    "removal-cost+refine,reconstruction,reconstruction+reselect"
)
SHARES = "keep=0.9,keep=0.8,keep=0.7,keep=0.6,keep=0.5,keep=0.4,keep=0.3,keep=0.2,keep=0.1"
JOBS: dict[str, dict[str, str]] = {
    "digits": {
        "network": "digits-cnn", "data": "digits", "budgets": "keep=0.5,keep=0.3,keep=0.1",
        "compensate": "none,least-squares",
    },
    "lenet5": {
        "network": "lenet5", "data": "mnist", "budgets": SHARES, "compensate": "none,least-squares",
    },
    "resnet20": {
        "network": "resnet20", "data": "cifar10", "budgets": SHARES,
        "compensate": "none,recalibrate,least-squares+recalibrate",
    },
}  # fmt: skip
OPTIONS = (  # of the command, passed on
    "evidence", "budgets", "widths", "compensate", "protocol", "seeds", "data", "data-root", "mean",
    "std", "weights", "low-data", "finetune-epochs", "processes",
)  # fmt: skip
HIDDEN = ("data", "data_root", "weights")  # paths of this machine
NORMS = "bn-scale"  # a criterion of networks with batch norms


def given(options: argparse.Namespace, name: str) -> str | None:
    """What the user gave for an option of the command."""
    value: str | None = getattr(options, name.replace("-", "_"))
    return value


def compare(job: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the comparison in its folder; what it found."""
    methods = f"{RIVALS},{OURS}" + (f",{NORMS}" if job == "resnet20" else "")
    settings = {
        "evidence": methods, "seeds": "0,1,2", "widths": "uniform", "protocol": "one-shot",
        **JOBS[job],
    }  # fmt: skip
    settings |= {name: value for name in OPTIONS if (value := given(options, name)) is not None}
    if settings["widths"] == "none":
        del settings["widths"]
    if options.networks is not None and not (folder / "networks").exists():
        shutil.copytree(options.networks, folder / "networks")
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    status = main(["compare", *words, "--out", str(folder), "--resume"])
    if not (folder / "comparison.json").exists():
        raise SystemExit(status)
    found = json.loads((folder / "comparison.json").read_text())
    source = "a folder" if settings["data"].startswith("folder:") else settings["data"]
    return {
        "data": f"{settings['network']} on images of {source}, accuracy on test images",
        "settings": {
            name: value for name, value in found["settings"].items() if name not in HIDDEN
        },
        "failed": status != 0,
        "against_shapley": against_shapley(found["rows"]),
        "rows": digits(found["rows"]),
    }


def against_shapley(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per protocol and compensation: what the best of ours removes of the best rivals' loss.

    Its cost is a share of Shapley's: passes of scoring and learning together.
    """
    found = []
    for block in dict.fromkeys((row["protocol"], row["compensation"]) for row in rows):
        here = [row for row in rows if (row["protocol"], row["compensation"]) == block]
        shapley = [row["forwards"]["total"] for row in here if row["method"].startswith("shapley")]
        for row in here:
            if row["rival"] or row["loss_removed"] is None:
                continue
            first = [b for b, at in row["budgets"].items() if at["best"]]
            cost = row["forwards"]["total"] / max(shapley) if shapley else None
            found.append(
                {
                    "protocol": block[0], "compensation": block[1], "method": row["method"],
                    "loss_removed": row["loss_removed"]["share"],
                    "mean_over_budgets": row["loss_removed"]["mean_over_budgets"],
                    "cost_over_shapley": cost, "first_at": first,
                }
            )  # fmt: skip
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", action="store_true", help="the embedded digits: quick")
    parser.add_argument("--resnet20", action="store_true", help="instead of LeNet-5")
    parser.add_argument("--name", help="of the result, behind criteria_ [default: the network's]")
    parser.add_argument("--out", type=Path, help="keep the trials here; what is there stays")
    parser.add_argument("--networks", type=Path, help="trained ones, as in a folder of compare")
    for option in OPTIONS:
        parser.add_argument(f"--{option}", help="as of dirprune compare")
    arguments = parser.parse_args()
    job = "digits" if arguments.digits else "resnet20" if arguments.resnet20 else "lenet5"
    with tempfile.TemporaryDirectory() as temporary:
        result = compare(job, arguments.out or Path(temporary) / "methods", arguments)
    write_result(
        f"criteria_{arguments.name or job}",
        result,
        hide=("--data-root", "--out", "--networks", "--weights", "--data"),
        show=False,
    )
