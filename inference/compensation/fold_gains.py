"""Gains folded into the weights of the layers that read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...model.errors import DirpruneError
from ...model.graph.propagation import layer_of
from .task import Report, Task


@torch.no_grad()
def fold_gains(task: Task, network: nn.Module) -> Report:
    r"""Multiply the columns of every weight by the gains of the units that it reads.

    .. math:: W'_{oj} = W_{oj} \, g_{u(j)}

    with u(j) the unit behind input feature j. In the model a gain multiplies what the consumers of
    a unit read, so that the folded network is the model at these gains, with those of the removed
    units at zero: exactly, whatever stands between producer and consumer.

    Gains are folded as they are. The means of a posterior over all units average one over all of
    them, hence more than one over the kept, and are gains of a network in which nothing is missing.
    Those that make up for what is gone are of a posterior that is learned again over the units that
    are left::

        small = SwitchedNetwork(pruned, images, num_data=n)
        gains = mean_gains(small, fit(small, "dirichlet", loader))
        better = compensate("fold-gains", small, Decision({}), pruned, gains=gains)

    Raises:
        DirpruneError: no gains, or a unit has one that no weight can take: where it is a feature
            of the products of queries with keys, or where one weight reads and produces it.
    """
    graph, keep = task.model.graph, task.keep
    gains = torch.cat([*task.gains.values(), torch.ones(1, dtype=torch.float64)])  # at the end, -1
    changed = keep & (gains != 1)
    for product in graph.products:
        _refuse(task, product.units[changed[product.units]], "products of queries with keys")
    layers: dict[str, dict[str, float]] = {}
    for (weight, axis), readings in _columns(task).items():
        stays = keep[graph.axes[weight, axis]]
        factors = torch.ones(int(stays.sum()), dtype=torch.float64)
        for units in readings:
            if (weight, axis) in graph.produced:
                _refuse(task, units[changed[units]], f"{weight}, which produces it too")
            factors *= gains[units[stays]]
        parameter = network.get_parameter(weight)
        view = [-1 if d == axis else 1 for d in range(parameter.dim())]
        # In float64: a product that is rounded once.
        parameter.copy_(parameter.double() * factors.view(view).to(parameter.device))
        layers[layer_of(weight)] = {
            "least": float(factors.min()),
            "mean": float(factors.mean()),
            "most": float(factors.max()),
        }
    return Report(layers)


def _columns(task: Task) -> dict[tuple[str, int], list[Tensor]]:
    """(weight, axis) of all consumers -> unit numbers, once each: a layer may be used twice.

    They are of two kinds where columns have gains of a channel and of its features.
    """
    found: dict[tuple[str, int], list[Tensor]] = {}
    for c in task.model.graph.consumers:
        known = found.setdefault((c.weight, c.axis), [])
        if not any(torch.equal(c.units, units) for units in known):
            known.append(c.units)
    return found


def _refuse(task: Task, units: Tensor, reader: str) -> None:
    """An error if there are any such units."""
    graph = task.model.graph
    for name, start in graph.offsets.items():
        if bool(((units >= start) & (units < start + graph.sites[name].size)).any()):
            raise DirpruneError(
                f"compensation {task.name!r}: the gains of site {name!r} act on {reader}, where no "
                "weight can take them: leave the site out of gains="
            )
