"""Random channel pruning: widths within the budget, the best candidate taken."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from dirprune.analysis.decision.random_widths import random_widths
from dirprune.analysis.evidence import Scores
from dirprune.inference.batchnorm import recalibrate
from dirprune.inference.evaluate import evaluate
from dirprune.inference.loop import seed_generators
from dirprune.model.cost import count_macs, count_params
from dirprune.model.errors import DirpruneError
from dirprune.model.networks.resnet_cifar import CifarResNet
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork


@pytest.fixture(scope="module")
def batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(64, 1, 8, 8, generator=generator)
    labels = torch.randint(4, (64,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=32, shuffle=True)


@pytest.fixture(scope="module")
def model() -> SwitchedNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
            nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 20), nn.ReLU(),
            nn.Linear(20, 4),
        )  # fmt: skip
    return SwitchedNetwork(network.eval(), torch.rand(2, 1, 8, 8), num_data=64)


def scores(model: SwitchedNetwork) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {name: torch.rand(site.size, generator=generator) for name, site in model.sites.items()}


@pytest.mark.parametrize("budget", [{"macs": 0.5}, {"params": 0.3}, {"macs": 0.1}])
def test_every_candidate_is_within_the_budget_and_the_best_is_taken(
    model: SwitchedNetwork, batches: DataLoader[Any], budget: dict[str, float]
) -> None:
    evidence = scores(model)
    # A candidate alone is the first of several: its accuracy is found again, on the pruned network.
    one = random_widths(model, evidence, batches, **budget, candidates=1, images=64, seed=3)
    many = random_widths(model, evidence, batches, **budget, candidates=12, images=64, seed=3)
    found = many.settings["train_accuracies"]
    assert found[0] == one.settings["train_accuracies"][0]
    assert len(set(found)) > 1
    network = prune(model, many)
    ((what, share),) = budget.items()
    count = {
        "macs": lambda n: count_macs(n, (torch.rand(2, 1, 8, 8),)),
        "params": count_params,
    }[what]
    assert count(network) <= share * count(model.network)
    with torch.random.fork_rng():
        seed_generators(batches, [3, 1])
        recalibrate(network, batches, batches=10)
    accuracy = evaluate(network, batches).percent
    assert accuracy == pytest.approx(max(found), abs=1e-3)


def test_units_are_the_best_of_their_site(model: SwitchedNetwork, batches: DataLoader[Any]) -> None:
    evidence = scores(model)
    decision = random_widths(model, evidence, batches, macs=0.4, candidates=3)
    for name, units in decision.kept.items():
        assert units.tolist() == evidence[name].topk(len(units)).indices.sort().values.tolist()


def test_the_budget_is_not_wasted(model: SwitchedNetwork, batches: DataLoader[Any]) -> None:
    # Which site has the last step down depends on the draw; one unit of the site that costs most
    # (conv2: 8 x 9 x 16 multiply-adds in, 20 x 16 out) is at most so much.
    table = model.costs
    full = table.total("macs")
    step = max(
        full - table.total("macs", {name: torch.arange(1, site.size)})
        for name, site in model.sites.items()
    )
    for seed in range(5):
        kept = random_widths(
            model, scores(model), batches, macs=0.4, candidates=1, images=8, seed=seed
        ).kept
        assert 0.4 * full - step <= table.total("macs", kept) <= 0.4 * full


def test_the_seed_decides_and_generators_are_left_alone(
    model: SwitchedNetwork, batches: DataLoader[Any]
) -> None:
    state = torch.get_rng_state()
    found = [
        random_widths(model, scores(model), batches, macs=0.5, candidates=4, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    accuracies = [decision.settings["train_accuracies"] for decision in found]
    assert accuracies[0] == accuracies[1] != accuracies[2]
    assert [u.tolist() for u in found[0].kept.values()] == [
        u.tolist() for u in found[1].kept.values()
    ]


def test_generators_of_the_loader_are_left_alone(
    model: SwitchedNetwork, batches: DataLoader[Any]
) -> None:
    found = []
    for seed in (3, 4):
        own, own_of_sampler = (torch.Generator().manual_seed(seed) for _ in range(2))
        sampler = RandomSampler(batches.dataset, generator=own_of_sampler)  # type: ignore[arg-type]
        loader = DataLoader(batches.dataset, 32, sampler=sampler, generator=own)
        states = own.get_state(), own_of_sampler.get_state()
        found.append(random_widths(model, scores(model), loader, macs=0.5, candidates=3, images=40))
        assert torch.equal(own.get_state(), states[0])
        assert torch.equal(own_of_sampler.get_state(), states[1])
    assert found[0].settings == found[1].settings


def test_the_share_is_the_decimal_that_was_written() -> None:
    # 3 parameters a unit: 57 % of 300 are 171, though 0.57 * 300 is 170.99999999999997.
    network = nn.Sequential(nn.Linear(1, 100, bias=False), nn.Linear(100, 2, bias=False))
    model = SwitchedNetwork(network, torch.rand(2, 1), num_data=8)
    loader = [(torch.rand(8, 1), torch.arange(8) % 2)]
    decision = random_widths(
        model, {"0": torch.rand(100)}, loader, params=0.57, candidates=1, images=8
    )
    assert len(decision.kept["0"]) == 57


def test_a_network_whose_outputs_are_picked(batches: DataLoader[Any]) -> None:
    class Named(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": self.network(x), "input": x}

    with torch.random.fork_rng():
        torch.manual_seed(2)
        plain = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
        ).eval()
    example = torch.rand(2, 1, 8, 8)
    model = SwitchedNetwork(plain, example, num_data=64)
    named = SwitchedNetwork(Named(plain), example, num_data=64, output=lambda out: out["out"])
    evidence = torch.rand(8)
    options: dict[str, Any] = {"macs": 0.6, "candidates": 4, "images": 64}
    wanted = random_widths(model, {"0": evidence}, batches, **options)
    found = random_widths(named, {"network.0": evidence}, batches, **options)
    assert found.settings == wanted.settings
    assert torch.equal(found.kept["network.0"], wanted.kept["0"])


def test_sites_without_evidence_stay_whole(
    model: SwitchedNetwork, batches: DataLoader[Any]
) -> None:
    evidence = {"3": scores(model)["3"]}
    decision = random_widths(model, evidence, batches, macs=0.6, candidates=2)
    assert set(decision.kept) == {"3"}


def test_layers_of_a_stream_keep_a_channel(batches: DataLoader[Any]) -> None:
    # The first layers own 16 of the stream's 64 units: with scores against these, and a budget of
    # 3 %, a cut by score alone would leave them none.
    network = CifarResNet(depth=8, num_classes=4, in_channels=1).eval()
    model = SwitchedNetwork(network, torch.rand(2, 1, 8, 8), num_data=64)
    evidence = {name: torch.ones(site.size) for name, site in model.sites.items()}
    stream = next(iter(model.graph.needed))[1]
    evidence["conv1"][stream] = 0.0
    decision = random_widths(model, evidence, batches, macs=0.03, candidates=2, images=32)
    assert prune(model, decision)(torch.rand(2, 1, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected one budget of macs= or params=, got 0"),
        ({"macs": 0.5, "params": 0.5}, "got 2"),
        ({"macs": 0.0}, "budget macs=0.0: expected a share"),
        ({"macs": 0.001}, "with one unit in each site at least 0.0"),
        ({"macs": 0.5, "candidates": 0}, "candidates: expected at least 1"),
    ],
)
def test_what_is_wrong_is_refused(
    model: SwitchedNetwork, batches: DataLoader[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DirpruneError, match=message):
        random_widths(model, scores(model), batches, **options)


def test_evidence_that_does_not_fit_is_refused(
    model: SwitchedNetwork, batches: DataLoader[Any]
) -> None:
    for evidence, message in (
        ({}, "no evidence"),
        ({"nine": torch.ones(3)}, "the site 'nine', which this network does not have"),
        ({"0": torch.ones(3)}, "site '0': expected 8 finite scores"),
        ({"0": torch.full((8,), torch.nan)}, "site '0': expected 8 finite scores"),
        ({"0": Scores(torch.ones(8), torch.ones(2, 5))}, r"expected finite draws \[S, 8\]"),
    ):
        with pytest.raises(DirpruneError, match=message):
            random_widths(model, evidence, batches, macs=0.5)
