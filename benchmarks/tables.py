"""Print the README's tables of guides, priors, temperatures and latency from ``results/*.json``."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BUDGETS = ("macs=0.5", "macs=0.25", "macs=0.1")
TEMPERED = {"digits": 0.3, "lenet5": 0.01}  # the nearest in the grids to 500/N


def result(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text())


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def truth_table() -> list[str]:
    """Every guide on the problems with known posteriors: medians over seeds, and SBC's verdicts."""
    problems = result("guides")["results"]
    known = ("dirichlet-multinomial", "linear-gaussian")
    verdicts = [result(f"sbc_{problem}")["results"] for problem in known]
    lines = [
        "| guide | conjugate: gap | linear-Gaussian: gap | sd ratio | correlation | digits MLP: "
        "bias | sd ratio | correlation | SBC, conjugate | SBC, linear-Gaussian |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def middle(problem: str, guide: str, key: str, digits: int) -> str:
        values = [r[key] for r in problems[problem]["guides"][guide] if r[key] is not None]
        return number(statistics.median(values) if values else None, digits)

    for guide in problems["linear-gaussian"]["guides"]:
        cells = [middle("dirichlet-multinomial", guide, "elbo_gap", 3)]
        cells += [
            middle("linear-gaussian", guide, key, digits)
            for key, digits in (("elbo_gap", 2), ("sd_ratio", 2), ("correlation", 2))
        ]
        cells += [
            middle("digits-mlp", guide, key, 2) for key in ("bias", "sd_ratio", "correlation")
        ]
        for found in (summaries.get(guide) for summaries in verdicts):
            cells.append("–" if found is None else found["verdict"])
        lines.append(f"| `{guide}` | " + " | ".join(cells) + " |")
    return lines


def grid_rows(name: str, **wanted: Any) -> list[dict[str, Any]]:
    rows = result(f"grid_{name}")["rows"]
    return [r for r in rows if all(r[key] == value for key, value in wanted.items())]


def grid_line(label: str, row: dict[str, Any]) -> str:
    accuracy = [row["accuracy"][b]["pruned"] for b in BUDGETS]
    cells = [
        number(row["elpd"]["mean"], 3), number(row["elbo"]["mean"], 0),
        number(row["khat"]["mean"], 1),
        *(f"{number(a['mean'], 1)} ± {number(a['sd'], 1)}" for a in accuracy),
    ]  # fmt: skip
    return f"| {label} | " + " | ".join(cells) + " |"


def grid_head(label: str) -> list[str]:
    budgets = " | ".join(f"% at `{b}`" for b in BUDGETS)
    return [f"| {label} | elpd | ELBO | k-hat | {budgets} |", "|---|---|---|---|---|---|---|"]


def temperature_table() -> list[str]:
    lines = grid_head("guide `dirichlet`, prior `symmetric:1`")
    for name, title in (("digits", "digits-cnn"), ("lenet5", "LeNet-5")):
        rows = grid_rows(name, guide="dirichlet", prior="symmetric:1")
        for row in sorted(rows, key=lambda r: -r["temperature"]):
            lines.append(grid_line(f"{title}, τ = {row['temperature']:g}", row))
    return lines


def guide_table() -> list[str]:
    return tempered_table("guide", prior="symmetric:1")


def prior_table() -> list[str]:
    return tempered_table("prior", guide="dirichlet")


def tempered_table(of: str, **fixed: str) -> list[str]:
    """One axis of the grids at the temperature nearest to the default, the other one fixed."""
    ((axis, value),) = fixed.items()
    lines = grid_head(f"{axis} `{value}`")
    for name, title in (("digits", "digits-cnn"), ("lenet5", "LeNet-5")):
        rows = grid_rows(name, temperature=TEMPERED[name], **fixed)
        for row in sorted(rows, key=lambda r: -r["elpd"]["mean"]):
            lines.append(grid_line(f"{title}, τ = {TEMPERED[name]:g}, `{row[of]}`", row))
    return lines


def criteria_table() -> list[str]:
    """LeNet-5 at equal widths: every method with nothing compensated and with least squares."""
    rows = result("criteria_lenet5")["rows"]
    budgets = [f"keep={share}" for share in (0.9, 0.7, 0.5, 0.3, 0.2, 0.1)]  # of nine
    heads = [f"`{budget}`" for budget in budgets]
    lines = []
    for compensation, label in (
        ("none", "nothing compensated"),
        ("least-squares", "least squares"),
    ):
        lines += [
            f"| {label} | {' | '.join(heads)} | loss removed | passes |",
            "|---|" + "---|" * (len(heads) + 2),
        ]
        for row in (r for r in rows if r["compensation"] == compensation):
            cells = []
            for budget in budgets:
                at = row["budgets"][budget]
                text = f"{number(at['test']['mean'], 1)} ± {number(at['test']['sd'], 1)}"
                cells.append(f"**{text}**" if at["best"] else text)
            share = f"{round(100 * row['loss_removed']['share']) + 0} %".replace("-", "−")
            total = f"{row['forwards']['total']:,.0f}"
            cells += [share, total]
            lines.append(f"| `{row['method']}` | {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]


def uncertainty_table() -> list[str]:
    """Confidence about swaps and how often it was right, over the swaps of all networks."""
    lines = [
        "| probabilities from | kept | swaps | mean confidence | right |",
        "|---|---|---|---|---|",
    ]
    for row in result("uncertainty")["swaps"]:
        source = (
            "search, `subnetwork_posterior`"
            if row["temperature"] is None
            else f"`removal-cost`, τ = {row['temperature']:g}"
        )
        kept, confidence, right = (
            f"{100 * row[key]:.0f} %" for key in ("kept", "confidence", "right")
        )
        lines.append(f"| {source} | {kept} | {row['swaps']} | {confidence} | {right} |")
    return lines


def latency_table() -> list[str]:
    """Speed-ups on one thread: median and quartiles over rounds."""
    found = result("latency")["results"]
    cuts = [(r["budget"], r["round_to"]) for r in found[0]["pruned"]]
    heads = [f"`macs={macs}`" + (f", `round_to={n}`" if n else "") for macs, n in cuts]
    lines = [
        "| network | images | ms before | " + " | ".join(heads) + " |",
        "|---|---|---|" + "---|" * len(heads),
    ]
    for network in found:
        before = network["original"]["1"]
        cells = [
            network["network"].removeprefix("torchvision:"),
            f"{network['batch']} of {network['size']}²",
            f"{before['ms']:,.0f}" if before["ms"] >= 100 else f"{before['ms']:.3g}",
        ]
        for row in network["pruned"]:
            share = row["threads"]["1"]
            low, high = (1 / s for s in reversed(share["share_quartiles"]))
            cells.append(f"{1 / share['share']:.2f} ({low:.2f}–{high:.2f})")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def zoo_table() -> list[str]:
    """Torchvision's networks, a line for each family: the least and the most over its networks."""
    rows = result("zoo")["rows"]
    lines = [
        "| family | networks | sites | parameters ≥ | multiply-adds ≥ | s ≤ | "
        "masked − pruned ≤ (networks) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted({row["family"] for row in rows}):
        own = [row for row in rows if row["family"] == name]
        sites = sorted({row["sites"] for row in own})
        exact = [row["verified"] for row in own if row["verified"] is not None]
        lines.append(
            f"| {name} | {len(own)} | {'–'.join(map(str, sorted({sites[0], sites[-1]})))} | "
            f"{100 * min(row['share']['params'] for row in own):.1f} % | "
            f"{100 * min(row['share']['macs'] for row in own):.1f} % | "
            f"{max(row['seconds'] for row in own):.1f} | "
            f"{f'{max(exact):.0e} ({len(exact)})' if exact else '–'} |"
        )
    return lines


def graph_table() -> list[str]:
    """Seconds of the processor to build the graph, ours and torch-pruning's: medians of one run."""
    lines = ["| network | dirprune | torch-pruning |", "|---|---|---|"]
    for row in result("graph")["rows"]:
        other = row.get("torch-pruning")
        seconds = "fails" if other is None else f"{other['median']:.2f} s"
        lines.append(f"| {row['network']} | {row['dirprune']['median']:.1f} s | {seconds} |")
    return lines


if __name__ == "__main__":
    for table in (
        truth_table, temperature_table, guide_table, prior_table, criteria_table,
        uncertainty_table, zoo_table,
        graph_table, latency_table,
    ):  # fmt: skip
        print("\n".join(table()), end="\n\n")
