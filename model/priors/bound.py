"""Dirichlets whose concentrations are proportional to a norm that was read off the network."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import DirpruneError
from ..graph.channels import ChannelGraph
from ..sites import Site
from .dirichlet import Dirichlet

# The least concentration of a unit, as a share of the site's mean. A unit whose norm is 0 must not
# get concentration 0, which is no Dirichlet, and at .01 of the default the density is still one
# that guides and samplers in float64 can follow.
FLOOR = 0.01


@dataclass(frozen=True, repr=False)
class BoundPrior:
    r""":math:`s_l \sim \text{Dirichlet}(a_{l1}, \dots, a_{lK_l})` with given concentrations.

    Args:
        source: the prior that was bound, as it calls itself.
        concentrations: site -> the K concentrations.
        floored: site -> units whose concentration was raised to the floor.

    Raises:
        DirpruneError: when called on a site of another network.
    """

    source: str
    concentrations: Mapping[str, tuple[float, ...]]
    floored: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __call__(self, site: Site) -> Dirichlet:
        values = self.concentrations.get(site.name)
        if values is None or len(values) != site.size:
            raise DirpruneError(
                f"prior {self!r} is bound to another network: it does not know {site}; give "
                f"{self.source} itself"
            )
        return Dirichlet(torch.tensor(values, dtype=torch.float64))

    def __repr__(self) -> str:
        # The checksum tells two networks apart, in the identity of a checkpoint say.
        crc = zlib.crc32(repr(sorted(self.concentrations.items())).encode())
        floored = sum(map(len, self.floored.values()))
        note = f", {floored} units at the floor" if floored else ""
        return f"{self.source} bound to {len(self.concentrations)} sites (crc {crc:08x}{note})"


def proportional(
    source: object, alpha: float, graph: ChannelGraph, squares: Tensor, what: str
) -> BoundPrior:
    r"""Concentrations :math:`a_k = \alpha K n_k / \sum_j n_j`, with n the units' norms.

    A norm below ``FLOOR`` times the site's mean is raised to that, with a warning.

    Args:
        source: the prior that is being bound.
        alpha: the mean concentration of every site.
        graph: gives the units their numbers.
        squares: the squared norm of every unit of every site, float64.
        what: what the norm is of, for messages.

    Raises:
        DirpruneError: a site's norms are not finite, or all zero.
    """
    concentrations, floored = {}, {}
    for name, start in graph.offsets.items():
        norm = squares[start : start + graph.sites[name].size].sqrt()
        if not bool(norm.isfinite().all()) or not bool(norm.any()):
            raise DirpruneError(
                f"prior {source!r}: site {name!r}: {what} are "
                f"{'all zero' if bool(norm.isfinite().all()) else 'not finite'}: is the network "
                "trained?"
            )
        least = FLOOR * norm.mean()
        low = norm < least
        if bool(low.any()):
            floored[name] = tuple(low.nonzero()[:, 0].tolist())
        norm = norm.clamp(min=least)
        concentrations[name] = tuple((alpha * norm / norm.mean()).tolist())
    if floored:
        number = sum(map(len, floored.values()))
        warnings.warn(
            f"prior {source!r}: {what} of {number} units ({', '.join(floored)}) are below "
            f"{FLOOR:.0%} of their site's mean; they were raised to that, since a concentration "
            "of 0 is no prior",
            stacklevel=2,
        )
    return BoundPrior(repr(source), concentrations, floored)
