"""What the channels of a site show of an image, as the layers that read them see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..model.body import Gain
from ..model.errors import DirpruneError
from ..model.graph.examples import RESHAPES
from ..model.graph.propagation import op_name
from ..model.graph.trace import shape_of
from ..model.graph.units import Reading
from ..model.switched import SwitchedNetwork


@torch.no_grad()
def feature_maps(model: SwitchedNetwork, site: str, inputs: Any) -> Tensor:
    """The feature maps of a site's units, all gains one.

    A map is what the first layer reads that reads all of the units: after batch norm, activation
    and pool.

    Args:
        model: the switched network.
        site: one whose units are channels of two-dimensional maps.
        inputs: n examples.

    Returns:
        [n, K, H, W] on the CPU; of a unit that is several channels, the first.

    Raises:
        DirpruneError: no such site, or its units have no maps (a linear layer's).
    """
    if site not in model.sites:
        raise DirpruneError(
            f"feature maps: no site {site!r}; this network has {', '.join(model.sites)}"
        )
    reader = _reader(model, site)
    if reader is None:
        raise DirpruneError(
            f"feature maps: the units of site {site!r} are no channels of two-dimensional maps"
        )
    found: list[Tensor] = []

    def look(seen: Gain, x: Tensor) -> None:
        if seen is reader.gain:
            found.append(x)

    with model.body.watched(look):
        model.outputs_at_gains(inputs, model.unit_gains())
    maps = found[0].reshape(len(found[0]), *reader.shape)
    return maps[:, reader.channels.to(maps.device)].float().cpu()


def sites_with_maps(model: SwitchedNetwork) -> list[str]:
    """The sites whose maps :func:`feature_maps` finds, of more than a pixel; in network order."""
    readers = {site: _reader(model, site) for site in model.sites}
    return [site for site, r in readers.items() if r is not None and r.shape[1] * r.shape[2] > 1]


@dataclass(frozen=True)
class _Reader:
    """What reads the maps of all units of a site.

    Attributes:
        gain: stands before it.
        shape: (channels, H, W) of what it reads, channels of other sites included.
        channels: [K], the first channel of each unit.
    """

    gain: Gain
    shape: tuple[int, int, int]
    channels: Tensor


def _reader(model: SwitchedNetwork, site: str) -> _Reader | None:
    """The first layer that reads all units of a site as maps; None where there is none."""
    start, size = model.graph.offsets[site], model.sites[site].size
    for i, reader in enumerate(model.graph.consumers):
        shape = _map_shape(reader)
        gain = getattr(model.body.graph_module, f"gain_{i}", None)
        if shape is None or not isinstance(gain, Gain):
            continue
        # All features of a channel, of whatever unit, lie side by side.
        units = reader.units.view(shape[0], -1)[:, 0] - start
        channels = [(units == unit).nonzero()[:1, 0] for unit in range(size)]
        if all(len(first) == 1 for first in channels):  # else it reads some of the units only
            return _Reader(gain, shape, torch.cat(channels))
    return None


def _map_shape(reader: Reading) -> tuple[int, int, int] | None:
    """(channels, H, W) of what an operation reads, a flattened one included; None if it is none."""
    node: fx.Node = reader.source
    while op_name(node) in RESHAPES and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    shape = shape_of(node)
    whole = len(shape) == 4 and reader.examples.axis == 0 and reader.examples.per_example == 1
    if not whole or len(reader.units) not in (shape[1], shape[1] * shape[2] * shape[3]):
        return None
    flattened = len(shape_of(reader.source)) == 2
    fits = reader.dim == 1 and (flattened or node is reader.source)
    return (shape[1], shape[2], shape[3]) if fits else None
