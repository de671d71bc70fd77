"""Priors by name, as options and settings spell them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from ..errors import DirpruneError, unknown_name
from .alpha_over_k import AlphaOverK
from .base import NetworkPrior, Prior, PriorSpec
from .bn_scale import BatchNormScale
from .half_cauchy import HalfCauchy
from .hierarchical import Hierarchical
from .symmetric import Symmetric
from .weight_norm import WeightNorm


@dataclass(frozen=True)
class PriorFamily:
    """A prior that has a name: a dataclass whose fields are numbers, and a line about it."""

    make: Callable[..., Prior | NetworkPrior]
    summary: str

    @property
    def parameters(self) -> dict[str, float]:
        """Its parameters in their order, with their defaults."""
        kind: Any = self.make
        return {f.name: f.default for f in fields(kind) if f.default is not MISSING}


PRIORS: Mapping[str, PriorFamily] = {
    "symmetric": PriorFamily(Symmetric, "Dirichlet, the same concentration for every unit"),
    "alpha/K": PriorFamily(AlphaOverK, "Dirichlet, alpha in total whatever the width"),
    "hierarchical": PriorFamily(
        Hierarchical, "symmetric; each site's concentration has a Gamma prior and is inferred"
    ),
    "half-cauchy": PriorFamily(
        HalfCauchy, "each unit's concentration has a half-Cauchy prior: strong sparsity"
    ),
    "weight-norm": PriorFamily(
        WeightNorm, "Dirichlet, mean concentration alpha, by the norm of a unit's weights"
    ),
    "bn-scale": PriorFamily(
        BatchNormScale, "Dirichlet, mean concentration alpha, by |gamma| of a unit's batch norms"
    ),
}


def make_prior(spec: PriorSpec) -> Prior | NetworkPrior:
    """A prior from a name with values ("hierarchical:2:1"), a number (symmetric) or a callable.

    Values that are left out, all together, are the defaults.

    >>> make_prior("hierarchical:2:1")
    Hierarchical(shape=2.0, rate=1.0)
    >>> make_prior("half-cauchy")
    HalfCauchy(scale=0.1)
    >>> make_prior(0.5)
    Symmetric(alpha=0.5)

    Raises:
        DirpruneError: an unknown name, too many or too few values, or one that is no positive
            number.
    """
    if isinstance(spec, str):
        return _parse(spec)
    if isinstance(spec, int | float) and not isinstance(spec, bool):
        return Symmetric(float(spec))
    if isinstance(spec, NetworkPrior) and not isinstance(spec, type):
        return spec
    if callable(spec) and not any(spec is family.make for family in PRIORS.values()):
        return spec
    raise DirpruneError(
        "prior: expected a name, a number or a callable Site -> Distribution, got "
        f"{spec!r}" + (", a class: call it first" if isinstance(spec, type) else "")
    )


def _parse(spec: str) -> Prior | NetworkPrior:
    name, *texts = spec.split(":")
    family = PRIORS.get(name)
    if family is None:
        try:
            alpha = float(spec)
        except ValueError:
            raise unknown_name("prior", name, PRIORS) from None
        return Symmetric(alpha)
    defaults = family.parameters
    if not texts:
        return family.make()
    form = ":".join([name, *map(str.upper, defaults)])
    example = ":".join([name, *(f"{value:g}" for value in defaults.values())])
    if len(texts) != len(defaults):
        raise DirpruneError(
            f"prior {spec!r}: expected {len(defaults)} value{'s' * (len(defaults) > 1)} after the "
            f"name ({form}), as in {example}, or the name alone; got {len(texts)}"
        )
    try:
        values = [float(text) for text in texts]
    except ValueError:
        raise DirpruneError(
            f"prior {spec!r}: expected a number after each colon ({form}), as in {example}"
        ) from None
    return family.make(*values)
