"""Slopes at a mask, swaps by them, and the search that makes a decision better."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.decision.decide import decide
from dirprune.analysis.subnetworks.masks import Allowed, kept_of, masks_of
from dirprune.analysis.subnetworks.search import refine, swapped_mask
from dirprune.analysis.subnetworks.slopes import mean_log_prob, slopes
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Case = Any  # of conftest.py
WIDTHS = {"0": 3, "2": 2}


def some(case: Case) -> Decision:
    return Decision({"0": torch.tensor([0, 2, 5]), "2": torch.tensor([1, 2])})


def log_prob(case: Case, gains: dict[str, Tensor]) -> Tensor:
    """The log likelihood of every example, by the network's own layers."""
    a, b, c = (case.model.network[i] for i in (0, 2, 4))
    hidden = torch.tanh(b(torch.tanh(a(case.inputs)) * gains["0"])) * gains["2"]
    logits = c(hidden).log_softmax(1)
    return logits.gather(1, case.targets[:, None])[:, 0].detach()


def test_slopes_are_those_of_the_log_likelihood_at_the_mask(case: Case) -> None:
    masks = masks_of(case.model, some(case))
    found = slopes(case.model, masks, case.inputs, case.targets)
    gains = {n: m.double() for n, m in masks.items()}
    assert found.log_prob == pytest.approx(float(log_prob(case, gains).mean()), abs=1e-12)
    for name, mask in masks.items():
        for unit in range(len(mask)):
            ends = []
            for eps in (1e-5, -1e-5):
                moved = {n: g.clone() for n, g in gains.items()}
                moved[name][unit] += eps
                ends.append(log_prob(case, moved))
            slope = (ends[0] - ends[1]) / 2e-5
            sign = -1 if mask[unit] else 1
            expected = sign * slope.mean() - slope.square().mean() / 2
            # central differences in float64: 1e-10 of truncation, 1e-11 of rounding
            assert float(found.change[name][unit]) == pytest.approx(float(expected), abs=1e-7)


def test_a_masks_log_likelihood_is_the_pruned_networks(case: Case) -> None:
    decision = some(case)
    value = mean_log_prob(case.model, masks_of(case.model, decision), case.inputs, case.targets)
    outputs = prune(case.model, decision)(case.inputs).detach()
    assert value == pytest.approx(-float(nn.functional.cross_entropy(outputs, case.targets)))


def test_swaps_pair_the_worst_with_the_best_while_they_gain() -> None:
    mask = torch.tensor([True, True, True, False, False, False])
    change = torch.tensor([-0.3, 0.2, -1.0, 0.5, 0.1, -2.0])
    # by gain: 1 goes for 3 (0.7); then 0 for 4 (-0.2), which loses
    assert swapped_mask(mask, change, 1.0).tolist() == [True, False, True, True, False, False]
    # a share of nothing still tries one swap, and never more than there are removed units
    assert torch.equal(swapped_mask(mask, change, 0.0), swapped_mask(mask, change, 0.3))
    assert torch.equal(swapped_mask(mask, -change.abs(), 1.0), mask)


def every_mask() -> list[dict[str, Tensor]]:
    return [
        {"0": torch.tensor(a), "2": torch.tensor(b)}
        for a in itertools.combinations(range(6), 3)
        for b in itertools.combinations(range(5), 2)
    ]


def test_from_the_worst_sub_network_it_finds_one_of_the_best(case: Case) -> None:
    """All 200 are enumerated; ten steps see each image ten times."""

    def value(kept: dict[str, Tensor]) -> float:
        masks = masks_of(case.model, Decision(kept))
        return mean_log_prob(case.model, masks, case.inputs, case.targets)

    ranked = sorted(every_mask(), key=value)
    found = refine(case.model, Decision(ranked[0]), case.loader, steps=10, images=60)
    place = [value(kept) for kept in ranked].index(value(dict(found.kept)))
    assert place >= 190  # a random one is so good with probability .05
    assert {n: len(u) for n, u in found.kept.items()} == WIDTHS
    told = found.settings["refined"]
    # 60 images are an epoch, so that all further images are these too
    assert told["log_prob"]["after"] == pytest.approx(value(dict(found.kept)))
    assert told["log_prob"]["before"] == pytest.approx(value(ranked[0]))
    assert found.probability == {}


def test_it_counts_its_passes(case: Case) -> None:
    told = refine(case.model, some(case), case.loader, steps=3, images=20).settings["refined"]
    assert told["passes"]["backward"] == 60
    # one more forward pass for each site that tried a swap, and two to tell what came of it
    assert 60 + 40 <= told["passes"]["forward"] <= 60 + 2 * 60 + 40
    assert told["passes"]["forward"] % 20 == 0


def test_the_same_seed_gives_the_same_and_generators_stay(case: Case) -> None:
    data = TensorDataset(case.inputs, case.targets)
    loader: Any = DataLoader(data, batch_size=20, shuffle=True)
    state = torch.random.get_rng_state()
    results = [refine(case.model, some(case), loader, steps=4, images=30) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert results[0].settings == results[1].settings
    assert all(torch.equal(results[0].kept[n], results[1].kept[n]) for n in WIDTHS)


def test_images_are_gathered_over_batches_and_epochs(case: Case) -> None:
    """45 of 60 examples in batches of 20: a step takes 45, what is over is left."""
    told = refine(case.model, some(case), case.loader, steps=3, images=45).settings["refined"]
    assert told["passes"]["backward"] == 135
    # an epoch with fewer images than a step gives them all
    told = refine(case.model, some(case), case.loader, steps=3, images=100).settings["refined"]
    assert told["passes"]["backward"] == 180


def test_a_growing_stream_keeps_what_its_layers_need_and_costs_no_more() -> None:
    """ResNet-20's stream: the first stage owns some of the units, which cost more than others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("resnet20", in_channels=3, size=16, num_classes=4).eval()
        inputs, targets = torch.randn(16, 3, 16, 16), torch.randint(4, (16,))
    model = SwitchedNetwork(network, inputs[:2], num_data=16)
    (units,) = model.costs.needed
    scores = {name: torch.rand(site.size) for name, site in model.sites.items()}
    decision = decide(model, scores, keep=0.5, widths="uniform")
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=16)
    found = refine(model, decision, loader, steps=4, images=16)
    assert found.settings["refined"]["flips"] > 0
    for what in ("macs", "params"):
        assert model.costs.total(what, found.kept) <= model.costs.total(what, decision.kept)
    allowed = Allowed(model.costs, [masks_of(model, decision)], {})
    none = {name: mask.clone() for name, mask in masks_of(model, decision).items()}
    flat = torch.cat(list(none.values()))
    flat[units] = False
    parts = dict(zip(none, flat.split([len(m) for m in none.values()]), strict=True))
    assert allowed(none)
    assert not allowed(parts)
    assert kept_of(none).keys() == decision.kept.keys()


def test_bad_input_is_refused(case: Case) -> None:
    with pytest.raises(DirpruneError, match="steps=0: expected a whole number of at least 1"):
        refine(case.model, some(case), case.loader, steps=0)
    with pytest.raises(DirpruneError, match="keeps every unit"):
        refine(case.model, Decision({"0": torch.arange(6)}), case.loader)
    with pytest.raises(DirpruneError, match="which this network does not have"):
        refine(case.model, Decision({"x": torch.arange(2)}), case.loader)
    with pytest.raises(DirpruneError, match="the loader is empty"):
        refine(case.model, some(case), [])
    bad = DataLoader(TensorDataset(case.inputs * torch.nan, case.targets), batch_size=20)
    with pytest.raises(DirpruneError, match="outputs are not finite"):
        refine(case.model, some(case), bad, images=20)
