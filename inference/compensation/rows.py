"""A linear layer's inputs and outputs as rows of a regression, at sampled positions."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model.selected import SelectedLinear

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConv = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
Layer = Conv | TransposedConv | nn.Linear


def channel_axis(layer: nn.Module) -> int:
    """Where a layer's outputs [B, ...] have their channels; all other axes are positions."""
    return -1 if isinstance(layer, nn.Linear) else 1


def sample_positions(
    layer: nn.Module, out: Tensor, number: int, generator: torch.Generator
) -> Tensor:
    """For each example ``number`` positions of the outputs, or all, without repetition: [B, P]."""
    positions = out.numel() // max(1, len(out) * out.shape[channel_axis(layer)])
    if positions <= number:
        return torch.arange(positions).expand(len(out), positions)
    return torch.rand(len(out), positions, generator=generator).topk(number).indices


def output_rows(layer: nn.Module, out: Tensor, where: Tensor) -> Tensor:
    """Outputs [B, ...] at positions [B, P], as a copy [B x P, channels]."""
    flat = out.movedim(channel_axis(layer), -1)
    flat = flat.reshape(len(out), -1, flat.shape[-1])
    return flat[torch.arange(len(out))[:, None], where].flatten(0, 1)


def input_rows(layer: Layer, x: Tensor, out: Tensor, where: Tensor) -> Tensor:
    """What the outputs at these positions are linear in: [B x P, features].

    The features are (input channel, kernel position), row-major.
    """
    if isinstance(layer, SelectedLinear):
        x = layer.selected(x)
    if isinstance(layer, nn.Linear):
        return output_rows(layer, x, where)
    spatial = out.dim() - 2
    if isinstance(layer, TransposedConv):
        x, stride = _spread(layer, x, out), [1] * spatial
    else:
        # What the layer's own forward pads by, computed for "same" and "valid" too.
        pad = layer._reversed_padding_repeated_twice
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x, stride = F.pad(x, pad, mode), list(layer.stride)
    # A view of all patches, of which the sampled ones alone are copied.
    for axis in range(spatial):
        reach = (layer.kernel_size[axis] - 1) * layer.dilation[axis] + 1
        x = x.unfold(2 + axis, reach, stride[axis])[..., :: layer.dilation[axis]]
    patches = x.movedim(1, 1 + spatial)  # [B, *positions, C, *kernel]
    index = torch.unravel_index(where, out.shape[2:])
    rows = patches[(torch.arange(len(x))[:, None], *index)]
    return rows.reshape(where.numel(), -1)


def _spread(layer: TransposedConv, x: Tensor, out: Tensor) -> Tensor:
    """Inputs with zeros between them, of which the layer is a plain convolution of stride 1."""
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True)]
    spread = x.new_zeros(*x.shape[:2], *sizes)
    spread[(slice(None), slice(None), *(slice(None, None, s) for s in layer.stride))] = x
    pad: list[int] = []
    for axis in reversed(range(len(sizes))):
        reach = (layer.kernel_size[axis] - 1) * layer.dilation[axis]
        before = reach - int(layer.padding[axis])
        pad += [before, out.shape[2 + axis] + reach - sizes[axis] - before]
    return F.pad(spread, pad)


def as_weight(layer: Layer, rows: Tensor) -> Tensor:
    """A matrix [features of :func:`input_rows`, outputs] as the layer's weight."""
    shape = layer.weight.shape
    if not isinstance(layer, TransposedConv):
        return rows.T.reshape(shape)
    # [in, out, *kernel], and the kernel lies the other way round.
    turned = rows.T.reshape(shape[1], shape[0], *shape[2:])
    return turned.flip(*range(2, len(shape))).transpose(0, 1)


def as_rows(layer: Layer) -> Tensor:
    """The layer's weight as a matrix [features of :func:`input_rows`, outputs]."""
    weight = layer.weight.detach()
    if isinstance(layer, TransposedConv):
        weight = weight.transpose(0, 1).flip(*range(2, weight.dim()))
    return weight.flatten(1).T


def features_of(layer: Layer) -> int:
    """How many inputs each output is linear in."""
    return prod(layer.weight.shape) // layer.weight.shape[out_axis(layer)]


def out_axis(layer: Layer) -> int:
    """The axis of the weight along which the outputs lie."""
    return 1 if isinstance(layer, TransposedConv) else 0


def holder(network: nn.Module, weight: str) -> str | None:
    """The one module whose weight it is, if that is a convolution or a linear layer."""
    parameter = network.get_parameter(weight)
    held = [
        name
        for name, module in network.named_modules()
        if any(p is parameter for p in module._parameters.values())
    ]
    if len(held) != 1:
        return None
    layer = network.get_submodule(held[0])
    fits = isinstance(layer, Conv | TransposedConv | nn.Linear) and layer.weight is parameter
    return held[0] if fits else None
