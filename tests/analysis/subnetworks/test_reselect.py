"""Units chosen anew for reconstructed outputs: against regressions by hand and the compensation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from dirprune.analysis.decision.decide import decide
from dirprune.analysis.evidence import evidence
from dirprune.analysis.subnetworks.masks import masks_of
from dirprune.analysis.subnetworks.reselect import _Fit, _Reselection, reselect
from dirprune.inference.compensation import compensate
from dirprune.inference.compensation.equations import NormalEquations
from dirprune.inference.loop import seed_of
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.networks import build_network
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Case = Any  # of conftest.py
TINY = 1e-9  # a ridge that does nothing but keep matrices regular


def some() -> Decision:
    return Decision({"0": torch.tensor([0, 2, 5]), "2": torch.tensor([1, 3])})


def log_prob(network: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    with torch.no_grad():
        return -float(F.cross_entropy(network.eval()(inputs), targets))


def batches(inputs: Tensor, targets: Tensor, size: int = 20) -> DataLoader[Any]:
    return DataLoader(TensorDataset(inputs, targets), batch_size=size)


class Forked(nn.Module):
    """Two sites that one layer reads together, and one after them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 5)
        self.c, self.d = nn.Linear(11, 7), nn.Linear(7, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([torch.tanh(self.a(x)), torch.tanh(self.b(x))], 1)
        out: Tensor = self.d(torch.relu(self.c(both)))
        return out


class Maps(nn.Module):
    """Convolutions with a batch norm, and a linear layer behind a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5)
        self.b, self.c = nn.Conv2d(5, 6, 3, stride=2, bias=False), nn.Linear(6 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.norm(self.a(x)))))
        out: Tensor = self.c(x.flatten(1))
        return out


class Residual(nn.Module):
    """A stream that three layers read, at different depths, and a site in each of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
        self.a, self.b = nn.ModuleList([nn.Linear(6, 5), nn.Linear(6, 5)]), nn.ModuleList()
        self.b.extend([nn.Linear(5, 6), nn.Linear(5, 6)])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        for a, b in zip(self.a, self.b, strict=True):
            x = x + b(torch.relu(a(x)))
        out: Tensor = self.out(x)
        return out


@pytest.fixture(scope="module", params=["chain", "forked", "maps", "residual", "features"])
def problem(request: pytest.FixtureRequest) -> tuple[SwitchedNetwork, Tensor, Tensor, Decision]:
    kind = request.param
    with torch.random.fork_rng():
        torch.manual_seed(5)
        kept = {"0": [0, 2, 5], "2": [1, 3]}
        shape: tuple[int, ...] = (4,)
        if kind == "chain":
            net: Any = nn.Sequential(
                nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
            )
        elif kind == "forked":
            net, kept = Forked(), {"a": [0, 2, 5], "b": [1, 4], "c": [0, 1, 4]}
        elif kind == "residual":
            net, kept = Residual(), {"stem": [0, 2, 3, 5], "a.0": [1, 4], "a.1": [0, 2, 3]}
        else:
            net, kept, shape = Maps(), {"a": [0, 3], "b": [1, 2, 4]}, (1, 7, 7)
        if kind == "features":
            kept["c.inputs"] = [4, 6, 8, 9, 10, 11, 17]
        net = net.double()
        inputs = torch.randn(90, *shape, dtype=torch.float64)
        targets = net(inputs).softmax(1).multinomial(1)[:, 0]
    flatten = "features" if kind == "features" else "channels"
    model = SwitchedNetwork(net, inputs[:2], num_data=90, flatten=flatten)
    return model, inputs, targets, Decision({n: torch.tensor(u) for n, u in kept.items()})


def test_it_judges_the_network_that_least_squares_leaves(
    problem: tuple[SwitchedNetwork, Tensor, Tensor, Decision],
) -> None:
    """At the start's units and at the chosen ones; all positions are used, as maps are small."""
    model, inputs, targets, start = problem
    found = reselect(model, start, batches(inputs, targets), images=90, positions=50, ridge=TINY)
    told = found.settings["reselected"]
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed_of([0])))
    judging, fitting = order[:30], batches(inputs[order[30:]], targets[order[30:]])
    for decision, place in ((start, 0), (found, told["chosen"])):
        network = compensate(
            [f"least-squares:positions=50:ridge={TINY}"], model, decision,
            prune(model, decision), fitting,
        ).network  # fmt: skip
        value = log_prob(network, inputs[judging], targets[judging])
        # two ways to solve normal equations whose condition is the ridge's inverse at the worst
        assert told["log_prob"][place] == pytest.approx(value, abs=1e-5)
    assert told["log_prob"][told["chosen"]] == max(told["log_prob"])
    assert len(told["log_prob"]) == 4
    widths = {name: len(units) for name, units in start.kept.items()}
    assert {name: len(units) for name, units in found.kept.items()} == widths
    assert found.probability == {}


def greedy(x: Tensor, y: Tensor, weight: Tensor, number: int) -> list[int]:
    """Columns of x that are left when the one whose loss costs least goes, again and again."""

    def error(columns: list[int]) -> float:
        known = torch.cat([x[:, columns], torch.ones(len(x), 1)], 1)
        fit = known @ torch.linalg.lstsq(known, y, driver="gelsd").solution
        return float(((y - fit).square() * weight).sum())

    left = list(range(x.shape[1]))
    while len(left) > number:
        left.remove(min(left, key=lambda column: error([c for c in left if c != column])))
    return left


def test_a_site_is_chosen_by_the_greedy_regression_of_outputs_that_stay(case: Case) -> None:
    """Site "2" stands pruned: layer 2 is asked for two outputs, weighed by their curvature."""
    model, inputs, targets = case.model, case.inputs, case.targets
    a, b, c = (model.network[i] for i in (0, 2, 4))
    stay = [1, 2]
    start = Decision({"0": torch.tensor([0, 2, 5]), "2": torch.tensor(stay)})
    work = _Reselection(model, inputs, targets, 10, TINY, 0)
    masks = work.visit("0", masks_of(model, start), choose=True)

    hidden = torch.tanh(a(inputs)).detach()
    wanted = b(hidden).detach().requires_grad_()
    loss = F.cross_entropy(c(torch.tanh(wanted)), targets, reduction="sum")
    weight = torch.autograd.grad(loss, wanted)[0].square().mean(0)
    wanted = wanted.detach()
    left = greedy(hidden, wanted[:, stay], weight[stay], 3)
    assert masks["0"].nonzero()[:, 0].tolist() == left
    # Neither all outputs nor equal weights would say so.
    assert left != greedy(hidden, wanted, weight, 3)
    assert left != greedy(hidden, wanted[:, stay], torch.ones(len(stay)), 3)

    # The next site is chosen by what its layer reads now, of which the outputs all stay.
    masks = work.visit("2", masks, choose=True)
    known = torch.cat([hidden[:, left], torch.ones(60, 1)], 1)
    refitted = torch.tanh(known @ torch.linalg.lstsq(known, wanted).solution)
    logits = c(torch.tanh(wanted)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, targets, reduction="sum"), logits)
    chosen = greedy(refitted, logits.detach(), slope.square().mean(0), 2)
    assert masks["2"].nonzero()[:, 0].tolist() == chosen


def test_a_fit_is_pulled_to_the_original_weights() -> None:
    """Ridge regression about the means, in closed form, where two of three inputs stay."""
    torch.manual_seed(2)
    original, layer = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    x, y = torch.randn(40, 3).double() + 1, torch.randn(40, 2).double()
    equations = NormalEquations(3, 2, intercept=True, device=torch.device("cpu"))
    with torch.no_grad():
        equations.add(x, y - layer(x), y)
        fit = _Fit(original, layer, equations, torch.arange(3), torch.ones(3).bool(), 0.3)
        whole = fit.regression(torch.ones(2)).weight
        fit.write(torch.tensor([True, False, True]))
    centred, wanted = x - x.mean(0), y - y.mean(0)
    second = centred.T @ centred / 40
    penalty = 0.3 * second.diagonal().mean()

    def expected(units: list[int]) -> Tensor:
        matrix = second[units][:, units] + penalty * torch.eye(len(units)).double()
        pull = penalty * original.weight.detach().T[units]
        return torch.linalg.solve(matrix, centred[:, units].T @ wanted / 40 + pull)

    torch.testing.assert_close(whole, expected([0, 1, 2]))
    torch.testing.assert_close(layer.weight[:, [0, 2]].T, expected([0, 2]))
    assert layer.weight[:, 1].tolist() == [0, 0]
    torch.testing.assert_close(
        layer.bias.detach(), y.mean(0) - x.mean(0)[[0, 2]] @ expected([0, 2])
    )


def test_it_counts_its_passes_and_leaves_the_network_alone(case: Case) -> None:
    before = {k: v.clone() for k, v in case.model.network.state_dict().items()}
    told = reselect(case.model, some(), case.loader, sweeps=2, images=60).settings["reselected"]
    # 40 fit and 20 judge: the curvature; two networks for two sites at the start and in two
    # sweeps; what each of these left
    assert told["passes"] == {"forward": 40 + 3 * 2 * 2 * 40 + 3 * 20, "backward": 40}
    assert (told["sweeps"], told["images"]) == (2, 60)
    for name, value in case.model.network.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_same_seed_gives_the_same_and_generators_stay(case: Case) -> None:
    data = TensorDataset(case.inputs, case.targets)
    loader: Any = DataLoader(data, batch_size=20, shuffle=True)
    state = torch.random.get_rng_state()
    found = [reselect(case.model, some(), loader, images=45) for _ in range(2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found[0].settings == found[1].settings
    assert all(torch.equal(found[0].kept[n], found[1].kept[n]) for n in found[0].kept)


def test_costs_stay_where_a_stream_grows() -> None:
    """The stream of resnet20 has channels of 3 stages, of which each has its own multiply-adds."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(12, 3, 8, 8), torch.randint(10, (12,))
    network = build_network("resnet20", num_classes=10, in_channels=3, size=8)
    model = SwitchedNetwork(network, inputs[:2], num_data=12)
    start = decide(model, evidence("random", model), keep=0.3, widths="uniform")
    found = reselect(model, start, batches(inputs, targets), sweeps=2, images=12)
    assert any(not torch.equal(found.kept[n], start.kept[n]) for n in found.kept)
    for what in ("macs", "params"):
        assert model.costs.total(what, found.kept) == model.costs.total(what, start.kept)
    prune(model, found)(inputs)


def test_a_site_that_keeps_all_its_units_is_left_alone(case: Case) -> None:
    start = Decision({"0": torch.arange(6), "2": torch.tensor([1, 3])})
    found = reselect(case.model, start, case.loader, sweeps=1)
    assert torch.equal(found.kept["0"], torch.arange(6))
    assert len(found.kept["2"]) == 2


def test_features_of_flattened_channels_stay() -> None:
    """And the channels that they are parts of; other sites are chosen anew."""
    torch.manual_seed(1)
    inputs, targets = torch.randn(24, 1, 7, 7), torch.randint(3, (24,))
    model = SwitchedNetwork(Maps(), inputs[:2], num_data=24, flatten="features")
    start = decide(model, evidence("random", model), keep=0.6)
    found = reselect(model, start, batches(inputs, targets), sweeps=2, images=24)
    assert set(start.kept) == {"a", "b", "c.inputs"}
    for name in ("b", "c.inputs"):
        assert torch.equal(found.kept[name], start.kept[name])
    assert len(found.kept["a"]) == len(start.kept["a"]) < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sweeps": 0}, "reselect: option 'sweeps': expected at least 1, got 0"),
        ({"images": 2.5}, "option 'images': expected a whole number"),
        ({"images": 2}, "reselect: 2 training images, expected at least 3"),
        ({"positions": 0}, "option 'positions': expected at least 1, got 0"),
        ({"ridge": -1.0}, "option 'ridge': expected at least 0"),
        ({"ridge": torch.nan}, "option 'ridge': expected at least 0"),
    ],
)
def test_bad_numbers_are_refused(options: dict[str, Any], message: str, case: Case) -> None:
    with pytest.raises(DirpruneError, match=message):
        reselect(case.model, some(), case.loader, **options)


def test_images_that_are_not_finite_are_refused(case: Case) -> None:
    bad = batches(case.inputs * torch.inf, case.targets)
    with pytest.raises(DirpruneError, match="reselect: the network's outputs are not finite"):
        reselect(case.model, some(), bad)


def test_a_decision_that_keeps_all_is_refused(case: Case) -> None:
    whole = Decision({"0": torch.arange(6), "2": torch.arange(5)})
    with pytest.raises(DirpruneError, match="keeps every unit"):
        reselect(case.model, whole, case.loader)


def test_layers_that_no_regression_describes_are_refused() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    net = nn.Sequential(nn.Linear(5, 8), layer, nn.Flatten(), nn.Linear(24, 3))
    inputs, targets = torch.randn(9, 3, 5), torch.randint(3, (9,))
    model = SwitchedNetwork(net, inputs[:2], num_data=9)
    start = Decision({n: torch.arange(max(1, s.size // 2)) for n, s in model.sites.items()})
    with pytest.raises(DirpruneError, match=r"reselect needs the outputs of 1\.self_attn\.out"):
        reselect(model, start, batches(inputs, targets), images=9)
