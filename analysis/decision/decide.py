"""Which units stay under a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ...inference.loop import Loader
from ...model.cost import CostTable
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.switched import SwitchedNetwork
from ..evidence import Scores
from ..tree import cost_table
from .budget import by_site
from .drop_budget import find_within_drop
from .flat_scores import flat_scores
from .latency_budget import find_within_latency
from .removal import site_units
from .rule import Bools, Floats, Rule, Widths
from .widths import UNIFORM, check_widths

COUNTED = ("macs", "params", "keep")


def decide(
    model: SwitchedNetwork | xr.DataTree,
    evidence: Mapping[str, Scores] | Mapping[str, Tensor],
    *,
    macs: float | None = None,
    params: float | None = None,
    keep: float | None = None,
    latency: float | None = None,
    max_drop: float | None = None,
    widths: Widths = None,
    round_to: int | None = None,
    latency_inputs: Any = None,
    validation: Loader | None = None,
) -> Decision:
    """Choose the units that stay, over all sites at once; the widths follow from the budget.

    With ``macs`` or ``params`` the unit with the least score per multiply-add (or parameter) that
    its removal saves now goes first, counted again after each removal, until the cost is at most
    the budget. Then those that went come back where they fit, best first, until none does.
    Scores that do not compare across sites (concentrations) are taken relative to their site's
    mean, and not per cost; nor are those that compare but are no loss in nats (a scale, a ratio).
    Where single features of flattened channels are units, what a channel's removal saves counts its
    features that are left, and the decision keeps no feature without its channel.
    With ``keep`` the units with the least score go, exactly so many. Ties go by index, and no site
    loses its last unit.
    Several budgets all hold, each as an upper bound; where two bind, savings are weighed by how far
    each is from being met. The whole rule is that of :func:`~.budget.keep_within`.
    With ``latency`` the widths are those of the largest ``macs`` whose network is *measured* to be
    within the bound, in the median and in three quarters of the rounds, timed in turns with the
    original (:func:`~.latency_budget.find_within_latency`).
    With ``max_drop`` they are those of the smallest ``macs`` whose masked network loses at most so
    many points of accuracy on each half of ``validation``, of which the first chooses and the
    second confirms (:func:`~.drop_budget.find_within_drop`). Both searches are among the decisions
    that meet the other budgets.

    Args:
        model: the switched network, or a DataTree of ``posterior`` (which holds the cost table).
        evidence: site name -> :class:`Scores`, or plain 1-D scores, high = keep. A site without
            evidence keeps all its units.
        macs: the share of the network's multiply-adds that may be left, in (0, 1].
        params: the same for its parameters.
        keep: the share of all units that stays, in (0, 1], rounded to a whole number of units.
        latency: the share of the time that a forward pass may take, in (0, 1]; it needs the
            network, so a DataTree will not do.
        max_drop: percentage points of accuracy that may be lost, before any recalibration or
            fine-tuning; it needs the network and ``validation``.
        widths: None lets the scores choose; "uniform" keeps the same share of every site, the
            largest within the budgets (:func:`~.widths.keep_uniform`); a mapping site name ->
            units keeps so many of each, the best by score, needs no budget and takes none. Criteria
            are compared fairly at equal widths.
        round_to: every site's layers keep a multiple of so many channels, as hardware likes, or
            stay whole where they have fewer. The budget is then an upper bound (of ``keep`` too):
            units go in whole blocks, and come back where they fit. A layer that owns only some of a
            site's units (in a residual stream that grows) is not rounded by itself.
        latency_inputs: the batch to time, on the network's device; by default the model's example
            inputs. One thread of the CPU is used.
        validation: batches of held-out images, which nothing before was chosen by.

    Returns:
        The decision; where the evidence has draws, with each unit's inclusion probability: the
        share of draws under which this rule, applied to that draw's scores, keeps the unit. After
        ``latency`` or ``max_drop`` the rule is that of the ``macs`` that was found, which stands
        with all measured figures in ``settings["latency"]`` or ``settings["max_drop"]``; uniform
        widths leave their share in ``settings["share"]``; draws by which the widths cannot be met
        are left out of the probability and counted in ``settings["draws_left_out"]``.

    Raises:
        DirpruneError: no budget, one that is out of range or cannot be met, or that does not go
            with the others; widths that do not fit; evidence of another network.
    """
    table = cost_table(model) if isinstance(model, xr.DataTree) else model.costs
    check_widths(table, widths)
    budget = {
        name: value
        for name, value in {
            "macs": macs, "params": params, "keep": keep, "latency": latency, "max_drop": max_drop,
        }.items()
        if value is not None
    }  # fmt: skip
    _check_budget(budget, widths)
    budget = {name: float(value) for name, value in budget.items()}
    if round_to is not None and not (type(round_to) is int and round_to >= 1):
        raise DirpruneError(f"round_to={round_to}: expected a whole number of at least 1")
    if isinstance(widths, Mapping) and round_to is not None:
        raise DirpruneError("round_to rounds widths that follow from a budget: these are given")
    if round_to is not None and not table.nesting.is_flat:
        raise DirpruneError(
            "round_to rounds channels, and here single features of flattened channels are units: "
            "leave one of round_to and flatten='features'"
        )
    scores, draws = flat_scores(table, evidence)
    rule = rule_of(table, evidence, budget, widths, round_to)
    settings: dict[str, Any] = {"budget": budget}
    if round_to is not None:
        settings["round_to"] = round_to
    if widths is not None:
        settings["widths"] = widths if isinstance(widths, str) else dict(widths)
    if measured := {"latency", "max_drop"} & set(budget):
        if isinstance(model, xr.DataTree):
            (what,) = measured
            raise DirpruneError(
                f"budget {what}={budget[what]}: {_WHY[what]}: give the SwitchedNetwork rather than "
                "a DataTree"
            )

        def choose(share: float) -> dict[str, Tensor]:
            return by_site(table, rule.within(share)(scores))

        smallest = rule.smallest_macs(scores)
        if latency is not None:
            timed = find_within_latency(model, choose, latency, smallest, latency_inputs)
            settings["latency"] = timed.to_dict()
            rule = rule.within(timed.macs)
        elif max_drop is not None:
            if validation is None:
                raise DirpruneError(
                    f"budget max_drop={max_drop}: expected validation=, batches of held-out images"
                )
            found = find_within_drop(model, choose, max_drop, smallest, validation)
            settings["max_drop"] = found.to_dict()
            rule = rule.within(found.candidate.macs)
    if widths == UNIFORM:
        settings["share"] = rule.uniform(scores)[1]
    kept = by_site(table, rule(scores))
    inclusion: dict[str, Tensor] = {}
    masks = [] if draws is None else [_if_possible(rule, d) for d in draws]
    possible = [mask for mask in masks if mask is not None]
    if len(possible) < len(masks):
        settings["draws_left_out"] = len(masks) - len(possible)
    if possible:
        probability = np.mean(possible, axis=0)
        inclusion = {
            name: torch.from_numpy(probability[units].copy())
            for name, units in zip(table.sites, site_units(table), strict=True)
        }
    return Decision(kept, inclusion, settings)


_WHY = {
    "latency": "latency is measured, which needs the network",
    "max_drop": "accuracy is measured, which needs the network and images",
}


def rule_of(
    table: CostTable,
    evidence: Mapping[str, Scores] | Mapping[str, Tensor],
    budget: Mapping[str, float],
    widths: Widths,
    round_to: int | None,
) -> Rule:
    """The rule of these budgets, but for those that are measured."""
    # A loss can be weighed against a cost. A score that means something within its site only, or a
    # scale or a ratio, cannot: such criteria have a threshold for all sites.
    weighable = all(
        s.across_sites and s.unit in ("", "nats")
        for s in evidence.values()
        if isinstance(s, Scores)
    )
    return Rule(
        table,
        np.concatenate([np.full(k, n not in evidence) for n, k in table.sites.items()]),
        {what: share for what, share in budget.items() if what in COUNTED},
        widths,
        round_to or 1,
        per_cost=weighable and set(budget) != {"keep"},
    )


def draws_masks(
    model: SwitchedNetwork,
    evidence: Mapping[str, Scores],
    decision: Decision,
    number: int,
) -> list[dict[str, Tensor]]:
    """What so many draws of the evidence, evenly spaced, would keep by the decision's own rule.

    None of a decision that :func:`decide` did not make, nor of one in rounds, nor of one that a
    search has changed.
    Draws whose rule nothing meets are left out.
    """
    settings, table = decision.settings, model.costs
    if settings.get("rounds", 1) > 1 or {"refined", "reselected"} & set(settings):
        return []
    if not (set(settings.get("budget", ())) or isinstance(settings.get("widths"), Mapping)):
        return []
    check_widths(table, settings.get("widths"))
    _, draws = flat_scores(table, evidence)
    if draws is None:
        return []
    rule = rule_of(
        table, evidence, settings["budget"], settings.get("widths"), settings.get("round_to")
    )
    for measured in ("latency", "max_drop"):
        if measured in settings:
            rule = rule.within(settings[measured]["macs"])
    spaced = np.linspace(0, len(draws) - 1, min(number, len(draws))).round().astype(int)
    masks = [_if_possible(rule, draws[i]) for i in spaced]
    return [by_site(table, mask) for mask in masks if mask is not None]


def _if_possible(rule: Rule, scores: Floats) -> Bools | None:
    """What the rule keeps; None where it cannot be met by these scores.

    Widths that the scores do not choose can be out of reach of a single draw, since which of its
    units a layer must keep follows from the scores.
    """
    try:
        return rule(scores)
    except DirpruneError:
        return None


def _check_budget(budget: Mapping[str, Any], widths: Widths) -> None:
    """Refuse budgets that are out of range, or that do not go together."""
    if isinstance(widths, Mapping):
        if budget:
            raise DirpruneError(
                f"given widths need no budget, and take none: got {', '.join(budget)} too"
            )
        return
    if not budget:
        raise DirpruneError(
            "expected a budget of macs=, params=, keep=, latency= or max_drop= (or several), got "
            "none"
        )
    for what, value in budget.items():
        number = isinstance(value, Real) and not isinstance(value, bool)
        if what == "max_drop":
            if not (number and math.isfinite(value) and 0 <= value < 100):
                raise DirpruneError(
                    f"budget max_drop={value}: expected points of accuracy, from 0 to below 100"
                )
        elif not (number and 0 < value <= 1):
            raise DirpruneError(f"budget {what}={value}: expected a share in (0, 1]")
    if {"latency", "max_drop"} <= set(budget):
        raise DirpruneError(
            "budgets latency and max_drop are both met by search, one for the largest network and "
            "one for the smallest: give one of them"
        )
