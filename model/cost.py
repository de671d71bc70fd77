"""What a decision costs: multiply-adds and parameters as functions of the units kept.

Both are sums of terms ``coefficient x (kept rows) x (kept columns)``: a convolution's multiply-adds
are out-positions x kernel x inputs x outputs, its weight has kernel x inputs x outputs elements, a
bias or a batch norm has one row factor alone. Rows and columns count *kept* features, each owned by
a unit (or by none, then it always stays).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from .errors import DirpruneError
from .graph.channels import ChannelGraph
from .graph.units import CostTerm
from .nesting import Nesting

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Term:
    """coefficient x (fixed_rows + sum of kept rows) x (fixed_columns + sum of kept columns).

    ``rows[u]`` is how many row features unit u owns; likewise ``columns``.
    """

    coefficient: int
    fixed_rows: int
    rows: Counts
    fixed_columns: int
    columns: Counts


class CostTable:
    """Multiply-adds and parameters of every decision on one network.

    Units are numbered over all sites, in the order of ``sites``. ``needed`` holds sets of units of
    which one must stay, besides one unit of each site (``ChannelGraph.needed``).
    ``nesting`` says which units are parts of others, and go with them.
    """

    def __init__(
        self,
        sites: Mapping[str, int],
        macs: tuple[int, list[Term]],
        params: tuple[int, list[Term]],
        needed: Sequence[Sequence[int]] = (),
        nesting: Nesting | None = None,
    ) -> None:
        self.sites = dict(sites)
        self.nesting = nesting or Nesting.none(sum(self.sites.values()))
        self.needed = [list(units) for units in needed]
        self.terms = {"macs": macs, "params": params}

    @property
    def num_units(self) -> int:
        return sum(self.sites.values())

    def keep_vector(self, kept: Mapping[str, Tensor]) -> NDArray[np.bool_]:
        """A decision as booleans over the unit numbers, closed."""
        parts = []
        for name, size in self.sites.items():
            part = np.ones(size, dtype=bool)
            if name in kept:
                part[:] = False
                part[kept[name].numpy()] = True
            parts.append(part)
        return self.nesting.close(np.concatenate(parts) if parts else np.ones(0, dtype=bool))

    def total(self, what: str, kept: Mapping[str, Tensor] | None = None) -> int:
        """``what`` ("macs" or "params") with the kept units, by default all."""
        keep = self.keep_vector(kept or {})
        fixed, terms = self.terms[what]
        return fixed + sum(
            t.coefficient
            * (t.fixed_rows + int(t.rows[keep].sum()))
            * (t.fixed_columns + int(t.columns[keep].sum()))
            for t in terms
        )

    # -- storage: plain lists, run-length by site, so that it fits an attribute of a NetCDF file ---

    def to_dict(self) -> dict[str, Any]:
        def axis(counts: Counts) -> list[list[Any]]:
            out: list[list[Any]] = []
            start = 0
            for i, size in enumerate(self.sites.values()):
                part = counts[start : start + size]
                start += size
                if part.any():
                    same = bool((part == part[0]).all())
                    out.append([i, int(part[0]) if same else part.tolist()])
            return out

        return {
            "sites": self.sites,
            "needed": self.needed,
            "nesting": None if self.nesting.is_flat else self.nesting.to_dict(),
            **{
                what: {
                    "fixed": fixed,
                    "terms": [
                        [
                            t.coefficient,
                            t.fixed_rows,
                            axis(t.rows),
                            t.fixed_columns,
                            axis(t.columns),
                        ]
                        for t in terms
                    ],
                }
                for what, (fixed, terms) in self.terms.items()
            },
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> CostTable:
        sites = {str(name): int(size) for name, size in data["sites"].items()}
        starts = np.cumsum([0, *sites.values()])

        def axis(runs: list[list[Any]]) -> Counts:
            counts = np.zeros(starts[-1], dtype=np.int64)
            for i, value in runs:
                counts[starts[i] : starts[i + 1]] = value
            return counts

        def read(part: Mapping[str, Any]) -> tuple[int, list[Term]]:
            return int(part["fixed"]), [
                Term(int(c), int(fr), axis(r), int(fc), axis(k))
                for c, fr, r, fc, k in part["terms"]
            ]

        nested = data.get("nesting")  # absent in files of an older version
        return CostTable(
            sites,
            read(data["macs"]),
            read(data["params"]),
            data["needed"],
            Nesting.from_dict(nested) if nested else None,
        )


def build_cost_table(network: nn.Module, graph: ChannelGraph, total_macs: int) -> CostTable:
    """The cost table of a network; ``total_macs`` (:func:`count_macs`) holds what has no term."""
    units = graph.num_units
    macs = [_term(term, units) for term in graph.macs]
    axes: dict[str, dict[int, Tensor]] = {}
    for (name, axis), numbers in graph.axes.items():
        axes.setdefault(name, {})[axis] = numbers
    params = []
    for name, parameter in network.named_parameters():
        owned = axes.get(name)
        if not owned:
            continue
        rest = prod(size for axis, size in enumerate(parameter.shape) if axis not in owned)
        first, *more = owned.values()
        params.append(_term(CostTerm(name, rest, first, more[0] if more else None), units))
    table = CostTable({s.name: s.size for s in graph.sites.values()}, (0, macs), (0, params))
    fixed = {"macs": total_macs, "params": count_params(network)}
    return CostTable(
        table.sites,
        (fixed["macs"] - table.total("macs"), macs),
        (fixed["params"] - table.total("params"), params),
        [units.tolist() for _, units in graph.needed],
        graph.nesting,
    )


def _term(term: CostTerm, units: int) -> Term:
    def count(numbers: Tensor | None) -> tuple[int, Counts]:
        if numbers is None:
            return 1, np.zeros(units, dtype=np.int64)
        owned = numbers[numbers >= 0].numpy()
        return len(numbers) - len(owned), np.bincount(owned, minlength=units).astype(np.int64)

    fixed_rows, rows = count(term.rows)
    fixed_columns, columns = count(term.columns)
    return Term(term.coefficient, fixed_rows, rows, fixed_columns, columns)


def count_params(network: nn.Module) -> int:
    """Number of parameters (weights and biases; statistics of batch norms are buffers)."""
    return sum(p.numel() for p in network.parameters())


def count_macs(
    network: nn.Module,
    inputs: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
) -> int:
    """Multiply-adds for one example, by torch's ``FlopCounterMode`` (two flops each)."""
    batch = _batch_size(tree_leaves((inputs, dict(kwargs or {}))))
    training = {module: module.training for module in network.modules()}
    network.eval()
    # The fused kernels for attention are not counted on a CPU; what they are made of is.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            network(*inputs, **(kwargs or {}))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode in training.items():
            module.training = mode
    return counter.get_total_flops() // (2 * batch)


def _batch_size(leaves: Iterable[Any]) -> int:
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.dim():
            return leaf.shape[0]
    raise DirpruneError("the example inputs hold no tensor with a batch axis")
