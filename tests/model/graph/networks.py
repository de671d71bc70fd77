"""Small networks by hand, and what every rule's tests ask of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dirprune.model.cost import count_macs
from dirprune.model.decision import Decision
from dirprune.model.graph import build_channel_graph
from dirprune.model.surgery import mask, prune, without_empty_layers
from dirprune.model.switched import SwitchedNetwork


class Net(nn.Module):
    """A network from its layers and its forward."""

    def __init__(self, forward: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.run(self, *inputs, **named)


def conv(inputs: int, outputs: int, kernel: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


IMAGES = torch.randn(3, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
TOKENS = torch.randint(0, 10, (3, 4), generator=torch.Generator().manual_seed(3))


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and the sites to be found: name -> (units, producers, consumers)."""

    build: Callable[[], nn.Module]
    inputs: tuple[Any, ...]
    sites: Mapping[str, tuple[int, tuple[str, ...], tuple[str, ...]]]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Callable[[Any], Tensor] | None = None


PLAIN = {"a": (6, ("a",), ("b",))}


def spread(network: nn.Module) -> nn.Module:
    """In float64 and eval mode, with scales, shifts and statistics that hide nothing."""
    network = network.double().eval()
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("running_var") or (tensor.dim() == 1 and name.endswith("weight")):
                tensor.copy_(0.5 + torch.rand_like(tensor))
            elif name.endswith(("bias", "running_mean")):
                tensor.copy_(torch.randn_like(tensor) / 2)
    return network


def decide(model: SwitchedNetwork, generator: torch.Generator) -> Decision:
    """Each site keeps a random share, down to a single unit; no layer is emptied."""
    kept = {}
    for name, site in model.sites.items():
        count = int(torch.randint(1, site.size + 1, (), generator=generator))
        kept[name] = torch.randperm(site.size, generator=generator)[:count]
    return Decision(without_empty_layers(model.graph, kept))


def gains_of(model: SwitchedNetwork, decision: Decision) -> dict[str, Tensor]:
    """Gain 0 for the units that go, 1 for those that stay."""
    gains = model.unit_gains()
    for name, row in gains.items():
        gone = torch.ones(row.shape[1], dtype=torch.bool)
        gone[decision.kept[name]] = False
        row[:, gone] = 0
    return gains


def check_exact(model: SwitchedNetwork, seed: int = 0, decisions: int = 3) -> None:
    """Pruned, masked, and run with gains of zero: one function, in float64 to 1e-10 relative.

    The costs counted beforehand are those of the pruned network, and no site was left to trial.
    """
    assert not {k: v for k, v in model.unprunable.items() if "it cannot be cut" in v}
    generator = torch.Generator().manual_seed(seed)
    pick = model._output or (lambda out: out)
    args, kwargs = model.example_inputs, model.example_kwargs
    with torch.no_grad():
        # Gains of one: the trained network. Batch norms are folded, hence not to the bit.
        outputs = model.outputs_at_gains(model.example, model.unit_gains())
        assert_close(outputs, pick(model.network(*args, **kwargs)))
        for _ in range(decisions):
            decision = decide(model, generator)
            masked, pruned = mask(model, decision), prune(model, decision)
            want = masked(*args, **kwargs)
            for a, b in zip(tree_leaves(pruned(*args, **kwargs)), tree_leaves(want), strict=True):
                if isinstance(b, Tensor):
                    assert_close(a, b)
            gained = model.outputs_at_gains(model.example, gains_of(model, decision))
            assert_close(gained, pick(want))
            parameters = sum(p.numel() for p in pruned.parameters())
            assert model.costs.total("params", decision.kept) == parameters
            macs = count_macs(pruned, args, kwargs)
            assert model.costs.total("macs", decision.kept) == macs


def assert_close(a: Tensor, b: Tensor) -> None:
    # float64 rounds at 1e-16, sums of some hundred terms in another order lose a few digits.
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= 1e-10 * float(b.abs().max())


def check_case(case: Case) -> SwitchedNetwork:
    """The sites are those of the case, and each decision on them is exact."""
    network = spread(case.build())
    model = SwitchedNetwork(
        network, case.inputs, num_data=10, example_kwargs=case.kwargs, output=case.output
    )
    found = {name: (s.size, s.producers, s.consumers) for name, s in model.sites.items()}
    assert found == dict(case.sites)
    check_exact(model)
    return model


class Beside(nn.Module):
    """Networks side by side, each on an input of its own."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(networks.values())

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [part(x) for part, x in zip(self.parts, inputs, strict=True)]


def check_beside(cases: Mapping[str, Case]) -> None:
    """:func:`check_case` for many networks of one input, traced in one go, which takes the time."""
    model = SwitchedNetwork(
        spread(Beside({name: case.build() for name, case in cases.items()})),
        tuple(case.inputs[0] for case in cases.values()),
        num_data=10,
        output=lambda outputs: torch.cat([out.flatten(1) for out in outputs], 1),
    )
    for i, (name, case) in enumerate(cases.items()):

        def own(layers: tuple[str, ...], prefix: str = f"parts.{i}.") -> tuple[str, ...]:
            return tuple(layer.removeprefix(prefix) for layer in layers if prefix in layer)

        found = {
            own((site,))[0]: (s.size, own(s.producers), own(s.consumers))
            for site, s in model.sites.items()
            if own((site,))
        }
        assert found == dict(case.sites), name
    check_exact(model)


def reasons(network: nn.Module, *inputs: Any) -> Mapping[str, str]:
    """Layer -> why it is left alone."""
    return build_channel_graph(network.eval(), inputs).unprunable


def reasons_beside(cases: Mapping[str, tuple[nn.Module, Tensor, str]]) -> dict[str, str]:
    """Case -> why its layer "a" is left alone; all are traced in one go, which takes the time."""
    network = spread(Beside({name: case[0] for name, case in cases.items()}))
    found = reasons(network, *(case[1] for case in cases.values()))
    return {
        name: found.get(f"parts.{i}.a", "").replace(f"parts.{i}.", "")
        for i, name in enumerate(cases)
    }
