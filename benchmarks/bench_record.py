"""The LeNet-5 record: test error on MNIST within 100,000 multiply-adds and 2,800 parameters.

A seed is a separately trained LeNet-5. It shrinks along ``PATH``, one pair of budgets after the
other: units go by the removal cost of a posterior over what is left, least squares makes up for
them, and a few epochs follow before the next pair. From the cut to the record's budgets it is
trained for long. ``--frontier`` trains so from the cuts to other budgets too. ``--scratch`` is the
control: new weights at the record's widths, trained alike, and longer by the epochs of the path.

The recipe was chosen by the validation images of seed 0, which are held out from its training
images. Test images are looked at once, at the end of a training, and choose nothing.

Needs MNIST (``--data-root``, or a download). ``--networks`` names a folder with trained networks
(``seed-0`` and so on) of ``dirprune run --network lenet5 --data mnist --seed 0``; what is not there
is trained. With ``--out`` what is finished stays there, and an interrupted benchmark goes on.
Writes ``results/record.json`` after each training, and prints its table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import write_result
from torch import nn

import dirprune
from dirprune.inference.data import ImageData
from dirprune.inference.loop import seed_of
from dirprune.model.writing import atomic_write


class Point(NamedTuple):
    """Upper bounds of the multiply-adds and the parameters, and the epochs before the next cut."""

    macs: int
    params: int
    epochs: int

    @property
    def name(self) -> str:
        return f"{self.macs}-{self.params}"


RECORD = Point(100_000, 2_800, 4)
PATH = (
    Point(400_000, 40_000, 2),
    Point(220_000, 14_000, 2),
    Point(150_000, 6_500, 3),
    Point(115_000, 4_000, 4),
    RECORD,
    Point(70_000, 2_000, 4),
)
FRONTIER = (PATH[1], PATH[2], RECORD, PATH[-1])
EPOCHS = 60  # of the long training
BATCH, LR, AUGMENT = 128, 0.05, "small-shift"
TRAIN_EPOCHS = 10  # of LeNet-5 itself, with the shifts that dirprune run gives it
EFFECTIVE_IMAGES = 500  # of the tempered likelihood, as for dirprune run


class Seed:
    """What follows from one seed: its images, its network, and the networks on its path."""

    def __init__(self, seed: int, data_root: str | None, networks: Path | None, out: Path) -> None:
        self.seed, self.networks, self.folder = seed, networks, out / f"seed-{seed}"
        self.data: ImageData = dirprune.load_data("mnist", root=data_root, seed=seed)

    def original(self) -> nn.Module:
        """The trained LeNet-5: given, kept, or trained now."""
        given = None if self.networks is None else self.networks / f"seed-{self.seed}"
        if given is not None and given.exists():
            return dirprune.load(given)
        if not (self.folder / "original").exists():
            network = new_lenet5(seed_of([self.seed, 0]))
            dirprune.train(
                network, dirprune.loader(self.data.train, 128, shuffle=True, augment="shift"),
                epochs=TRAIN_EPOCHS, seed=seed_of([self.seed, 1]),
                checkpoint=self.folder / "original.checkpoint", resume=True,
            )  # fmt: skip
            dirprune.save(self.folder / "original", network)
        return dirprune.load(self.folder / "original")

    def switched(self, network: nn.Module) -> dirprune.SwitchedNetwork:
        images = len(self.data.train)
        return dirprune.SwitchedNetwork(
            network, self.data.train[[0, 1]][0], num_data=images,
            temperature=EFFECTIVE_IMAGES / images,
        )  # fmt: skip

    def cut(self, number: int) -> nn.Module:
        """The network right after the cut to ``PATH[number]``."""
        path = self.folder / f"cut-{PATH[number].name}"
        if not path.exists():
            model = self.switched(self.tuned(number - 1) if number else self.original())
            found = dirprune.prune_in_rounds(
                model, dirprune.loader(self.data.train, 128, shuffle=True), rounds=2,
                **goal(model, PATH[number]), compensate="least-squares",
                seed=seed_of([self.seed, 2, number]),
            )  # fmt: skip
            dirprune.save(path, found.network)
        return dirprune.load(path)

    def tuned(self, number: int) -> nn.Module:
        """The same after the few epochs that it gets on the path."""
        path = self.folder / f"path-{PATH[number].name}"
        if not path.exists():
            network = self.cut(number)
            self.finetune(network, PATH[number].epochs, 3)
            dirprune.save(path, network)
        return dirprune.load(path)

    def finetune(
        self, network: nn.Module, epochs: int, stage: int, checkpoint: Path | None = None
    ) -> None:
        dirprune.finetune(
            network, dirprune.loader(self.data.train, BATCH, shuffle=True, augment=AUGMENT),
            epochs=epochs, lr=LR, weight_decay=0.0, seed=seed_of([self.seed, stage]),
            checkpoint=checkpoint, resume=checkpoint is not None,
        )  # fmt: skip

    def row(self, point: Point, epochs: int, *, scratch: bool = False) -> dict[str, Any]:
        """The long training after a cut, or from new weights at its widths; kept when finished."""
        label = f"{'scratch' if scratch else 'pruned'}-{point.name}-{epochs}"
        path = self.folder / f"{label}.json"
        if not path.exists():
            number = PATH.index(point)
            network = self.cut(number)
            started = time.process_time()
            if scratch:
                network = untrained(network, seed_of([self.seed, 4]))
                epochs += sum(p.epochs for p in PATH[:number])
            checkpoint = self.folder / f"{label}.checkpoint"
            self.finetune(network, epochs, 5, checkpoint)
            row = {
                "seed": self.seed, "start": "scratch" if scratch else "pruned",
                "budget": {"macs": point.macs, "params": point.params},
                **self.measured(network), "epochs": epochs,
                "cpu_seconds": round(time.process_time() - started),
            }  # fmt: skip
            dirprune.save(self.folder / label, network)
            atomic_write(path, json.dumps(row))
            checkpoint.unlink(missing_ok=True)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def measured(self, network: nn.Module) -> dict[str, Any]:
        costs = self.switched(network).costs
        error = {
            part: round(100 - dirprune.evaluate(network, dirprune.loader(images, 512)).percent, 3)
            for part, images in (("validation", self.data.validation), ("test", self.data.test))
        }
        return {
            "widths": list(costs.sites.values()),
            "macs": int(costs.total("macs")), "params": int(costs.total("params")),
            "error_percent": error,
        }  # fmt: skip


def goal(model: dirprune.SwitchedNetwork, point: Point) -> dict[str, Any]:
    """The budgets of a point, as shares of a network that is small already."""
    bounds = {"macs": point.macs, "params": point.params}
    return {what: min(1.0, bound / model.costs.total(what)) for what, bound in bounds.items()}


def new_lenet5(seed: int) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return dirprune.build_network("lenet5", num_classes=10, in_channels=1, size=28)


def untrained(network: nn.Module, seed: int) -> nn.Module:
    """The same network with new weights, drawn as torch draws those of its layers."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
    return network


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread over seeds, for each pair of budgets and each start."""
    groups: dict[tuple[int, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((*row["budget"].values(), row["start"]), []).append(row)
    return [
        {
            "macs_at_most": macs, "params_at_most": params, "start": start,
            "seeds": len(group),
            "macs": max(r["macs"] for r in group), "params": max(r["params"] for r in group),
            **{
                f"{part}_error_percent": spread([r["error_percent"][part] for r in group])
                for part in ("test", "validation")
            },
        }
        for (macs, params, start), group in sorted(groups.items(), reverse=True)
    ]  # fmt: skip


def spread(values: Sequence[float]) -> dict[str, float | None]:
    deviation = round(statistics.stdev(values), 3) if len(values) > 1 else None
    return {"mean": round(statistics.mean(values), 3), "sd": deviation, "worst": max(values)}


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| multiply-adds at most | parameters at most | start | seeds | test error % | worst | "
        "widths |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in summary(rows):
        error = line["test_error_percent"]
        widths = {
            "-".join(map(str, r["widths"]))
            for r in rows
            if (*r["budget"].values(), r["start"])
            == (line["macs_at_most"], line["params_at_most"], line["start"])
        }
        deviation = "" if error["sd"] is None else f" ± {error['sd']:.2f}"
        lines.append(
            f"| {line['macs_at_most']:,} | {line['params_at_most']:,} | {line['start']} | "
            f"{line['seeds']} | {error['mean']:.2f}{deviation} | {error['worst']:.2f} | "
            f"{', '.join(sorted(widths))} |"
        )
    return "\n".join(lines)


def run(options: argparse.Namespace, out: Path) -> None:
    wanted = [(seed, RECORD, False) for seed in options.seeds]
    wanted += [(seed, RECORD, True) for seed in options.scratch]
    wanted += [(seed, p, False) for seed in options.frontier for p in FRONTIER if p is not RECORD]
    seeds: dict[int, Seed] = {}
    rows = []
    for seed, point, scratch in wanted:
        if seed not in seeds:
            seeds[seed] = Seed(seed, options.data_root, options.networks, out)
        rows.append(seeds[seed].row(point, options.epochs, scratch=scratch))
        recipe = {
            "path": [point._asdict() for point in PATH], "epochs": options.epochs, "batch": BATCH,
            "lr": LR, "augment": AUGMENT,
        }  # fmt: skip
        write_result(
            "record",
            {"data": "LeNet-5 on MNIST, 10,000 test images", "recipe": recipe,
             "summary": summary(rows), "rows": rows},
            hide=("--data-root", "--networks", "--out"), show=False,
        )  # fmt: skip
        print(table(rows), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--scratch", type=int, nargs="*", default=[0, 1, 2], help="seeds")
    parser.add_argument("--frontier", type=int, nargs="*", default=[0, 1, 2], help="seeds")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the long training")
    parser.add_argument("--data-root")
    parser.add_argument("--networks", type=Path)
    parser.add_argument("--out", type=Path, help="keep the networks here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments, arguments.out or Path(temporary))
