"""An operation of one's own: left alone without a rule, pruned exactly with one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import dirprune
from dirprune.model.graph import Propagation
from dirprune.model.graph.rules import RULES, pointwise


@torch.library.custom_op("mylib::soft_clip", mutates_args=())
def soft_clip(x: Tensor) -> Tensor:
    """x / (1 + |x|), as somebody's fast kernel would compute it."""
    return x / (1 + x.abs())


@soft_clip.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("mylib::scale_channels", mutates_args=())
def scale_channels(x: Tensor, scales: Tensor) -> Tensor:
    return x * scales.view(-1, *[1] * (x.dim() - 2))


@scale_channels.register_fake
def _(x: Tensor, scales: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("mylib::relu", mutates_args=())
def relu(x: Tensor) -> Tensor:
    """Named as one of torch's, and no relu: every channel sees its neighbour."""
    return x.roll(1, 1)


@relu.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def setup(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs)


def soft_clip_backward(ctx: Any, gradient: Tensor) -> Tensor:
    (x,) = ctx.saved_tensors
    return gradient / (1 + x.abs()).square()


def scale_channels_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    x, scales = ctx.saved_tensors
    return gradient * scales.view(-1, *[1] * (x.dim() - 2)), None


soft_clip.register_autograd(soft_clip_backward, setup_context=setup)
scale_channels.register_autograd(scale_channels_backward, setup_context=setup)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(6, 4)
        self.scales = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.ops.mylib.soft_clip(self.a(x))
        x = torch.ops.mylib.scale_channels(self.b(x), self.scales)
        return self.c(x.mean((2, 3)))


@pytest.fixture
def rules() -> Iterator[None]:
    """The two rules of the example in ``rules/__init__.py``."""

    def scale(prop: Propagation, node: torch.fx.Node) -> Any:
        labels, scales = prop.labels(node.args[0]), prop.parameter(node.args[1])
        if labels is None:
            return None
        if labels.dims != (1,) or scales is None:
            prop.refuse(node, "its units do not lie along the channels, or its scales are computed")
            return None
        prop.bind(scales, 0, labels.ids)
        return labels

    dirprune.register_rule("mylib::soft_clip")(pointwise)
    dirprune.register_rule("mylib::scale_channels")(scale)
    yield
    del RULES["mylib::soft_clip"], RULES["mylib::scale_channels"]


def test_an_operation_without_a_rule_is_named() -> None:
    with pytest.raises(dirprune.DirpruneError, match="nothing to prune") as caught:
        dirprune.SwitchedNetwork(Own(), torch.randn(2, 3, 8, 8), num_data=10)
    assert "a: no rule for the operation 'mylib::soft_clip'" in str(caught.value)


def test_an_operation_named_as_one_of_torch_is_not_taken_for_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), Relu(), nn.Conv2d(8, 2, 3))
    with pytest.raises(dirprune.DirpruneError, match=r"no rule for .* 'mylib::relu' in 1"):
        dirprune.SwitchedNetwork(network, torch.randn(2, 3, 8, 8), num_data=10)


class Relu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mylib.relu(x)


@pytest.mark.usefixtures("rules")
def test_with_a_rule_it_is_learned_and_pruned() -> None:
    images = torch.randn(16, 3, 8, 8)
    model = dirprune.SwitchedNetwork(Own(), images[:2], num_data=16)
    assert {name: site.size for name, site in model.sites.items()} == {"a": 8, "b": 6}
    data = DataLoader(TensorDataset(images, torch.arange(16) % 4), batch_size=8)
    found = dirprune.fit(model, "dirichlet", data, epochs=2, progress=False)
    scores = {name: mean.detach() for name, mean in found.guides[0].mean().items()}
    decision = dirprune.decide(model, scores, keep=0.5)
    pruned, masked = dirprune.prune(model, decision), dirprune.mask(model, decision)
    assert sum(map(len, decision.kept.values())) == 7
    assert pruned.scales.shape == (len(decision.kept["b"]),)  # type: ignore[union-attr]
    with torch.no_grad():
        want, got = (net.double().eval()(images.double()) for net in (masked, pruned))
    # Rounding: sums of at most 8 x 9 terms.
    assert float((want - got).abs().max()) <= 1e-13 * float(want.abs().max())
