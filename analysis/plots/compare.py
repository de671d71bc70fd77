"""Guides, priors and temperatures side by side; each function returns a Figure.

Differences of held-out scores are drawn here and not by ``az.plot_compare``: its table comes from
``az.compare``, whose standard error takes the images of all networks for independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from .style import (
    INK,
    MARKERS,
    MUTED,
    PALE,
    SERIES,
    grid_axes,
    new_figure,
    styled,
    unit_limit,
)
from .views import intervals

Floats = NDArray[np.float64]
AGREEMENT = "cividis"
LEAST_POINTS = 10.0  # of accuracy, that an axis spans


@dataclass(frozen=True)
class AgreementMatrix:
    """Rank agreement between guides, with intervals; NaN where there is none.

    Attributes:
        guides: their names.
        value: [G, G], Kendall's tau; on the diagonal that of two halves of the guide's own draws.
        low: [G, G], the interval's lower end.
        high: [G, G], the upper.
        over: what the intervals are over, "seeds" or "draws"; empty where there are none.
    """

    guides: Sequence[str]
    value: Floats
    low: Floats
    high: Floats
    over: str = ""


def mark(index: int) -> tuple[str, str]:
    """Colour and marker of the index-th series: 36 that differ."""
    return SERIES[index % len(SERIES)], MARKERS[index // len(SERIES) % len(MARKERS)]


def dashes(index: int) -> str:
    """The style of its line: a colour that comes again is dashed."""
    return ("-", "--", ":", "-.")[index // len(SERIES) % 4]


@styled
def forest_figure(
    site: str,
    panels: Mapping[str, Mapping[str, Floats]],
    units: Sequence[int],
    where: str,
    note: str = "",
) -> Figure:
    """The gains of some units of a site under every guide, a panel for each prior.

    Args:
        site: its name.
        panels: prior -> guide -> posterior draws of the gains [S, K].
        units: which to show, from top to bottom.
        where: temperature and seed, for the title.
        note: what is not shown, below the panels.
    """
    guides = _names(panels.values())
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    height = max(2.2, 0.12 * len(units) * (len(guides) + 1.2))
    figure = new_figure(1.1 + rows * (height + 0.7))
    axes = grid_axes(figure, len(panels), columns)
    right = max(
        float(np.quantile(draws[:, list(units)], 0.95, axis=0).max())
        for guide in panels.values()
        for draws in guide.values()
    )
    for i, (ax, (prior, draws)) in enumerate(zip(axes, panels.items(), strict=True)):
        ax.axvline(1, color=MUTED, lw=0.9, ls=":")
        for row in range(len(units)):
            if row % 2:
                ax.axhspan(row - 0.5, row + 0.5, color=PALE, alpha=0.25, lw=0)
        for guide, values in draws.items():
            g = guides.index(guide)
            color, marker = mark(g)
            y = np.arange(len(units)) + (g - (len(guides) - 1) / 2) * 0.8 / len(guides)
            low, q1, median, q3, high = intervals(values[:, list(units)])
            ax.hlines(y, low, high, color=color, lw=1.1, ls=dashes(g))
            ax.hlines(y, q1, q3, color=color, lw=2.8)
            ax.scatter(
                median, y, s=16, color=color, marker=marker, zorder=3, lw=0.6, edgecolor="white"
            )
        ax.set_yticks(range(len(units)), [str(u) for u in units])
        ax.set_ylim(len(units) - 0.4, -0.6)
        ax.set_xlim(0, 1.04 * right)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel("gain K × switch")
        ax.set_title(f"prior {unit_limit(prior)}")
        if i % columns == 0:
            ax.set_ylabel("unit, by mean score")
    figure.suptitle(
        f"{unit_limit(site)}: median, 50 % and 90 % intervals, {where}", fontweight="bold",
        fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
    _legend(figure, guides, note=note)
    return figure


@styled
def agreement_figure(panels: Mapping[str, AgreementMatrix], title: str) -> Figure:
    """A heat map per prior: Kendall's tau of the removal order between guides, with its interval.

    On the diagonal stands the agreement of two halves of one guide's draws: what the noise of the
    draws leaves room for.
    """
    number = max(len(m.guides) for m in panels.values())
    columns = min(len(panels), 3 if number <= 3 else 2 if number <= 5 else 1)
    rows = -(-len(panels) // columns)
    side = max(1.5, 0.62 * number)
    figure = new_figure(0.9 + rows * (side + 1.6), min(10.0, 2.0 + columns * (side + 3.0)))
    axes = grid_axes(figure, len(panels), columns)
    image = None
    values = [v for m in panels.values() for v in m.value.ravel() if math.isfinite(v)]
    bottom = min(0.6, math.floor(5 * min(values, default=0.0)) / 5)
    for i, (ax, (prior, m)) in enumerate(zip(axes, panels.items(), strict=True)):
        image = ax.imshow(m.value, cmap=AGREEMENT, vmin=bottom, vmax=1, aspect="auto")
        for (r, c), value in np.ndenumerate(m.value):
            if not math.isfinite(value):
                continue
            text = f"{value:.2f}"
            if math.isfinite(m.low[r, c]):
                text += f"\n[{m.low[r, c]:.2f}, {m.high[r, c]:.2f}]"
            ax.text(
                c, r, text, ha="center", va="center", fontsize=8,
                color="white" if value < 0.45 * bottom + 0.55 else INK,
                fontstyle="italic" if r == c else "normal",
            )  # fmt: skip
        names = [unit_limit(guide) for guide in m.guides]
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_yticks(range(len(names)), names if i % columns == 0 else [""] * len(names))
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ax.set_title(f"prior {unit_limit(prior)}")
    assert image is not None
    note = "italic: two halves of a guide's own draws"
    over = {m.over for m in panels.values()} - {""}
    if over:
        note += f"; brackets: 95 % intervals over {' or '.join(sorted(over))}"
    figure.supxlabel(note, fontsize=8.5, color=MUTED)
    figure.suptitle(title, fontweight="bold", fontsize=11, x=0.01, ha="left")
    figure.colorbar(image, ax=axes, label="Kendall's tau", fraction=0.03, aspect=25)
    return figure


@styled
def elpd_figure(rows: Sequence[Mapping[str, Any]], most: int = 30) -> Figure:
    """Held-out scores of the best rows of the table, as differences to the first with errors.

    Args:
        rows: of ``build_table``, best first.
        most: rows to show.
    """
    shown = [row for row in rows if row["difference"]["mean"] is not None][:most]
    guides = _names([{row["guide"]: None} for row in rows])
    figure = new_figure(1.5 + 0.27 * len(shown))
    ax = figure.subplots()
    ax.axvline(0, color=MUTED, lw=1.0, ls="--")
    for y, row in enumerate(shown):
        color, marker = mark(guides.index(row["guide"]))
        mean, se = row["difference"]["mean"], row["difference"]["se"] or 0.0
        ax.hlines(y, mean - 2 * se, mean + 2 * se, color=color, lw=1.2)
        ax.hlines(y, mean - se, mean + se, color=color, lw=3.2)
        ax.scatter(mean, y, s=34, color=color, marker=marker, zorder=3)
    labels = [
        f"{unit_limit(r['guide'])}, {unit_limit(r['prior'])}, τ {r['temperature']:g}" for r in shown
    ]
    ax.set_yticks(range(len(shown)), labels)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.grid(axis="x")
    ax.tick_params(axis="y", length=0)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    best = shown[0]["elpd"]["mean"]
    best_text = f"{best:.4f}".replace("-", "−")
    ax.set_xlabel(f"elpd − that of the first row ({best_text} nats per validation image)")
    cut = "" if len(shown) == len(rows) else f", the best {len(shown)} of {len(rows)}"
    ax.set_title(f"Held-out score: higher is better; ±1 and ±2 standard errors{cut}")
    return figure


@styled
def accuracy_figure(
    budget: str,
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]],
    original: float,
    stage: str,
    images: int,
) -> Figure:
    """Accuracy after a one-shot cut against the temperature: a panel per prior, a line per guide.

    A dot is one seed, a line their mean, a band the mean ± their standard deviation. Where there is
    one seed only, a bar is its binomial standard error sqrt(p (1 - p) / images): all guides see the
    same images, so that their differences err by less. The axis spans 10 points or more, or what
    is chance would fill the picture.

    Args:
        budget: as "macs=0.5".
        panels: prior -> guide -> temperature -> percent of every seed.
        original: percent of the unpruned networks, in the mean.
        stage: what was measured, for the title.
        images: validation images that each percentage is of.
    """
    guides = _names(panels.values())
    ticks = sorted({t for lines in panels.values() for line in lines.values() for t in line})
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(1.2 + 3.0 * rows)
    axes = grid_axes(figure, len(panels), columns)
    low = high = original
    single = False
    for lines in panels.values():
        for values in (v for line in lines.values() for v in line.values()):
            mean, sd = _mean_and_error(values, images)
            low, high = min(low, *values, mean - sd), max(high, *values, mean + sd)
    if (missing := LEAST_POINTS - (high - low)) > 0:
        high = max(high, min(high + missing / 2, 100.0))
        low = high - LEAST_POINTS
    room = 0.06 * (high - low)
    for i, (ax, (prior, lines)) in enumerate(zip(axes, panels.items(), strict=True)):
        ax.axhline(original, color=INK, lw=1.0, ls="--")
        for guide, line in lines.items():
            g = guides.index(guide)
            color, marker = mark(g)
            # A few per cent apart, so that guides with the same figures stay visible.
            shift = 1.05 ** (g - (len(guides) - 1) / 2)
            x = np.array(sorted(line)) * shift
            means, sds = np.array([_mean_and_error(line[t], images) for t in sorted(line)]).T
            one = np.array([len(line[t]) == 1 for t in sorted(line)])
            several = np.where(one, np.nan, sds)
            ax.fill_between(x, means - several, means + several, color=color, alpha=0.15, lw=0)
            ax.vlines(x[one], (means - sds)[one], (means + sds)[one], color=color, lw=1.2)
            single |= bool(one.any())
            ax.plot(x, means, color=color, marker=marker, ms=5, lw=1.6, ls=dashes(g))
            for at, t in zip(x, sorted(line), strict=True):
                ax.scatter(np.full(len(line[t]), at), line[t], s=9, color=color, alpha=0.6, lw=0)
        _temperature_axis(ax, ticks)
        ax.set_ylim(low - room, high + room)
        ax.grid(axis="y")
        ax.set_title(f"prior {unit_limit(prior)}")
        if i % columns == 0:
            ax.set_ylabel("accuracy (% of validation images)")
    figure.suptitle(
        f"Accuracy under {budget}, {stage}, against the temperature", fontweight="bold",
        fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
    extra = [Line2D([], [], color=INK, lw=1.0, ls="--", label="original network")]
    if single:
        label = f"± standard error of {images:,} images"
        extra.append(Line2D([], [], color=MUTED, marker="|", ms=9, ls="", label=label))
    _legend(figure, guides, *extra)
    return figure


def _mean_and_error(percent: Sequence[float], images: int) -> tuple[float, float]:
    """Mean and standard deviation over seeds; of one seed its binomial standard error."""
    mean = float(np.mean(percent))
    if len(percent) == 1:
        return mean, math.sqrt(mean * (100 - mean) / images)
    return mean, float(np.std(percent, ddof=1))


def _temperature_axis(ax: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic axis with a tick at every temperature, or at every other where they crowd."""
    ax.set_xscale("log")
    ax.set_xlim(ticks[0] / 1.6, ticks[-1] * 1.6)
    shown = list(ticks)
    span = math.log(ticks[-1] * 1.6**2 / ticks[0])
    # A label takes about a ninth of a panel's width.
    while len(shown) > 1 and min(np.diff(np.log(shown))) < span / 9:
        shown = shown[::2]
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([f"{t:g}" for t in shown])
    ax.set_xlabel("temperature")


def _names(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """The keys of all mappings by alphabet, so that a guide has one colour in all pictures."""
    return sorted({name for mapping in mappings for name in mapping})


def _legend(figure: Figure, guides: Sequence[str], *more: Line2D, note: str = "") -> None:
    handles = [
        Line2D(
            [], [], color=mark(i)[0], marker=mark(i)[1], ls=dashes(i), lw=2,
            label=unit_limit(guide),
        )
        for i, guide in enumerate(guides)
    ]  # fmt: skip
    handles += list(more)
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=min(5, len(handles)),
        title=note or None, title_fontsize=8.5,
    )  # fmt: skip
    legend.get_title().set_color(MUTED)
