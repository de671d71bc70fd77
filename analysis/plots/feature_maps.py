"""Feature maps of the channels that the evidence puts first and last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from .style import KEPT, MUTED, PROBABILITY, REMOVED, new_figure, styled, unit_limit
from .views import SiteView

EACH = 4  # channels from each end
PICTURES = 4  # images, a row each


@styled
def feature_map_figure(
    view: SiteView,
    images: Tensor,
    maps: Tensor,
    *,
    units: Sequence[int] | None = None,
    mean: tuple[float, ...] = (0.0,),
    std: tuple[float, ...] = (1.0,),
    each: int = EACH,
) -> Figure:
    """Rows are images, columns the highest- and the lowest-ranked channels, the image at the left.

    All maps share one scale, so that a faint map is a weak channel; a channel's title has its rank,
    its score and, where there is one, its inclusion probability, in the colour of kept or removed.

    Args:
        view: the site, with the scores that rank its units.
        images: [n, C, H, W] with C of 1 or 3, as the network reads them; the first four are shown.
        maps: [n, U, H, W], from :func:`~dirprune.analysis.feature_maps.feature_maps`.
        units: the U channels of these maps, those of :func:`first_and_last` among them; None where
            they are all.
        mean: of the normalisation of the images, which is undone.
        std: likewise.
        each: how many channels from each end; all of them once, where there are not so many.
    """
    shown = first_and_last(view, each)
    gap = 0 if len(shown) == view.size else each
    pictures = _pixels(images[:PICTURES], mean, std)
    place_of = {unit: i for i, unit in enumerate(range(view.size) if units is None else units)}
    values = maps[: len(pictures), [place_of[unit] for unit in shown]].double().numpy()
    low, high = float(values.min()), float(np.quantile(values, 0.998))
    # A narrow empty column stands between what the ranks leave out.
    widths = [1.0, 0.12, *[1.0] * len(shown)]
    if gap:
        widths.insert(2 + gap, 0.12)
    figure = new_figure(1.35 + 0.94 * len(pictures))
    axes = figure.subplots(len(pictures), len(widths), width_ratios=widths, squeeze=False)
    blank = {1, 2 + gap} if gap else {1}
    columns = [i for i in range(len(widths)) if i not in blank]
    image = None
    for row, picture in enumerate(pictures):
        for column in blank:
            axes[row, column].set_axis_off()
        _frame(axes[row, 0])
        axes[row, 0].imshow(picture, cmap="gray", vmin=0, vmax=1)
        for place, channel in enumerate(columns[1:]):
            ax = axes[row, channel]
            _frame(ax)
            image = ax.imshow(
                values[row, place], cmap=PROBABILITY, vmin=low, vmax=max(high, low + 1e-12)
            )
    axes[0, 0].set_title("image", fontsize=8, loc="center")
    for place, unit in enumerate(shown):
        rank = place + 1 if not gap or place < gap else view.size - len(shown) + place + 1
        text = [f"unit {unit}", f"rank {rank:,}", f"{view.score[unit]:.2g}"]
        if view.probability is not None:
            text.append(f"p = {view.probability[unit]:.2f}")
        colour = KEPT if view.kept[unit] else REMOVED
        axes[0, columns[1 + place]].set_title(
            "\n".join(text), fontsize=8, loc="center", color=colour
        )
    assert image is not None
    figure.colorbar(image, ax=axes, label="activation", fraction=0.02, aspect=24, pad=0.01)
    name = unit_limit(view.name, 40)
    figure.suptitle(
        f"{name}: feature maps of its {'channels' if not gap else 'first and last channels'} by "
        f"{view.score_name}",
        x=0.01,
        ha="left",
        fontsize=10.5,
        fontweight="bold",
    )
    parts = "rank of " + f"{view.size:,}, then the {view.score_name}"
    parts += "" if view.probability is None else ", then the inclusion probability"
    figure.supxlabel(f"{parts}; blue: kept, orange: removed", fontsize=8.5, color=MUTED)
    return figure


def first_and_last(view: SiteView, each: int = EACH) -> list[int]:
    """The units of the highest and of the lowest ranks, best first; all of them where they are few.

    Args:
        view: the site, with the scores that rank its units.
        each: how many from each end.
    """
    order: list[int] = view.order.tolist()
    return order if len(order) <= 2 * each else order[:each] + order[-each:]


def _frame(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _pixels(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """[n, H, W] or [n, H, W, 3] on the scale from 0 to 1."""
    centre, spread = (np.asarray(v, dtype=float).reshape(-1, 1, 1) for v in (mean, std))
    pixels = np.clip(images.double().cpu().numpy() * spread + centre, 0, 1)
    if pixels.shape[1] not in (1, 3):  # no colours: the mean of what there is
        pixels = pixels.mean(1, keepdims=True)
    return pixels[:, 0] if pixels.shape[1] == 1 else np.moveaxis(pixels, 1, -1)
