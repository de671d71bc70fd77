"""Decisions where features are parts of channels, against naive versions that count all anew."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dirprune.analysis.decision.budget import by_site, keep_within
from dirprune.analysis.decision.decide import decide
from dirprune.analysis.decision.threshold import keep_above
from dirprune.analysis.decision.widths import keep_uniform, keep_widths
from dirprune.model.cost import CostTable, Term
from dirprune.model.errors import DirpruneError
from dirprune.model.nesting import Nesting
from dirprune.model.networks import LeNet5
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

from .cost_tables import come_back, total

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@st.composite
def tables(draw: st.DrawFn) -> CostTable:
    """Sites "channels", "other" and "features", and terms over all of them."""
    sizes = [draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(2, 6))]
    units = sum(sizes)

    def counts() -> NDArray[np.int64]:
        return np.array(draw(st.lists(st.integers(0, 3), min_size=units, max_size=units)))

    def terms() -> tuple[int, list[Term]]:
        return draw(st.integers(0, 50)), [
            Term(draw(st.integers(1, 9)), draw(st.integers(0, 3)), counts(),
                 draw(st.integers(0, 3)), counts())
            for _ in range(draw(st.integers(1, 3)))
        ]  # fmt: skip

    start = sizes[0] + sizes[1]
    whole = np.full(units, -1, dtype=np.int64)
    whole[start:] = draw(
        st.lists(st.integers(-1, sizes[0] - 1), min_size=sizes[2], max_size=sizes[2])
    )
    only = draw(st.lists(st.booleans(), min_size=sizes[0], max_size=sizes[0]))
    through = np.zeros(units, dtype=bool)
    through[: sizes[0]] = [flag and u in whole for u, flag in enumerate(only)]
    names = dict(zip(["channels", "other", "features"], sizes, strict=True))
    needed = [[0, 1]] if sizes[0] > 2 and draw(st.booleans()) else []
    return CostTable(names, terms(), terms(), needed, Nesting(whole, through))


def scores_of(data: st.DataObject, table: CostTable, least: int = 0) -> Floats:
    values = st.floats(least, 10, allow_subnormal=False) | st.integers(least, 3).map(float)
    n = table.num_units
    return np.array(data.draw(st.lists(values, min_size=n, max_size=n)), dtype=np.float64)


def fixed_of(data: st.DataObject, table: CostTable) -> Bools:
    return np.concatenate([np.full(k, data.draw(st.booleans())) for k in table.sites.values()])


def valid(table: CostTable, kept: Bools, fixed: Bools) -> bool:
    """Closed, nothing empty, and what is without evidence there, or gone with its channel."""
    nesting = table.nesting
    starts = np.cumsum([0, *table.sites.values()]).tolist()
    sets = [list(range(a, b)) for a, b in pairwise(starts)] + table.needed
    excused = nesting.is_part & ~kept[nesting.whole]
    return (
        bool((nesting.close(kept) == kept).all())
        and all(kept[units].any() for units in sets)
        and bool((kept | excused)[fixed].all())
    )


def naive_within(
    table: CostTable, scores: Floats, fixed: Bools, what: str, share: float, per_cost: bool
) -> Bools | None:
    """The rule as its docstring says it; None where it gets stuck."""
    kept = np.ones(len(scores), dtype=bool)
    target = Fraction(str(share)) * total(table, what, kept)
    while total(table, what, kept) > target:
        best, found = np.inf, None
        for u in kept.nonzero()[0]:
            without = kept.copy()
            without[u] = False
            without = table.nesting.close(without)
            if fixed[u] or not valid(table, without, fixed):
                continue
            saving = max(1, total(table, what, kept) - total(table, what, without))
            rank = scores[u] if scores[u] < 0 or not per_cost else scores[u] / saving
            if rank < best:
                best, found = rank, without
        if found is None:
            return None
        kept = found
    return come_back(table, scores, fixed, kept, {what: int(target)}, per_cost)


SHARES = st.integers(1, 100).map(lambda n: n / 100)


@settings(max_examples=80)
@given(st.data(), tables(), SHARES, st.sampled_from(["macs", "params"]), st.booleans())
def test_the_rule_is_the_one_in_its_docstring(
    data: st.DataObject, table: CostTable, share: float, what: str, per_cost: bool
) -> None:
    scores, fixed = scores_of(data, table, least=-3), fixed_of(data, table)
    expected = naive_within(table, scores, fixed, what, share, per_cost)
    if expected is not None:
        kept = keep_within(table, scores, fixed, {what: share}, per_cost=per_cost)
        assert kept.tolist() == expected.tolist()


@settings(max_examples=50)
@given(st.data(), tables(), SHARES, st.sampled_from(["macs", "params", "keep"]), st.booleans())
def test_within_the_budget_and_valid(
    data: st.DataObject, table: CostTable, share: float, what: str, per_cost: bool
) -> None:
    scores, fixed = scores_of(data, table), fixed_of(data, table)
    full = total(table, what, np.ones(len(scores), dtype=bool))
    target = Fraction(str(share)) * full + (Fraction(1, 2) if what == "keep" else 0)
    try:
        kept = keep_within(table, scores, fixed, {what: share}, per_cost=per_cost)
    except DirpruneError as error:
        smallest = float(str(error).rsplit("=", 1)[1])
        assert smallest > share
        kept = keep_within(table, scores, fixed, {what: smallest}, per_cost=per_cost)
        assert valid(table, kept, fixed)
        return
    assert total(table, what, kept) <= target
    assert valid(table, kept, fixed)
    if not fixed.any():  # no unit that is gone fits any more, with what it needs
        for u in (~kept).nonzero()[0]:
            coming, more = table.nesting.coming(kept, [u]), kept.copy()
            if per_cost and (scores[coming] <= 0).any():
                continue  # worth no cost
            more[coming] = True
            assert total(table, what, more) > target


@settings(max_examples=50)
@given(st.data(), tables(), SHARES, SHARES, st.booleans())
def test_two_budgets_are_full(
    data: st.DataObject, table: CostTable, macs: float, params: float, per_cost: bool
) -> None:
    scores, none = scores_of(data, table), np.zeros(table.num_units, dtype=bool)
    budgets = {"macs": macs, "params": params}
    try:
        kept = keep_within(table, scores, none, budgets, per_cost=per_cost)
    except DirpruneError:  # whether that is so is asked of single budgets
        return
    targets = {w: int(Fraction(str(s)) * total(table, w, ~none)) for w, s in budgets.items()}
    assert valid(table, kept, none)
    assert all(total(table, what, kept) <= most for what, most in targets.items())
    for u in (~kept).nonzero()[0]:
        coming, more = table.nesting.coming(kept, [u]), kept.copy()
        if per_cost and (scores[coming] <= 0).any():
            continue  # worth no cost
        more[coming] = True
        assert any(total(table, what, more) > most for what, most in targets.items())


@given(st.data(), tables(), SHARES)
def test_uniform_widths_are_closed(data: st.DataObject, table: CostTable, share: float) -> None:
    scores, fixed = scores_of(data, table), fixed_of(data, table)
    kept, _ = keep_uniform(table, scores, fixed, {"keep": share})
    assert valid(table, kept, fixed)


def nested_table() -> CostTable:
    """Three channels of four features each; a channel costs 10, a feature 1."""
    whole = np.array([-1] * 3 + [0] * 4 + [1] * 4 + [2] * 4, dtype=np.int64)
    channels = np.array([1] * 3 + [0] * 12)
    terms = [
        Term(10, 0, channels, 1, 0 * channels),
        Term(1, 1, 0 * channels, 0, (whole >= 0).astype(np.int64)),
    ]
    through = channels.astype(bool)
    return CostTable(
        {"channels": 3, "features": 12}, (0, terms), (0, terms), (), Nesting(whole, through)
    )


NONE = np.zeros(15, dtype=bool)


def test_a_channel_saves_its_features_too() -> None:
    # 42 in all, 28 are allowed. Channel 0 saves 10 + 4 at a score of 13, a feature 1 at a score of
    # 1: 13 / 14 is less. Counted without its features it would be 13 / 10, and features would go.
    scores = np.array([13.0, 99, 99, *[1.0] * 12])
    kept = keep_within(nested_table(), scores, NONE, {"macs": 0.67}, per_cost=True)
    assert by_site(nested_table(), kept)["channels"].tolist() == [1, 2]
    assert kept.sum() == 10
    # At 27 the next is a feature (1 / 1) of the others.
    kept = keep_within(nested_table(), scores, NONE, {"macs": 0.643}, per_cost=True)
    assert kept[3:].tolist() == [*[False] * 5, *[True] * 7]


def test_the_last_feature_takes_its_channel() -> None:
    # Features 0 to 3 of channel 0 go in turn; the last saves 11 and its score is 5 / 11.
    scores = np.array([99.0, 99, 99, *[0.1] * 3, 5.0, *[1.0] * 8])
    kept = keep_within(nested_table(), scores, NONE, {"macs": 0.67}, per_cost=True)
    assert by_site(nested_table(), kept)["channels"].tolist() == [1, 2]
    assert kept.sum() == 10


def test_units_that_went_along_come_back_for_an_exact_number() -> None:
    # 15 units: the three least features go (12 left), then channel 0 with its four (7 left). Three
    # more may stay: those features of other channels that went come back.
    scores = np.array([0.5, 99, 99, *[9.0] * 4, 0.1, 0.2, 0.3, *[9.0] * 5])
    kept = keep_within(nested_table(), scores, NONE, {"keep": 0.67})
    assert kept.sum() == 10
    assert kept.tolist() == [False, True, True, *[False] * 4, *[True] * 8]


def test_a_feature_brings_its_channel_back() -> None:
    # 42 in all; channel 0 goes with its four features (13 / 14), which leaves 28 of 39. By score
    # per cost a feature of it is as good as any, but it costs 11 with its channel, and fits.
    scores = np.array([13.0, 99, 99, *[9.0] * 3, 9.5, *[90.0] * 8])
    kept = keep_within(nested_table(), scores, NONE, {"macs": 39 / 42}, per_cost=True)
    assert kept.tolist() == [True, True, True, *[False] * 3, True, *[True] * 8]
    # One less, and nothing fits; one more, and another feature comes after it.
    kept = keep_within(nested_table(), scores, NONE, {"macs": 38 / 42}, per_cost=True)
    assert kept.sum() == 10
    kept = keep_within(nested_table(), scores, NONE, {"macs": 40.5 / 42}, per_cost=True)
    assert kept.tolist() == [True, True, True, False, False, True, True, *[True] * 8]


def test_a_channel_brings_features_without_evidence() -> None:
    # Those of one more than fits leave, and with its score the channel comes back in their place.
    table, scores = nested_table(), np.array([1.0, 2, 90, *[1.0] * 12])
    fixed = np.arange(15) >= 3
    for share, channels in {28: [1, 2], 27: [2], 14: [2]}.items():
        kept = keep_within(table, scores, fixed, {"macs": (share + 0.5) / 42}, per_cost=True)
        assert by_site(table, kept)["channels"].tolist() == channels
        assert kept.sum() == 5 * len(channels)


def test_given_widths() -> None:
    table, scores = nested_table(), np.arange(15.0)
    kept = keep_widths(table, scores, NONE, {"channels": 2, "features": 3})
    # the best two channels, of each its best feature, and the best of what is left
    assert kept.nonzero()[0].tolist() == [1, 2, 10, 13, 14]
    kept = keep_widths(table, scores, NONE, {"channels": 2})
    assert kept.sum() == 2 + 8
    with pytest.raises(DirpruneError, match="but the channels that stay have 4 of them"):
        keep_widths(table, scores, NONE, {"channels": 1, "features": 5})
    with pytest.raises(DirpruneError, match=r"at least 3 must stay.*one for each channel"):
        keep_widths(table, scores, NONE, {"features": 2})


def lenet() -> SwitchedNetwork:
    torch.manual_seed(0)
    network = LeNet5(size=20).eval()
    return SwitchedNetwork(network, torch.randn(2, 1, 20, 20), num_data=10, flatten="features")


def test_decisions_on_a_network() -> None:
    model = lenet()
    generator = torch.Generator().manual_seed(0)
    scores = {n: torch.rand(s.size, generator=generator) for n, s in model.sites.items()}
    for budget in ({"macs": 0.3}, {"macs": 0.4, "params": 0.1}):
        decision = decide(model, scores, **budget)
        kept = model.graph.keep_vector(decision.kept)[:-1]
        assert int(kept.sum()) == sum(map(len, decision.kept.values()))  # it is closed
        pruned = prune(model, decision)
        assert pruned.fc1.in_features == len(decision.kept["fc1.inputs"])
        assert pruned.conv2.out_channels == len(decision.kept["conv2"])
    exact = decide(model, scores, keep=0.4)
    assert sum(map(len, exact.kept.values())) == round(0.4 * (20 + 50 + 200 + 500))
    given = decide(model, scores, widths={"conv1": 8, "conv2": 13, "fc1.inputs": 40, "fc1": 13})
    assert [len(k) for k in given.kept.values()] == [8, 13, 40, 13]
    above = keep_above(model, scores, 0.6)
    assert prune(model, above).fc1.in_features == len(above.kept["fc1.inputs"])


def test_rounding_is_refused() -> None:
    model = lenet()
    scores = {name: torch.ones(site.size) for name, site in model.sites.items()}
    with pytest.raises(DirpruneError, match="leave one of round_to and flatten"):
        decide(model, scores, macs=0.5, round_to=8)
