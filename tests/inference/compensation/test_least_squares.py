"""Reconstruction: least squares as the textbook has it, layer after layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from dirprune.inference.batchnorm import recalibrate
from dirprune.inference.compensation import compensate
from dirprune.inference.compensation.equations import NormalEquations
from dirprune.inference.compensation.rows import as_weight, input_rows, output_rows
from dirprune.inference.compensation.task import Task
from dirprune.inference.data import load_data, loader
from dirprune.inference.evaluate import evaluate
from dirprune.model.decision import Decision
from dirprune.model.errors import DirpruneError
from dirprune.model.surgery import prune
from dirprune.model.switched import SwitchedNetwork

Cases = Callable[[str], Any]
CPU = torch.device("cpu")
ALL = "least-squares:positions=1000"  # of every image, which have fewer


# -- the normal equations -------------------------------------------------------------------------


def problem(rank: int = 5) -> tuple[Tensor, Tensor]:
    x = 1 + torch.randn(40, rank, dtype=torch.float64) @ torch.randn(rank, 5, dtype=torch.float64)
    return x, torch.randn(40, 3, dtype=torch.float64)


def summed(x: Tensor, r: Tensor, intercept: bool) -> NormalEquations:
    equations = NormalEquations(x.shape[1], r.shape[1], intercept=intercept, device=CPU)
    for part in (slice(0, 7), slice(7, 40)):
        equations.add(x[part], r[part], r[part] + 1)
    return equations


def with_ones(x: Tensor, intercept: bool) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1) if intercept else x


# 1e-9: float64 at 2e-16, times the squared condition number of a 40 x 5 Gaussian matrix (1e4 at
# most) that the normal equations have.
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_solution_is_lstsqs(intercept: bool, ridge: float) -> None:
    x, r = problem()
    found = summed(x, r, intercept).solve(ridge)
    centred = x - x.mean(0) if intercept else x
    penalty = (ridge * centred.square().sum() / 5) ** 0.5
    penalty = penalty * torch.eye(5, 6 if intercept else 5, dtype=torch.float64)  # no bias
    design = torch.cat([with_ones(x, intercept), penalty])
    target = torch.cat([r, torch.zeros(5, 3, dtype=torch.float64)])
    want = torch.linalg.lstsq(design, target).solution
    torch.testing.assert_close(found.weight, want[:5], rtol=1e-9, atol=1e-9)
    if intercept:
        assert found.bias is not None
        torch.testing.assert_close(found.bias, want[5], rtol=1e-9, atol=1e-9)
    else:
        assert found.bias is None
    error = (r - with_ones(x, intercept) @ want).square().sum()
    scale = (r - r.mean(0)).square().sum()
    assert found.after == pytest.approx(float(error / scale), rel=1e-9)
    assert found.before == pytest.approx(float(r.square().sum() / scale), rel=1e-9)


def test_of_many_solutions_the_one_of_least_norm() -> None:
    x, r = problem(rank=2)
    x = x - 1
    found = summed(x, r, False).solve(0.0)
    want = torch.linalg.lstsq(x, r, driver="gelsd").solution
    torch.testing.assert_close(found.weight, want, rtol=1e-7, atol=1e-7)  # of a singular matrix


def test_inputs_that_are_zero_change_nothing() -> None:
    x, r = problem()
    found = summed(0 * x, r, True).solve(1e-3)
    assert bool((found.weight == 0).all())
    torch.testing.assert_close(found.bias, r.mean(0), rtol=1e-12, atol=1e-12)


# -- layers as regressions ------------------------------------------------------------------------

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(5, 4), (5,)),
    "linear on tokens": (nn.Linear(5, 4), (3, 2, 5)),
    "conv1d": (nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2), (3, 11)),
    "conv2d": (nn.Conv2d(3, 4, (3, 2), stride=(1, 2), padding=(2, 1), bias=False), (3, 6, 7)),
    "same": (nn.Conv2d(3, 4, 4, padding="same"), (3, 6, 7)),
    "valid": (nn.Conv2d(3, 4, 2, padding="valid"), (3, 4, 4)),
    "circular": (nn.Conv2d(3, 4, 3, padding=2, padding_mode="circular"), (3, 5, 5)),
    "replicate": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"), (3, 5, 5)),
    "conv3d": (nn.Conv3d(2, 4, (1, 2, 3), padding=(0, 1, 1)), (2, 3, 4, 5)),
    "transposed 1d": (nn.ConvTranspose1d(3, 4, 4, stride=3, padding=2, dilation=2), (3, 6)),
    "transposed 2d": (
        nn.ConvTranspose2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), output_padding=(1, 0)),
        (3, 4, 5),
    ),
    "transposed, cropped": (nn.ConvTranspose2d(3, 4, 1, stride=2, padding=1), (3, 4, 4)),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 2, 3, 2)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weight_are_the_outputs(name: str) -> None:
    layer, shape = LAYERS[name]
    layer = layer.double()
    assert isinstance(layer.weight, Tensor)
    x = torch.randn(3, *shape, dtype=torch.float64)
    out = layer(x).detach()
    axis = -1 if isinstance(layer, nn.Linear) else 1
    number = out.numel() // (3 * out.shape[axis])
    where = torch.stack([torch.randperm(number)[: -(-number // 2)] for _ in range(3)])
    rows, wanted = input_rows(layer, x, out, where), output_rows(layer, out, where)
    # The inverse of as_weight, from where it puts each entry.
    entries = torch.arange(rows.shape[1] * wanted.shape[1]).view(rows.shape[1], -1)
    place = as_weight(layer, entries).flatten()
    matrix = torch.empty(entries.numel(), dtype=torch.float64)
    matrix[place] = layer.weight.detach().flatten()
    got = rows @ matrix.view(entries.shape)
    if layer.bias is not None:
        got = got + layer.bias.detach()
    # 1e-12: sums of at most 36 products in float64, in another order.
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


# -- networks -------------------------------------------------------------------------------------


def run(case: Any, spec: str | Sequence[str], network: nn.Module | None = None) -> Any:
    return compensate(spec, case.model, case.decision, network or case.pruned, case.loader)


def layer_values(network: nn.Module, name: str, inputs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(input, output) of all calls of a layer, copied."""
    found: list[tuple[Tensor, Tensor]] = []
    handle = network.get_submodule(name).register_forward_hook(
        lambda _, args, out: found.append((args[0].clone(), out.clone()))
    )
    with torch.no_grad():
        network(inputs)
    handle.remove()
    return found


@pytest.mark.parametrize("ridge", ["0", "0.001", "10"])
@pytest.mark.parametrize("name", ["plain", "twice", "tokens", "resnet8"])
def test_no_layer_gets_worse_and_the_report_is_right(case: Cases, name: str, ridge: str) -> None:
    c = case(name)
    pruned = c.pruned
    found = run(c, f"{ALL}:ridge={ridge}", pruned)
    ((_, report),) = found.reports
    assert report.layers
    graph, keep = c.model.graph, c.model.graph.keep_vector(c.decision.kept)
    first = next(iter(report.layers))
    for layer, error in report.layers.items():
        # A layer's inputs do not change once the layers before it are done, so that the final
        # network, on the same images, shows each layer's own error.
        units = graph.axes.get((f"{layer}.weight", int(layer == "c" and name == "plain")))
        rows = slice(None) if units is None else keep[units]
        axis = -1 if isinstance(pruned.get_submodule(layer), nn.Linear) else 1
        values = [
            torch.cat(
                [
                    y.movedim(axis, -1).flatten(0, -2)
                    for _, y in layer_values(network, layer, c.inputs)
                ]
            )
            for network in (c.model.network, found.network, pruned)
        ]
        wanted, now, before = values[0][:, rows], values[1], values[2]
        scale = (wanted - wanted.mean(0)).square().sum()
        # 1e-9: the report has differences of sums in float64
        if name != "twice" or layer != "mix":  # whose second call reads what its first computes
            assert error["after"] == pytest.approx(
                float((wanted - now).square().sum() / scale), abs=1e-9, rel=1e-9
            )
        assert error["after"] <= error["before"] * (1 + 1e-9)
        if layer == first:
            assert error["before"] == pytest.approx(
                float((wanted - before).square().sum() / scale), rel=1e-9
            )


def test_a_large_ridge_is_the_plain_cut(case: Cases) -> None:
    c = case("resnet8")  # whose convolutions have no bias
    pruned = c.pruned
    kept = run(c, "least-squares:ridge=1000000000000", pruned).network
    for key, value in kept.state_dict().items():
        if key.startswith("layer"):
            torch.testing.assert_close(value, pruned.state_dict()[key], rtol=1e-8, atol=1e-8)


def test_layers_follow_each_other_in_the_graphs_order(case: Cases) -> None:
    # Each is solved by lstsq on what it reads in the network whose layers before it are done.
    c = case("plain")
    found = run(c, f"{ALL}:ridge=0")
    ((_, report),) = found.reports
    assert list(report.layers) == ["b", "c", "d", "out"]
    for layer in ("b", "out"):
        ((x, _),) = layer_values(found.network, layer, c.inputs)
        ((_, y),) = layer_values(c.model.network, layer, c.inputs)
        if layer == "b":
            y = y[:, c.decision.kept["b"]].movedim(1, -1).flatten(0, -2)
            patches = F.unfold(F.pad(x, (1, 1, 1, 1), "reflect"), 3, stride=2)
            x = patches.movedim(1, -1).flatten(0, 1)
        want = torch.linalg.lstsq(with_ones(x, True), y).solution
        module = found.network.get_submodule(layer)
        weight = module.weight.detach().flatten(1)
        torch.testing.assert_close(weight, want[:-1].T, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(module.bias.detach(), want[-1], rtol=1e-8, atol=1e-8)


class Redundant(nn.Module):
    """Channels that are combinations of others, as the layers that read them see them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 5, 3, stride=2, bias=False)
        self.c = nn.ConvTranspose2d(5, 6, 3)
        self.d = nn.Linear(6 * 16, 4)
        with torch.no_grad():
            # After the batch norm: channel 4 is 2 x channel 0 + 3, through no activation.
            for tensor in (self.a.weight, self.a.bias, self.norm.running_mean):
                tensor[4] = tensor[0]
            self.norm.running_var[4] = self.norm.running_var[0]
            self.norm.weight[4] = 2 * self.norm.weight[0]
            self.norm.bias[4] = 2 * self.norm.bias[0]
            # Channel 1 of b is channel 3 - channel 0; through a ReLU only multiples stay so: those
            # of c, channel 5 = 3 x channel 2.
            self.b.weight[1] = self.b.weight[3] - self.b.weight[0]
            self.c.weight[:, 5] = 3 * self.c.weight[:, 2]
            self.c.bias[5] = 3 * self.c.bias[2]

    def forward(self, x: Tensor) -> Tensor:
        return self.d(F.relu(self.c(self.b(self.norm(self.a(x))))).flatten(1))


def test_what_is_a_combination_of_the_kept_is_made_up_for_exactly(
    randomise_norms: Callable[[nn.Module], nn.Module],
) -> None:
    network = Redundant()
    statistics = randomise_norms(nn.BatchNorm2d(6)).state_dict()
    network.norm.load_state_dict(statistics)
    with torch.no_grad():
        for tensor in (network.norm.running_mean, network.norm.running_var):
            tensor[4] = tensor[0]
        for parameter in (network.norm.weight, network.norm.bias):
            parameter[4] = 2 * parameter[0]
    network = network.double().eval()
    inputs = torch.randn(600, 2, 6, 6, dtype=torch.float64)
    model = SwitchedNetwork(network, inputs[:2], num_data=600)
    decision = Decision(
        {
            "a": torch.tensor([0, 1, 2, 3, 5]),
            "b": torch.tensor([0, 2, 3, 4]),
            "c": torch.tensor([0, 1, 2, 3, 4]),
        }
    )
    pruned = prune(model, decision)
    images = DataLoader(TensorDataset(inputs, torch.zeros(600)), batch_size=200)
    better = compensate(
        "least-squares:ridge=0:positions=4", model, decision, pruned, images
    ).network
    fresh = torch.randn(20, 2, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        want, plain, got = network(fresh), pruned(fresh), better(fresh)
    assert float((plain - want).abs().max()) > 0.05
    # 1e-8: float64 at 2e-16 times squared condition numbers of up to 1e6.
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)


def test_what_cannot_be_changed_is_reported(case: Cases) -> None:
    ((_, report),) = run(case("twice"), "least-squares").reports
    assert list(report.layers) == ["mix", "out"]
    assert report.left_alone == {
        "by_hand": "the network uses by_hand.weight without calling its module",
        "free": "free is not the weight of one convolution or linear module",
    }
    ((_, report),) = run(case("tokens"), "least-squares").reports
    assert list(report.layers) == ["block.linear2"]
    assert list(report.left_alone) == ["block.self_attn.out_proj"]


def test_networks_and_generators_are_left_as_they_were(case: Cases) -> None:
    c = case("plain")
    pruned = c.pruned.train()
    pruned.norm.eval()
    networks = (pruned, c.model.network)
    before = [
        ({k: v.clone() for k, v in n.state_dict().items()}, [m.training for m in n.modules()])
        for n in networks
    ]
    state = torch.get_rng_state()
    first = run(c, ["least-squares:positions=2:images=20"], pruned).network
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    second = run(c, ["least-squares:positions=2:images=20"], pruned).network
    other = run(c, ["least-squares:positions=2:images=20:seed=1"], pruned).network
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert not torch.equal(first.out.weight, other.out.weight)
    assert [m.training for m in first.modules()] == before[0][1]
    for network, (values, modes) in zip(networks, before, strict=True):
        assert all(torch.equal(v, values[k]) for k, v in network.state_dict().items())
        assert [m.training for m in network.modules()] == modes
        assert not any(m._forward_hooks for m in network.modules())


def test_a_sampler_that_shuffles_gives_the_same_batches_each_time(case: Cases) -> None:
    c = case("plain")
    data = TensorDataset(torch.arange(12.0), torch.zeros(12))
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(data, 5, sampler=RandomSampler(data, generator=own))
    task, state = Task("x", c.model, c.decision, loader, None), own.get_state()
    found = []
    for _ in range(2):
        with task.seeded(0, torch.device("cpu")) as batches:
            found.append(torch.cat([inputs for inputs, _ in batches]).tolist())
        assert torch.equal(own.get_state(), state)
        own.manual_seed(4)
        state = own.get_state()
    assert found[0] == found[1]


# -- several --------------------------------------------------------------------------------------


def test_compensations_follow_each_other(case: Cases) -> None:
    c = case("resnet8")
    names = ["least-squares:images=10", "recalibrate:batches=2"]
    one = run(c, names[:1]).network
    both, turned = run(c, names), run(c, names[::-1])
    assert [name for name, _ in both.reports] == names
    for key, value in run(c, names[1:], one).network.state_dict().items():
        assert torch.equal(value, both.network.state_dict()[key]), key
    assert not torch.equal(both.network.linear.weight, turned.network.linear.weight)


def test_recalibrate_is_the_function_of_that_name(case: Cases) -> None:
    c = case("resnet8")
    network = c.pruned
    images = DataLoader(TensorDataset(c.inputs, c.targets), batch_size=8)
    found = compensate("recalibrate:batches=2", c.model, c.decision, network, images)
    assert recalibrate(network, images, batches=2) == 7
    for key, value in found.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
    ((_, report),) = found.reports
    assert report.layers["bn1"]["variance_after"] == float(network.bn1.running_var.mean())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lest-squares", "did you mean 'least-squares'"),
        ("least-squares:size=3", "no option 'size'. It has: images=2000"),
        ("least-squares:images=2.5", "option 'images': expected a whole number"),
        ("least-squares:images", "expected least-squares:OPTION=NUMBER"),
        ("least-squares:images=0", "option 'images': expected at least 1, got 0"),
        ("least-squares:ridge=-1", "option 'ridge': expected at least 0, got -1"),
        ("recalibrate:batches=0", "option 'batches': expected at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_said(case: Cases, spec: str, message: str) -> None:
    with pytest.raises(DirpruneError, match=message):
        run(case("resnet8"), spec)


def test_what_is_missing_is_said(case: Cases) -> None:
    c = case("plain")
    with pytest.raises(DirpruneError, match="'recalibrate' needs a loader of training images"):
        compensate(["recalibrate", "least-squares"], c.model, c.decision, c.pruned, None)
    with pytest.raises(DirpruneError, match="the loader is empty"):
        compensate("least-squares", c.model, c.decision, c.pruned, [])
    with pytest.raises(DirpruneError, match=r"its a\.weight has 6 entries on axis 0, expected 4"):
        compensate("least-squares", c.model, c.decision, c.model.network, c.loader)
    with pytest.raises(DirpruneError, match=r"its a\.weight is not there"):
        compensate("least-squares", c.model, c.decision, nn.Linear(2, 2), c.loader)


def test_arguments_in_another_order_are_refused(case: Cases) -> None:
    c = case("plain")
    for arguments, came in (
        (("recalibrate", c.model, c.pruned, c.decision), "str, SwitchedNetwork, Plain, Decision"),
        (("recalibrate", c.pruned, c.decision, c.model), "str, Plain, Decision, SwitchedNetwork"),
        ((c.model, c.decision, c.pruned, "recalibrate"), "SwitchedNetwork, Decision, Plain, str"),
    ):
        with pytest.raises(DirpruneError, match=rf"a\s+Decision and the pruned .* got {came}$"):
            compensate(*arguments, c.loader)  # type: ignore[arg-type]


@pytest.mark.slow
def test_digits_lose_less(trained: nn.Module) -> None:
    # A trained network, a third of its units at random: by far the most of the loss is made up for.
    data = load_data("digits")
    train, held_out = loader(data.train, 64, shuffle=True), loader(data.test, 256)
    model = SwitchedNetwork(trained, data.train[[0, 1]][0], num_data=len(data.train))
    decision = Decision({n: torch.randperm(s.size)[: s.size // 3] for n, s in model.sites.items()})
    pruned = prune(model, decision)
    better = compensate("least-squares", model, decision, pruned, train).network
    accuracy = [evaluate(network, held_out).percent for network in (trained, pruned, better)]
    assert accuracy[0] - accuracy[2] < 0.2 * (accuracy[0] - accuracy[1])


def test_a_flag_of_the_forward_pass_is_that_of_the_model() -> None:
    """Half of the units are copies of the others, at this flag alone."""

    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
            with torch.no_grad():
                self.a.weight[3:], self.a.bias[3:] = -self.a.weight[:3], -self.a.bias[:3]

        def forward(self, x: Tensor, *, even: bool = False) -> Tensor:
            hidden = self.a(x)
            out: Tensor = self.out(hidden.abs() if even else hidden)
            return out

    network, x = Flagged().double(), torch.randn(60, 4, dtype=torch.float64)
    model = SwitchedNetwork(network, x[:2], num_data=60, example_kwargs={"even": True})
    batches = DataLoader(TensorDataset(x, torch.zeros(60, dtype=torch.long)), batch_size=20)
    decision = Decision({"a": torch.arange(3)})
    found = compensate(
        "least-squares:ridge=1e-12", model, decision, prune(model, decision), batches
    )
    torch.testing.assert_close(found.network(x, even=True), network(x, even=True))
