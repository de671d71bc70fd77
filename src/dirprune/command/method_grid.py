"""What ``dirprune compare`` is asked to do with methods, and what is refused at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..analysis.compare import make_grid
from ..analysis.compare.cell import budget_name
from ..analysis.compare.grid import refuse_twice
from ..analysis.compare.method import Method, parse_method
from ..analysis.compare.outcome import Learned, Trial
from ..analysis.compare.protocol import NONE, PROTOCOLS, parse_chain
from ..analysis.compare.stages import STAGES
from ..analysis.decision.decide import decide
from ..analysis.evidence import CRITERIA, evidence, parse_criterion
from ..guides import make_guide
from ..guides.families import parse_guide
from ..model.errors import DirpruneError, unknown_name
from ..model.networks import load_weights
from ..model.priors import make_prior
from ..model.switched import SwitchedNetwork
from .checks import check_options
from .grid import SHARED, Grid
from .parts import new_network, read_data
from .settings import Settings


@dataclass(frozen=True)
class MethodGrid(Grid):
    """Methods against each other. Without temperatures the usual one is taken.

    Attributes:
        methods: as one writes them.
        protocols: names of ``PROTOCOLS``.
        compensations: as one writes them; None for those that suit the protocol and the network.
        few: the training images of the protocol low-data.
    """

    compared: ClassVar[str] = "methods"

    methods: Sequence[str] = ()
    protocols: Sequence[str] = ("one-shot",)
    compensations: Sequence[str] | None = None
    few: int = 500

    def trials(self) -> list[Trial]:
        """Every method on every network, for each posterior if it reads one; seed by seed."""
        temperatures: list[float | None] = [*self.temperatures] or [None]
        posteriors = [
            Learned(guide, prior, temperature)
            for prior in self.priors
            for temperature in temperatures
            for guide in self.guides
        ]
        return [
            Trial(method, posterior, seed, few)
            for seed in self.seeds
            for few in self.regimes
            for method in self.methods
            for posterior in (posteriors if parse_method(method).reads_posterior else [None])
        ]

    @property
    def regimes(self) -> list[int]:
        """The training images that trials have, 0 for all."""
        return list(dict.fromkeys(self.few if PROTOCOLS[p].few else 0 for p in self.protocols))

    def arms(self, trial: Trial, network: nn.Module) -> list[tuple[str, str]]:
        """What follows each choice of a trial: (protocol, compensation)."""
        usual = [NONE]
        if any(isinstance(m, _BatchNorm) and m.track_running_stats for m in network.modules()):
            usual = [NONE, "recalibrate"]
        found = []
        for name in self.protocols:
            protocol = PROTOCOLS[name]
            if protocol.few != bool(trial.few):
                continue
            if protocol.fresh:
                chains: Sequence[str] = [NONE]
            elif self.compensations is not None:
                chains = self.compensations
            else:  # before training, as 'dirprune run' does
                chains = usual[-1:] if protocol.trains else usual
            found += [(name, chain) for chain in chains]
        return found

    def of_trial(self, trial: Trial) -> Settings:
        """As ``dirprune run`` would have them."""
        posterior = trial.posterior
        s = replace(
            self.base, seed=trial.seed, budget=dict(self.budgets[0]),
            evidence=parse_method(trial.method).criterion,
        )  # fmt: skip
        if posterior is None:
            return s
        guide, options = parse_guide(posterior.guide)
        return replace(
            s, guide=guide, guide_options=options or None, prior=posterior.prior,
            temperature=posterior.temperature,
        )  # fmt: skip

    def shared(self) -> dict[str, Any]:
        """What must be equal for trials to stand in one table."""
        same = {name: getattr(self.base, name) for name in SHARED if name != "evidence"}
        return {**same, "finetune_epochs": self.base.finetune_epochs, "low_data": self.few}

    def axes(self) -> dict[str, Any]:
        return {
            **super().axes(), "evidence": list(self.methods), "protocols": list(self.protocols),
            "budgets": [budget_name(b) for b in self.budgets],
            "compensate": ["usual"] if self.compensations is None else list(self.compensations),
        }  # fmt: skip

    def refuse_misfits(self) -> None:
        """Refuse what does not fit the network, the data or the weights, before it is trained."""
        s = self.of_network(self.seeds[0])
        data = read_data(s)
        network = new_network(s, data)
        if s.weights is not None:
            load_weights(network, s.weights)
        if max(self.regimes) >= len(data.train):
            raise DirpruneError(
                f"--low-data {self.few}: {data.name} has {len(data.train)} training images, "
                "expected fewer"
            )
        for posterior in dict.fromkeys(trial.posterior for trial in self.trials()):
            model = SwitchedNetwork(
                network, data.train[[0, 1]][0], num_data=len(data.train),
                prior=make_prior(posterior.prior if posterior else s.prior), scaling=s.scaling,
                include=s.include, exclude=s.exclude, attention=s.attention, flatten=s.flatten,
            )  # fmt: skip
            if posterior is not None:
                self._check_guide(posterior, model)
        for method in self.methods:
            criterion = parse_method(method).criterion
            if not CRITERIA[parse_criterion(criterion)[0]].reads:  # the network alone
                evidence(criterion, model, None)
        ones = {name: torch.ones(site.size) for name, site in model.sites.items()}
        for budget in self.budgets:
            decide(model, ones, **budget, widths=self.base.widths)

    @staticmethod
    def _check_guide(posterior: Learned, model: SwitchedNetwork) -> None:
        name, options = parse_guide(posterior.guide)
        try:
            make_guide(name, model, options)
        except Exception as error:  # Pyro's guides raise what comes
            raise DirpruneError(
                f"--guides {posterior.guide} does not fit under the prior {posterior.prior}: "
                f"{error}"
            ) from error


def check_methods(grid: MethodGrid, processes: int | None) -> list[Trial]:
    """Refuse bad names and numbers."""
    methods = [parse_method(method) for method in grid.methods]
    refuse_twice("--evidence names", grid.methods, [_meaning(m) for m in methods])
    for name in grid.protocols:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
    refuse_twice("--protocol names", grid.protocols, grid.protocols)
    chains = grid.compensations or []
    refuse_twice("--compensate names", chains, [tuple(parse_chain(chain)) for chain in chains])
    names = [budget_name(budget) for budget in grid.budgets]
    refuse_twice("--budgets names", names, names)
    make_grid(grid.guides, grid.priors, grid.temperatures or [1.0], grid.seeds)
    for option, value in {"processes": processes, "low-data": grid.few}.items():
        if value is not None and value < 1:
            raise DirpruneError(f"--{option} {value}: expected a whole number of at least 1")
    if grid.few != MethodGrid.few and not any(PROTOCOLS[name].few for name in grid.protocols):
        raise DirpruneError(
            f"--low-data {grid.few} is for --protocol low-data, which was not asked"
        )
    trials = grid.trials()
    folding = [chain for chain in chains if "fold-gains" in chain]
    for trial in trials:
        check_options(grid.of_trial(trial))
        if folding and not parse_method(trial.method).needs_fit:
            raise DirpruneError(
                f"--compensate {folding[0]} folds the gains of a posterior, and "
                f"--evidence {trial.method} learns none that is left at the end"
            )
    return trials


def _meaning(method: Method) -> tuple[Any, ...]:
    """Equal for methods that do the same, however they are written."""
    name, given = parse_criterion(method.criterion)
    stages = tuple(
        (stage, frozenset({**STAGES[stage].options, **options}.items()))
        for stage, options in method.stages
    )
    return name, frozenset({**CRITERIA[name].options, **given}.items()), stages
