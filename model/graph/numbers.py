"""Numbers that a module holds beside its parameters: widths of padding, groups, heads.

They shrink with the units that they count, which the module has to allow.
"""

from __future__ import annotations

import torch
from torch import nn

from .propagation import Propagation


def settle_numbers(prop: Propagation, network: nn.Module) -> None:
    """Find where the network holds its numbers; freeze units whose number cannot be changed."""
    _freeze_paddings_without_a_handle(prop, network)
    _freeze_counts_without_an_attribute(prop, network)
    _count_heads(prop, network)


def _freeze_paddings_without_a_handle(prop: Propagation, network: nn.Module) -> None:
    """A module that pads channels must offer ``set_padding``; a literal in code cannot shrink."""
    for padding in prop.paddings:
        owner = network.get_submodule(padding.module)
        if not callable(getattr(owner, "set_padding", None)):
            place = f"{type(owner).__name__} {padding.module!r}".replace(" ''", "")
            prop.freeze(
                padding.ids,
                f"{place} pads channels by a number written in its code; "
                "give it a method set_padding(before, after)",
            )


def _freeze_counts_without_an_attribute(prop: Propagation, network: nn.Module) -> None:
    """The number must stand in an attribute of the module; a literal in code cannot shrink."""
    for (module, attribute), ids in prop.counts.items():
        owner = network.get_submodule(module)
        if getattr(owner, attribute, None) != len(ids):
            place = f"{type(owner).__name__} {module!r}".replace(" ''", "")
            prop.freeze(ids, f"{attribute} is a number written in the code of {place}")


def _count_heads(prop: Propagation, network: nn.Module) -> None:
    """Find the attribute in which an attention module holds the number of its heads.

    Without exactly one such, nothing is counted: then its parameters show the number, or a resizer
    knows it, or the pruned network differs from the masked one and its heads are left alone. Two
    products of one module that share the attribute lose the same heads.
    """
    for module, products in prop.heads.items():
        owner = network.get_submodule(module)
        for ids in products:
            labels = torch.tensor(list(dict.fromkeys(ids.tolist())))  # once, not for each example
            held = [
                name
                for name, value in vars(owner).items()
                if "head" in name and "dim" not in name and value == len(labels)
            ]
            if len(held) == 1:
                prop.couple(prop.counts.setdefault((module, held[0]), labels), labels)
