"""Pictures of narrow, wide, few and many sites: all units there, all text inside and apart."""

from __future__ import annotations

import itertools
import json

import matplotlib
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from dirprune.analysis import plots
from dirprune.analysis.plots.history import smooth
from dirprune.analysis.plots.ranks import rank_probability
from dirprune.analysis.tree import site_dataset
from dirprune.model.cost import CostTable, Term
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError

SIZES = [1, 2, 4, 40, 41, 512]


def make_tree(sizes, chains=2, draws=30, concentration=True, evidence=True):
    """A DataTree as ``posterior`` makes it, of sites in a chain of layers, with made-up draws."""
    torch.manual_seed(0)
    phi = {n: 0.5 + 5 * torch.rand(chains, k) for n, k in sizes.items()}
    switches = {
        n: torch.distributions.Dirichlet(p).sample((draws,)).transpose(0, 1).double()
        for n, p in phi.items()
    }
    cost = {n: (s * 10).square() * torch.rand(s.shape[-1]) for n, s in switches.items()}
    total, terms, start = sum(sizes.values()), [], 0
    before = np.zeros(total, dtype=np.int64)
    for k in sizes.values():
        rows = np.zeros(total, dtype=np.int64)
        rows[start : start + k] = 1
        terms.append(Term(9, 0, rows, 0 if before.any() else 3, before))
        before, start = rows, start + k
    terms.append(Term(1, 10, np.zeros(total, dtype=np.int64), 0, before))
    table = CostTable(sizes, (0, terms), (0, terms))
    groups = {
        "posterior": site_dataset(switches, ("chain", "draw")),
        "cost_table": xr.Dataset({"json": json.dumps(table.to_dict())}),
    }
    if concentration:
        groups["concentration"] = site_dataset(phi, ("chain",))
    if evidence:
        groups["evidence"] = site_dataset(cost, ("chain", "draw"))
    return xr.DataTree.from_dict(groups)


def make_decision(tree, share=0.4, probability=True):
    """The best units by mean removal cost stay in each site."""
    kept, chance = {}, {}
    group = "evidence" if "evidence" in tree.children else "posterior"
    for name, a in tree[group].to_dataset().items():
        draws = a.values.reshape(-1, a.shape[-1])
        number = max(1, round(share * draws.shape[1]))
        kept[name] = torch.from_numpy(np.argsort(-draws.mean(0), kind="stable")[:number].copy())
        ranks = np.argsort(np.argsort(-draws, axis=1), axis=1)
        chance[name] = torch.from_numpy((ranks < number).mean(0))
    return Decision(kept, chance if probability else {}, {"budget": {"keep": share}})


@pytest.fixture(scope="module")
def many():
    tree = make_tree({f"layer{i // 19}.{i}.convolution": 6 + i for i in range(57)}, draws=8)
    return tree, make_decision(tree)


def texts_of(figure):
    """Every visible text of a figure with its box, after a draw."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    return [
        (t, t.get_window_extent(renderer))
        for t in figure.findobj(matplotlib.text.Text)
        if t.get_visible() and t.get_text().strip()
    ]


def shown_ticks(axis):
    low, high = sorted(axis.get_view_interval())
    labels = []
    for tick in axis.get_major_ticks():
        if low <= tick.get_loc() <= high:
            labels += [t for t in (tick.label1, tick.label2) if t.get_visible() and t.get_text()]
    return labels


def check(figure):
    """No text beyond the figure's edge, no tick labels over each other, no empty panel."""
    outside = []
    boxes = texts_of(figure)
    hidden = {
        id(label)
        for ax in figure.axes
        for axis in (ax.xaxis, ax.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if label not in shown_ticks(axis)
    }
    for text, box in boxes:
        if id(text) in hidden:
            continue  # a tick beyond the axis' limits is not drawn
        if box.x0 < 0 or box.y0 < 0 or box.x1 > figure.bbox.x1 or box.y1 > figure.bbox.y1:
            outside.append(text.get_text())
    assert not outside
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        assert ax.has_data() or ax.get_label() == "<colorbar>", f"empty panel {ax.get_title()!r}"
        for axis in (ax.xaxis, ax.yaxis):
            boxes = [t.get_window_extent(renderer) for t in shown_ticks(axis)]
            way = "x" if axis is ax.xaxis else "y"
            ends = sorted((getattr(b, f"{way}0"), getattr(b, f"{way}1")) for b in boxes)
            assert all(a[1] <= b[0] + 0.5 for a, b in itertools.pairwise(ends)), ax.get_title()


def points(ax):
    """How many points the scatter plots of a panel hold."""
    return sum(len(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection))


@pytest.mark.parametrize("size", SIZES)
def test_switches_show_every_unit(size):
    tree = make_tree({"conv": size})
    view = plots.site_views(tree, make_decision(tree))["conv"]
    figure = plots.switch_figure(view)
    check(figure)
    gain, concentration, inclusion = figure.axes
    assert points(gain) == points(inclusion) == size
    assert points(concentration) == 2 * size
    labels = [t.get_text() for t, _ in texts_of(figure)]
    assert any("conv" in t for t in labels)
    assert any("gain K" in t for t in labels)
    assert f"kept ({int(view.kept.sum())})" in labels
    assert ("the cut" in labels) is (size > 1)
    if size <= 40:
        assert [t.get_text() for t in gain.get_yticklabels()] == [str(u) for u in view.order]


@pytest.mark.parametrize("size", [4, 512])
def test_switches_without_concentrations_and_probabilities(size):
    tree = make_tree({"conv": size}, concentration=False, evidence=False)
    view = plots.site_views(tree, make_decision(tree, probability=False))["conv"]
    figure = plots.switch_figure(view)
    check(figure)
    assert len(figure.axes) == 1
    assert view.score_name == "posterior mean gain"


def test_a_cut_that_no_rank_makes_is_said_and_not_drawn():
    tree = make_tree({"conv": 6})
    best = make_decision(tree).kept["conv"]
    others = torch.tensor([u for u in range(6) if u not in best.tolist()])
    figure = plots.switch_figure(plots.site_views(tree, Decision({"conv": others}))["conv"])
    check(figure)
    labels = [t.get_text() for t, _ in texts_of(figure)]
    assert "the cut" not in labels
    assert any("no single cut" in t for t in labels)
    (legend,) = figure.legends
    handle = legend.legend_handles[-1]  # it stands for nothing that is drawn
    assert isinstance(handle, Line2D)
    assert (handle.get_linestyle(), handle.get_marker()) == ("None", "None")


def test_evidence_and_ranks_show_every_unit():
    tree = make_tree({f"s{k}": k for k in SIZES})
    views = list(plots.site_views(tree, make_decision(tree)).values())
    figure = plots.evidence_figure(views)
    check(figure)
    assert [points(ax) for ax in figure.axes] == SIZES
    assert all(ax.get_yscale() == "log" for ax in figure.axes)
    check(plots.rank_figure(views))
    assert len(plots.rank_figure(views).axes) == len(SIZES) + 1  # and the colour bar


def test_evidence_that_is_zero_is_drawn():
    tree = make_tree({"dead": 5})
    tree["evidence"] = tree["evidence"].to_dataset() * 0
    check(plots.evidence_figure(list(plots.site_views(tree, make_decision(tree)).values())))


def test_rank_probability_by_hand():
    draws = np.array([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [3.0, 1.0, 2.0], [3.0, 2.0, 1.0]])
    p = rank_probability(draws, np.array([0, 1, 2]))
    np.testing.assert_allclose(p, [[0.75, 0.75, 1], [0, 0.75, 1], [0.25, 0.5, 1]])
    np.testing.assert_allclose(p.sum(0), [1, 2, 3])


@pytest.mark.parametrize("sizes", [{"only": 2}, {"a": 2, "b": 4, "c": 40, "d": 512}])
def test_overview_has_a_bar_for_every_site(sizes):
    tree = make_tree(sizes)
    decision = make_decision(tree)
    views = plots.site_views(tree, decision)
    figure = plots.widths_figure(views, plots.share_of_macs(tree, decision))
    check(figure)
    bars = [p for p in figure.axes[0].patches if isinstance(p, Rectangle)]
    assert len(bars) == 2 * len(sizes)
    kept = [bar.get_width() for bar in bars[::2]]
    assert kept == pytest.approx([v.kept.mean() for v in views.values()])
    strips = plots.inclusion_figure(views)
    check(strips)
    assert [c.get_array().size for c in strips.axes[0].collections] == list(sizes.values())


def test_57_sites(many):
    tree, decision = many
    views = plots.site_views(tree, decision)
    figure = plots.widths_figure(views, plots.share_of_macs(tree, decision))
    check(figure)
    check(plots.inclusion_figure(views))
    labels = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert labels == list(views)
    some = plots.spread_out(views, 12)
    assert len(some) == 12
    assert (some[0].name, some[-1].name) == (next(iter(views)), list(views)[-1])
    check(plots.evidence_figure(some))
    check(plots.rank_figure(some))


def test_share_of_macs_adds_up():
    tree = make_tree({"a": 4, "b": 6})
    decision = Decision({"a": torch.tensor([0, 1]), "b": torch.tensor([1, 2, 3])})
    shares = plots.share_of_macs(tree, decision)
    total = 9 * 4 * 3 + 9 * 4 * 6 + 10 * 6  # an input of 3 channels, 10 outputs
    assert shares["a"] == pytest.approx((9 * 4 * 3 / total, 9 * 2 * 3 / total))
    assert shares["b"] == pytest.approx((9 * 4 * 6 / total, 9 * 2 * 3 / total))
    assert shares[""] == pytest.approx((10 * 6 / total, 10 * 3 / total))


def test_long_names_and_dollars_are_kept_in_bounds():
    name = "backbone.$x^$.stage3.block17." + "very_long_layer_name" * 4
    tree = make_tree({name: 5})
    decision = make_decision(tree)
    views = plots.site_views(tree, decision)
    for figure in (
        plots.switch_figure(views[name]),
        plots.evidence_figure(list(views.values())),
        plots.rank_figure(list(views.values())),
        plots.widths_figure(views, plots.share_of_macs(tree, decision)),
        plots.inclusion_figure(views),
    ):
        check(figure)


@pytest.mark.parametrize("steps", [1, 7, 3000])
def test_history(steps):
    losses = (1e6 / np.arange(1, steps + 1)).tolist()
    figure = plots.elbo_figure([losses, losses])
    check(figure)
    assert len(figure.axes[0].lines) == 4
    one, both = plots.training_figure([], losses), plots.training_figure(losses, losses)
    check(one)
    check(both)
    assert (len(one.axes), len(both.axes)) == (1, 2)
    at, mean = smooth(losses)
    assert len(at) == len(mean)
    if steps > 100:
        assert mean[0] == pytest.approx(np.mean(losses[: steps // 20]))


@pytest.mark.parametrize("finetuned", [99.25, None])
def test_comparison(finetuned):
    metrics = {
        "accuracy": {"original": 99.4, "pruned": 0.0, "compensated": None, "finetuned": finetuned},
        "macs": {"before": 2_293_000, "after": 229_000},
        "params": {"before": 431_080, "after": 31_080},
        "latency_ms": {"before": 12.0, "after": 0.041},
        "latency_iqr_ms": {"before": 1.0, "after": 0.002},
        "latency_batch": 128,
    }
    figure = plots.comparison_figure(metrics)
    check(figure)
    assert [len(ax.patches) for ax in figure.axes] == [3 if finetuned else 2, 2, 2, 2]
    labels = [t.get_text() for t, _ in texts_of(figure)]
    assert {"99.4", "2.29 M", "229 k", "0.041"} <= set(labels)
    # However wide the spread, its bar and its label stay below the title.
    metrics["latency_iqr_ms"]["before"] = 30.0
    latency = plots.comparison_figure(metrics).axes[-1]
    (top,) = (t.get_position()[1] for t in latency.texts if t.get_text() == "12")
    assert 12 + 15 < top < latency.get_ylim()[1]
    del metrics["latency_ms"]
    assert len(plots.comparison_figure(metrics).axes) == 3


def test_no_global_state_is_read_or_changed(tmp_path):
    before = dict(matplotlib.rcParams)
    plots.save_figure(plots.elbo_figure([[3.0, 2.0, 1.0]]), tmp_path / "new" / "a.png")
    assert dict(matplotlib.rcParams) == before
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "savefig.dpi": 20}):
        plots.save_figure(plots.elbo_figure([[3.0, 2.0, 1.0]]), tmp_path / "b.png")
    assert (tmp_path / "new" / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_decision_of_another_network_is_refused():
    tree = make_tree({"a": 4})
    for decision in (
        Decision({"b": torch.tensor([0])}),
        Decision({"a": torch.tensor([4])}),
        Decision({"a": torch.tensor([0])}, {"a": torch.ones(5)}),
    ):
        with pytest.raises(DirpruneError, match="does not fit"):
            plots.site_views(tree, decision)
