"""What layers of a changed network read, beside what they computed in the original."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..evaluate import eval_mode
from .equations import NormalEquations
from .rows import Layer, features_of, input_rows, out_axis, output_rows, sample_positions

CHUNK = 2**22  # numbers in the rows that are summed up at a time


class _Done(BaseException):
    """A forward pass has come to the last call of all layers: what follows need not be computed."""


class PairedLayers:
    """Runs both networks on the same images, and sums up the regressions of some layers.

    Of each layer: what the original's computes, at sampled positions, in terms of what the changed
    network's layer reads there.

    Args:
        what: asks; messages begin with it.
        model: the switched network, with the network as it was.
        network: the changed one, with modules of the same names.
        names: of the layers.
        rows: layer -> which of the original's outputs the changed layer still has; all where a
            layer is not named.
        positions: of each image's outputs in a layer, drawn at random.
        seed: of the positions.
    """

    def __init__(
        self,
        what: str,
        model: SwitchedNetwork,
        network: nn.Module,
        names: Collection[str],
        *,
        rows: Mapping[str, Tensor] | None = None,
        positions: int,
        seed: int,
    ) -> None:
        self._what, self._model, self._positions = what, model, positions
        self._networks = (model.network, network)
        self._layers: dict[str, Layer] = {
            name: network.get_submodule(name)  # type: ignore[misc]
            for name in names
        }
        self._rows = rows or {}
        self._generator = torch.Generator().manual_seed(seed)
        self._equations = {
            name: NormalEquations(
                features_of(layer), layer.weight.shape[out_axis(layer)],
                intercept=layer.bias is not None, device=layer.weight.device,
            )
            for name, layer in self._layers.items()
        }  # fmt: skip
        # The original's outputs at sampled positions, one entry for each call in a forward pass.
        self._wanted: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self._layers}
        self._calls, self._seen = 0, 0  # in a forward pass, 0 before the first; so far in this one

    def run(self, batches: Iterable[Any]) -> dict[str, NormalEquations]:
        """The sums over the inputs of these batches; of no rows where a layer is not called.

        Raises:
            DirpruneError: the original calls a layer more often than the changed network.
        """
        with ExitStack() as stack:
            for network, hook in zip(self._networks, (self._see_original, self._see), strict=True):
                stack.enter_context(eval_mode(network))
                for name in self._layers:
                    handle = network.get_submodule(name).register_forward_hook(
                        lambda layer, args, kwargs, out, name=name, hook=hook: hook(
                            name, args[0] if args else kwargs["input"], out
                        ),
                        with_kwargs=True,
                    )
                    stack.callback(handle.remove)
            for inputs in batches:
                for network in self._networks:
                    self._seen = 0
                    with suppress(_Done):
                        args, kwargs = self._model.arguments(inputs)
                        network(*args, **kwargs)
                for name, left in self._wanted.items():
                    if left:
                        raise DirpruneError(
                            f"{self._what}: the original network calls {name!r} more often than "
                            "the pruned one, so that its outputs cannot be reconstructed"
                        )
                self._calls = self._seen
        return self._equations

    def _see_original(self, name: str, x: Tensor, out: Tensor) -> None:
        layer = self._layers[name]
        where = sample_positions(layer, out, self._positions, self._generator)
        self._wanted[name].append((where, output_rows(layer, out, where)))
        self._count()

    def _see(self, name: str, x: Tensor, out: Tensor) -> None:
        if not self._wanted[name]:  # called in the changed network alone: nothing to compare with
            return
        layer = self._layers[name]
        where, wanted = self._wanted[name].pop(0)
        step = max(1, CHUNK // (features_of(layer) * where.shape[1]))
        if name in self._rows:
            wanted = wanted[:, self._rows[name]]
        wanted = wanted.unflatten(0, where.shape)
        for part in (slice(i, i + step) for i in range(0, len(where), step)):
            target = wanted[part].flatten(0, 1)
            now = output_rows(layer, out[part], where[part])
            inputs = input_rows(layer, x[part], out[part], where[part])
            self._equations[name].add(inputs, target - now, target)
        self._count()

    def _count(self) -> None:
        self._seen += 1
        if self._seen == self._calls:
            raise _Done
