"""Removing units: ``prune`` cuts them out, ``mask`` gives the same function at the full size.

Both work on deep copies of the user's own module and leave it as it was. A unit is removed by
dropping its rows from the parameters and buffers of the layers that produce it and its columns from
the weights of those that read it; it is masked by zeroing those columns. Zero columns see nothing
of the unit, whatever stands between (batch norm, any activation), so both networks are one
function, which :func:`find_failures` verifies in float64 before a site is offered at all.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .errors import DirpruneError
from .graph.channels import ChannelGraph
from .replacement import replace_tensors, set_count, set_padding
from .selected import SelectedLinear, select_inputs

if TYPE_CHECKING:
    from .decision import Decision
    from .switched import SwitchedNetwork


def prune(model: SwitchedNetwork, decision: Decision) -> nn.Module:
    """A physically smaller copy of the model's network: only the kept units are in it.

    Train/eval mode, ``requires_grad`` flags, dtype and device are those of the original, which is
    not changed.

    Raises:
        DirpruneError: the decision is of another network or empties a layer, or the pruned network
            differs from the masked one on the example inputs.
    """
    _check(model, decision)
    reference, arguments, tolerance = _in_float64(
        model.network, model.example_inputs, model.example_kwargs
    )
    problem = _compare(reference, model.graph, decision.kept, arguments, tolerance)
    if problem is not None:
        raise DirpruneError(f"{problem}; exclude the layer that is at fault by exclude=")
    return cut(model.network, model.graph, decision.kept)


def mask(model: SwitchedNetwork, decision: Decision) -> nn.Module:
    """A copy of full size in which nothing reads the removed units: the same function as `prune`.

    Raises:
        DirpruneError: the decision is of another network, or empties a layer.
    """
    _check(model, decision)
    return silence(model.network, model.graph, decision.kept)


def _check(model: SwitchedNetwork, decision: Decision) -> None:
    decision.check(model.sites)
    keep = model.graph.keep_vector(decision.kept)
    for name, start in model.graph.offsets.items():
        if not bool(keep[start : start + model.sites[name].size].any()):
            raise DirpruneError(
                f"the decision leaves site {name!r} without a unit: the features that it keeps of "
                "a flattened feature map are of channels that it removes"
            )
    for layer, units in model.graph.needed:
        if not bool(keep[units].any()):
            raise DirpruneError(
                f"the decision leaves layer {layer!r} without a channel: of the units that it "
                "shares with other layers keep at least one that is its own"
            )


def cut(network: nn.Module, graph: ChannelGraph, kept: Mapping[str, Tensor]) -> nn.Module:
    """:func:`prune` on bare parts."""
    keep = graph.keep_vector(kept)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    new: dict[str, Tensor] = {}
    for (name, axis), units in graph.axes.items():
        rows = keep[units].nonzero()[:, 0]
        old = new.get(name, tensors[name].detach())
        if len(rows) < old.shape[axis]:
            new[name] = old.index_select(axis, rows.to(old.device))
    for lookup in graph.lookups:
        places = new.get(lookup.buffer, tensors[lookup.buffer])
        left = _places(keep[lookup.units]).to(places.device)
        new[lookup.buffer] = left[places.long()].to(places.dtype)
    # What is about to be replaced is not worth copying.
    smaller = copy.deepcopy(network, {id(tensors[name]): tensors[name] for name in new})
    replace_tensors(smaller, new)
    for flat in graph.flattened:
        channels, features = keep[flat.channels], keep[flat.features]
        layer = smaller.get_submodule(flat.layer)
        if not (isinstance(layer, SelectedLinear) or torch.equal(channels, features)):
            select_inputs(smaller, flat.layer, _places(channels)[features])
    for padding in graph.paddings:
        stays = keep[padding.units]
        set_padding(
            smaller,
            padding.module,
            int(stays[: padding.before].sum()),
            int(stays[len(stays) - padding.after :].sum()),
        )
    for count in graph.counts:
        set_count(smaller, count.module, count.attribute, int(keep[count.units].sum()))
    return smaller


def _places(stays: Tensor) -> Tensor:
    """The place of each entry that stays among those that do."""
    return stays.cumsum(0) - 1


def silence(network: nn.Module, graph: ChannelGraph, kept: Mapping[str, Tensor]) -> nn.Module:
    """:func:`mask` on bare parts."""
    keep = graph.keep_vector(kept)
    masked = copy.deepcopy(network)
    with torch.no_grad():
        for consumer in graph.consumers:
            weight = masked.get_parameter(consumer.weight)
            gone = ~keep[consumer.units].to(weight.device)
            view = [-1 if axis == consumer.axis else 1 for axis in range(weight.dim())]
            weight.masked_fill_(gone.view(view), 0)
        for product in graph.products:
            _zero(masked, graph, product.units[~keep[product.units]])
    return masked


def _zero(network: nn.Module, graph: ChannelGraph, units: Tensor) -> None:
    """Let the units be zero where they are produced: a product of them adds nothing then."""
    parameters = dict(network.named_parameters())
    for (name, axis), numbers in graph.axes.items():
        gone = torch.isin(numbers, units)
        if name in parameters and bool(gone.any()):
            rows = gone.nonzero()[:, 0].to(parameters[name].device)
            parameters[name].index_fill_(axis, rows, 0)


def find_failures(
    network: nn.Module, graph: ChannelGraph, inputs: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, str]:
    """Sites for which the pruned and the masked network differ on the inputs, with the reason.

    Three patterns are removed from all sites at once: a random half, its complement, so that every
    unit is missing once, and of the sites in turn one unit or two thirds, so that nothing has the
    same size by chance. If that fails, halves of the sites are tried, and halves of those that
    fail, down to single ones. What the graph cannot see (a size written as a number in someone's
    ``forward``) shows here, so that it is never pruned.
    """
    reference, arguments, tolerance = _in_float64(network, inputs, kwargs)
    generator = torch.Generator().manual_seed(0)

    def attempt(sites: list[str]) -> str | None:
        sizes = {name: graph.sites[name].size for name in sites}
        order, other = (
            {n: torch.randperm(k, generator=generator) for n, k in sizes.items()} for _ in range(2)
        )
        patterns = (
            {n: units[: sizes[n] // 2] for n, units in order.items()},
            {n: units[sizes[n] // 2 :] for n, units in order.items()},
            {n: u[: -(-len(u) // 3) if i % 2 else -1] for i, (n, u) in enumerate(other.items())},
        )
        for i, pattern in enumerate(patterns):
            kept = without_empty_layers(graph, pattern)
            problem = _compare(reference, graph, kept, arguments, tolerance, in_training=i == 0)
            if problem is not None:
                return problem
        return None

    def faulty(sites: list[str]) -> dict[str, str]:
        problem = attempt(sites)
        if problem is None:
            return {}
        if len(sites) == 1:
            return {sites[0]: problem}
        half = len(sites) // 2
        return faulty(sites[:half]) | faulty(sites[half:])

    if not graph.sites or attempt(list(graph.sites)) is None:
        return {}
    half = len(graph.sites) // 2
    failures = faulty(list(graph.sites)[:half]) | faulty(list(graph.sites)[half:])
    good = [name for name in graph.sites if name not in failures]
    if good and attempt(good) is not None:
        # They fail only in company: add them one by one and leave out what breaks the rest.
        together: list[str] = []
        for name in good:
            reason = attempt([*together, name])
            if reason is None:
                together.append(name)
            else:
                failures[name] = reason
    return failures


def without_empty_layers(graph: ChannelGraph, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keep one unit more where a layer, or a site, would have none."""
    keep = graph.keep_vector(kept)
    sites = [
        torch.arange(start, start + graph.sites[name].size) for name, start in graph.offsets.items()
    ]
    for units in (*sites, *(units for _, units in graph.needed)):
        if not bool(keep[units].any()):
            keep[graph.nesting.coming(keep[:-1].numpy(), [int(units[0])])] = True
    return {
        name: keep[start : start + graph.sites[name].size].nonzero()[:, 0]
        for name, start in graph.offsets.items()
        if name in kept
    }


def _compare(
    reference: nn.Module,
    graph: ChannelGraph,
    kept: Mapping[str, Tensor],
    arguments: tuple[Sequence[Any], Mapping[str, Any]],
    tolerance: float,
    *,
    in_training: bool = False,
) -> str | None:
    """Why the pruned network is not the masked one on these arguments; None: it is."""
    masked = silence(reference, graph, kept)
    want = _run(masked, *arguments)
    trains = in_training and _trains(masked, *arguments)
    del masked  # a large network does not fit into memory three times
    try:
        pruned = cut(reference, graph, kept)
        got = _run(pruned, *arguments)
    except DirpruneError as error:
        return f"it cannot be cut: {error}"
    except Exception as error:
        return (
            f"it cannot be cut: the smaller network fails with {_line(error)!r}. If a module holds "
            "a size that its parameters do not show (a number of heads), register_resizer mends it"
        )
    try:
        if trains:
            _train(pruned, *arguments)
    except Exception as error:
        return f"it cannot be cut: in train mode the smaller network fails with {_line(error)!r}"
    for a, b in zip(want, got, strict=True):
        scale = float(a.abs().max()) or 1.0
        if a.shape != b.shape or not float((a - b).abs().max()) <= tolerance * scale:
            return "it cannot be cut: the smaller network computes something else"
    return None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _trains(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Does it run in train mode on these examples? Too few or small ones may not do."""
    try:
        _train(network, args, kwargs)
    except Exception:
        return False
    return True


def _train(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Run the network in train mode.

    Some layers are there in train mode alone (auxiliary heads), and no tracing in eval mode sees
    them: where the masked network runs, the pruned one has to. Outputs are not compared, since
    dropout is random.
    """
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
        network.train()(*args, **kwargs)


def _in_float64(
    network: nn.Module, inputs: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[nn.Module, tuple[Sequence[Any], Mapping[str, Any]], float]:
    """A copy in eval mode and float64, on the device of the inputs, with these and a tolerance.

    A forward that makes float32 tensors of its own may refuse float64: it is then tried as it is.
    Examples that are one number throughout (zeros, say) could hide a difference: random ones are
    put in their place.
    """
    tensors = [x for x in tree_leaves((inputs, dict(kwargs))) if isinstance(x, Tensor)]
    floats = [x for x in tensors if x.is_floating_point()]
    if all(bool((x == x.flatten()[0]).all()) for x in floats):
        generator = torch.Generator().manual_seed(0)

        def noise(x: Any) -> Any:
            told = not (isinstance(x, Tensor) and x.is_floating_point())
            return x if told else torch.rand(x.shape, generator=generator).to(x)

        inputs, kwargs = tree_map(noise, tuple(inputs)), tree_map(noise, dict(kwargs))

    def copied() -> nn.Module:
        return copy.deepcopy(network).eval().requires_grad_(False).to(tensors[0].device)

    def double(x: Any) -> Any:
        return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

    try:
        precise = copied().double()
        arguments = (tree_map(double, tuple(inputs)), tree_map(double, dict(kwargs)))
        _run(precise, *arguments)
        return precise, arguments, 1e-10
    except (RuntimeError, TypeError):
        dtypes = [p.dtype for p in network.parameters() if p.is_floating_point()]
        eps = max((torch.finfo(d).eps for d in dtypes), default=1e-7)
        return copied(), (tuple(inputs), dict(kwargs)), eps**0.5


def _run(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    with torch.no_grad():
        out = [x for x in tree_leaves(network(*args, **kwargs)) if isinstance(x, Tensor)]
    if not all(bool(x.isfinite().all()) for x in out):
        raise DirpruneError("the network gives NaN or infinity on the example inputs")
    return out
