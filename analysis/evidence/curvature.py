"""The curvature of the loss in the outputs of layers."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...inference.compensation.rows import Layer, channel_axis
from ...inference.evaluate import eval_mode
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from .switches import grid, take, usual_batch

See = Callable[[str, Tensor, Tensor, Tensor], None]


def curvature(
    model: SwitchedNetwork,
    layers: Collection[str],
    inputs: Any,
    targets: Tensor,
    what: str,
    see: See | None = None,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""Layer -> [O], the diagonal of the empirical Fisher information in a layer's outputs.

    .. math:: f_o = E_i \Big[\sum_p (\partial \ell_i / \partial y_{iop})^2\Big]

    over examples i and positions p: twice the loss, in nats, that a squared error of one makes in
    output o. One forward and backward pass of every image.

    Args:
        model: the switched network, taken whole.
        layers: names of its modules.
        inputs, targets: images.
        what: asks; the message begins with it.
        see: is called at every call of a layer, with its name, input and output and the weights of
            the output's rows.
        weights: of the images in the mean, float64, one in the mean themselves; one by default.

    Raises:
        DirpruneError: outputs that are not finite; the network reads a layer's weight without
            calling the layer; with weights, a layer's outputs do not lie example by example.
    """
    modules: dict[str, Layer] = {
        name: model.network.get_submodule(name)  # type: ignore[misc]
        for name in layers
    }
    found: dict[str, Tensor] = {}
    outputs: list[tuple[str, Tensor]] = []
    weighed = torch.ones(0)  # the weights of the examples at work

    def of_rows(out: Tensor) -> Tensor:
        """The weights of an output's rows, of which each example has one or more."""
        if weights is None:
            return torch.ones(len(out), dtype=torch.float64, device=out.device)
        return weighed.repeat_interleave(len(out) // len(weighed))

    def hook(name: str, x: Tensor, out: Tensor) -> Tensor:
        if weights is not None and len(out) % len(weighed):
            raise DirpruneError(
                f"{what} needs outputs that lie example by example for its draws: those of {name} "
                f"have {len(out)} rows for {len(weighed)} examples"
            )
        if see is not None:
            with torch.no_grad():
                see(name, x.detach(), out, of_rows(out))
        if not out.requires_grad:  # a frozen network
            out.requires_grad_()
        outputs.append((name, out))
        return out.clone()  # which an activation may change in place

    with ExitStack() as stack:
        stack.enter_context(eval_mode(model.network))
        stack.enter_context(torch.enable_grad())
        for name, module in modules.items():
            stack.callback(_hooked(name, module, hook))
        for rows in grid(1, len(targets), usual_batch(inputs), "curvature"):
            index = rows.to(model.device)
            if weights is not None:
                weighed = weights[rows].to(model.device)
            outputs.clear()
            args, kwargs = model.arguments(take(inputs, index))
            read = model.picked(model.network(*args, **kwargs))
            if not bool(read.isfinite().all()):
                raise DirpruneError(
                    f"{what}: the network's outputs are not finite: look at the images and the "
                    "weights"
                )
            log_prob = model.likelihood(read).log_prob(targets[index]).sum()
            # An output that the picked one does not depend on has no slope.
            slopes = torch.autograd.grad(
                log_prob, [out for _, out in outputs], materialize_grads=True
            )
            for (name, _), slope in zip(outputs, slopes, strict=True):
                flat = slope.double().movedim(channel_axis(modules[name]), -1)
                squares = flat.reshape(len(flat), -1, flat.shape[-1]).square().sum(1)
                found[name] = found.get(name, 0) + of_rows(slope) @ squares
    if missing := [name for name in modules if name not in found]:
        raise DirpruneError(
            f"{what} needs the outputs of {', '.join(missing)}, whose weight the network uses "
            "without calling the module: leave the sites that it reads out by exclude, or take "
            "another criterion"
        )
    return {name: squares / len(targets) for name, squares in found.items()}


def _hooked(
    name: str, module: nn.Module, hook: Callable[[str, Tensor, Tensor], Tensor]
) -> Callable[[], None]:
    """Hook a module's calls; returns what takes the hook off."""
    return module.register_forward_hook(
        lambda module, args, kwargs, out: hook(name, args[0] if args else kwargs["input"], out),
        with_kwargs=True,
    ).remove
