"""The frozen network as it runs during inference, with a gain on the inputs of each consumer.

The body is the traced graph of :mod:`.graph.trace`, not the user's module with hooks: a gain then
acts where a weight is used functionally too, and nothing is registered on anybody's module. Batch
norms that directly follow a convolution are folded into it (exact in eval mode), which pays for the
gains: one step costs about as much as one forward and backward of the network as it came.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from .graph.channels import ChannelGraph
from .graph.labels import FIXED
from .graph.propagation import op_name
from .graph.units import Reading


class _Gains:
    """The gains of the present forward pass, site -> [rows, K], shared by all :class:`Gain`."""

    def __init__(self) -> None:
        self.values: Mapping[str, Tensor] = {}


class Gain(nn.Module):
    """Multiply a consumer's input by the gains of the units that it reads.

    Input feature j has the gain of unit ``units[j]``; features that no unit owns have gain 1.
    Example i of a batch takes row i mod P of P rows of gains, wherever its entries lie.
    """

    index: Tensor | None

    def __init__(self, holder: _Gains, consumer: Reading, graph: ChannelGraph) -> None:
        super().__init__()
        self._holder = holder
        self.dim, self.examples = consumer.dim, consumer.examples
        self.sites: list[str] = []
        self._sizes: list[int] = []
        index = torch.full_like(consumer.units, FIXED)
        start = 0
        for name, offset in graph.offsets.items():
            size = graph.sites[name].size
            here = (consumer.units >= offset) & (consumer.units < offset + size)
            if bool(here.any()):
                self.sites.append(name)
                self._sizes.append(size)
                index[here] = consumer.units[here] - offset + start
                start += size
        self.fixed = bool((index == FIXED).any())
        identity = len(index) == start and bool((index == torch.arange(start)).all())
        self.register_buffer(
            "index", None if identity else torch.where(index == FIXED, start, index), False
        )

    def forward(self, x: Tensor) -> Tensor:
        gains = [self._holder.values[name] for name in self.sites]
        if self.fixed:
            gains.append(gains[0].new_ones(len(gains[0]), 1))
        gain = torch.cat(gains, 1) if len(gains) > 1 else gains[0]
        if self.index is not None:
            gain = gain[:, self.index]
        rows, axis = gain.shape[0], self.examples.axis
        batch = x.shape[axis] // self.examples.per_example
        view = [1] * x.dim()
        view[self.dim] = gain.shape[1]
        if rows > 1:
            if rows != batch:
                gain = gain.repeat(-(-batch // rows), 1)[:batch]
            gain = self.examples.spread(gain)
            view[axis] = gain.shape[0]
            gain = gain if axis < self.dim else gain.T
        return x * gain.reshape(view)

    def sum_by_unit(self, values: Tensor) -> dict[str, Tensor]:
        """Values of the input features [features], summed over those of each unit: site -> [K]."""
        if self.index is not None:
            sums = values.new_zeros(sum(self._sizes) + self.fixed)
            values = sums.index_add(0, self.index, values)
        return dict(zip(self.sites, values.split([*self._sizes, int(self.fixed)]), strict=False))


class SwitchedBody(nn.Module):
    """The traced network with gains; ``body(gains, *inputs)``, gains: site -> [rows, K]."""

    def __init__(self, graph: ChannelGraph) -> None:
        super().__init__()
        self._holder = _Gains()
        self.graph_module = self._build(graph)

    def forward(self, gains: Mapping[str, Tensor], *inputs: Any, **kwargs: Any) -> Any:
        self._holder.values = gains
        try:
            return self.graph_module(*inputs, **kwargs)
        finally:
            self._holder.values = {}

    @contextmanager
    def watched(self, look: Callable[[Gain, Tensor], None]) -> Iterator[None]:
        """Within it, each forward pass shows ``look`` every gain and the value that it multiplies.

        Consumers that read the same value share one gain, so that it is shown once.
        """
        handles = [
            gain.register_forward_pre_hook(lambda gain, inputs: look(gain, inputs[0]))
            for gain in self.modules()
            if isinstance(gain, Gain)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _build(self, graph: ChannelGraph) -> fx.GraphModule:
        nodes: dict[fx.Node, fx.Node] = {}
        flat = fx.Graph()
        flat.output(flat.graph_copy(graph.module.graph, nodes))
        flat.set_codegen(copy.deepcopy(graph.module.graph._codegen))
        module = fx.GraphModule(graph.module, flat)
        gained: dict[tuple[fx.Node, tuple[int, ...]], fx.Node] = {}
        read: dict[tuple[fx.Node, fx.Node], tuple[fx.Node, set[tuple[int, ...]]]] = {}
        for i, consumer in enumerate([*graph.consumers, *graph.products]):
            node, source = nodes[consumer.node], nodes[consumer.source]
            # What the consumer reads by now: its input features may have gains of two kinds, of
            # their channels and of their own.
            value, applied = read.setdefault((node, source), (source, set()))
            units = tuple(consumer.units.tolist())
            if units in applied:
                continue
            # Consumers that read the same value with the same units share one multiplication.
            key = (value, units)
            if key not in gained:
                module.add_submodule(f"gain_{i}", Gain(self._holder, consumer, graph))
                # Right after the value, so that it stands before every consumer of it.
                with flat.inserting_after(value):
                    gained[key] = flat.call_module(f"gain_{i}", (value,))
            _replace_first(node, value, gained[key])
            read[node, source] = gained[key], {*applied, units}
        _fold_batch_norms(module)
        module.delete_all_unused_submodules()
        flat.lint()
        module.recompile()
        return module


def _replace_first(node: fx.Node, source: fx.Node, new: fx.Node) -> None:
    """Put a value in the place of the first operand that is ``source``; others stay as they are.

    Queries, keys and values may be one value: the gain of a product acts on one of its factors.
    """
    left = [source]

    def swap(arg: fx.Node) -> fx.Node:
        return new if left and arg is left[0] and left.pop() else arg

    node.args = fx.map_arg(node.args, swap)


def _fold_batch_norms(module: fx.GraphModule) -> None:
    """conv -> batch norm becomes one convolution, where nothing else reads the convolution.

    gamma (W x + b - mean) / sd + beta, with sd = sqrt(var + eps), is (gamma W / sd) x + beta +
    gamma (b - mean) / sd. Computed in float64.
    """
    graph = module.graph

    def tensor(node: Any) -> Tensor | None:
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return None
        owner, _, leaf = str(node.target).rpartition(".")
        found = getattr(module.get_submodule(owner) if owner else module, leaf)
        return found.detach() if isinstance(found, Tensor) else None

    for i, norm in enumerate(list(graph.nodes)):
        if op_name(norm) != "_native_batch_norm_legit_no_training":
            continue
        conv = norm.args[0]
        if not (isinstance(conv, fx.Node) and op_name(conv) in ("conv1d", "conv2d", "conv3d")):
            continue
        values = [user for user in norm.users if op_name(user) == "getitem" and user.args[1] == 0]
        weight, mean, var = tensor(conv.args[1]), tensor(norm.args[3]), tensor(norm.args[4])
        if len(conv.users) > 1 or len(values) != len(norm.users) or weight is None:
            continue
        if mean is None or var is None:
            continue
        scale = (var.double() + norm.args[6]).rsqrt()
        gamma, beta = tensor(norm.args[1]), tensor(norm.args[2])
        bias = tensor(conv.args[2]) if len(conv.args) > 2 else None
        scale = scale if gamma is None else scale * gamma.double()
        shift = (0.0 if bias is None else bias.double()) - mean.double()
        shift = shift * scale + (0.0 if beta is None else beta.double())
        folded = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
        module.register_buffer(f"folded_{i}_weight", folded.to(weight.dtype), False)
        module.register_buffer(f"folded_{i}_bias", shift.to(weight.dtype), False)
        with graph.inserting_before(conv):
            parts = (graph.get_attr(f"folded_{i}_weight"), graph.get_attr(f"folded_{i}_bias"))
        conv.args = (conv.args[0], *parts, *conv.args[3:])
        for value in values:
            value.replace_all_uses_with(conv)
            graph.erase_node(value)
        graph.erase_node(norm)
    graph.eliminate_dead_code()
