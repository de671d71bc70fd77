"""A better sub-network of the same widths, for a network whose outputs are reconstructed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...inference.compensation.equations import NormalEquations
from ...inference.compensation.paired import PairedLayers
from ...inference.compensation.rows import Layer, as_rows, as_weight, out_axis
from ...inference.evaluate import eval_mode
from ...inference.loop import Loader, seed_of
from ...model.decision import Decision
from ...model.errors import DirpruneError
from ...model.options import check_numbers, keyword_options
from ...model.switched import SwitchedNetwork
from ..evidence.curvature import curvature
from ..evidence.elimination import Elimination, Regression
from ..evidence.readers import of_site, reading_layers
from ..evidence.reconstruction import POSITIONS, RIDGE, ridged
from ..evidence.scores import Passes
from ..evidence.switches import fixed_images, take, usual_batch
from .masks import Masks, equal_in_cost, is_same, kept_of, masks_of, without_promises

SWEEPS, IMAGES = 3, 3072


def reselect(
    model: SwitchedNetwork,
    decision: Decision,
    loader: Loader,
    *,
    sweeps: int = SWEEPS,
    images: int = IMAGES,
    positions: int = POSITIONS,
    ridge: float = RIDGE,
    seed: int = 0,
) -> Decision:
    r"""Choose the units of each site anew, given those of all others and reconstructed outputs.

    The criterion "reconstruction" takes each site alone, the others whole. When most of a network
    goes, that asks for what is not needed, the outputs that go themselves, and counts on what will
    not be there, the inputs as they were. So: site by site, in the order of the graph, as many
    units as the decision keeps are chosen anew, so that no cost changes, by the same backward
    elimination (:class:`~dirprune.analysis.evidence.elimination.Elimination`) of

    .. math:: \tfrac12 \sum_{o \text{ stays}} f_o\, E\left[(y_o - w_o^T \hat x_S)^2\right]
        + \text{ridge},

    y what the layers that read the site compute in the *original*, :math:`\hat x` what they read in
    the network as it is pruned and reconstructed by then, f the curvature of the loss in the
    original. The layers then get the weights that fit best, and the next site's turn comes. It is a
    descent by blocks, each solved greedily; later sweeps know which outputs stay. At the end of a
    sweep, layers that read what has changed since they were fitted (those of a residual stream) are
    fitted again, in the order of the graph, as "least-squares" does. Of the sweeps and the start,
    the one with the largest mean log likelihood stays, by a third of the images, drawn at random,
    which chose and fitted nothing.

    For networks that get the compensation "least-squares" afterwards, as those that judge here did;
    without it, :func:`~.search.refine` does better. Where features of flattened channels are units,
    they and these channels stay as they are.

    A removal takes time in the square of a layer's inputs, and every visit of a site a pass of both
    networks over the images: seconds for LeNet-5, many minutes for a site of resnet50 on a CPU.

    Args:
        model: the switched network.
        decision: what stays to begin with. Sites that keep all their units are left alone.
        loader: training images.
        sweeps: over all sites.
        images: training images, of which two thirds choose and fit.
        positions: of each image's outputs in a layer, drawn at random.
        ridge: as of the criterion "reconstruction".
        seed: of the positions, and of the images that judge.

    Returns:
        A decision without probabilities, which were those of another choice;
        ``settings["reselected"]`` has the sweeps, the passes, which sweep was chosen (0: none), how
        many units were swapped in each site, and the mean log likelihood of the reconstructed
        network at the start and after each sweep, in nats.

    Raises:
        DirpruneError: numbers out of range, fewer than three images, a decision that is of another
            network or removes nothing, outputs that are not finite, any site of the model that is
            read by anything but modules of one convolution or linear layer, of at most 8,192
            inputs.

    References:
        Yihui He, Xiangyu Zhang, Jian Sun, "Channel Pruning for Accelerating Very Deep Neural
        Networks", 2017, arXiv 1707.06168 (layers in turn, from what the pruned network reads).
        Ruichi Yu et al., "NISP: Pruning Networks using Neuron Importance Score Propagation", 2018,
        arXiv 1711.05908 (outputs that go ask for nothing).
    """
    given = {
        "sweeps": sweeps, "images": images, "positions": positions, "ridge": ridge, "seed": seed
    }  # fmt: skip
    check_numbers("reselect", keyword_options(reselect), given)
    masks = start = masks_of(model, decision)
    inputs, targets = fixed_images(model, loader, images)
    if len(targets) < 3:
        raise DirpruneError(f"reselect: {len(targets)} training images, expected at least 3")
    generator = torch.Generator().manual_seed(seed_of([seed]))
    order = torch.randperm(len(targets), generator=generator).to(model.device)
    judging, fitting = order[: len(order) // 3], order[len(order) // 3 :]
    work = _Reselection(model, take(inputs, fitting), targets[fitting], positions, ridge, seed)
    moving = [name for name in work.order if not bool(masks[name].all()) and _alone(model, name)]
    tried: list[Masks] = []
    values: list[float] = []
    # Where no site may move, there is the start alone.
    rounds = sweeps + 1 if moving else 1
    with tqdm(
        total=rounds * len(moving), desc="reselect", unit="site", disable=None, leave=False
    ) as bar:
        for sweep in range(rounds):
            for site in moving:
                masks = work.visit(site, masks, choose=sweep > 0)
                bar.update()
            work.settle(masks)
            value = work.log_prob(take(inputs, judging), targets[judging])
            # The same units, fitted at other positions, are no other choice.
            same = (v for m, v in zip(tried, values, strict=True) if is_same(m, masks))
            values.append(next(same, value))
            tried.append(masks)
    best = max(range(len(values)), key=lambda i: (values[i], -i))
    passes = work.passes + Passes(len(judging) * len(values))
    settings = {
        **without_promises(decision.settings),
        "reselected": {
            "sweeps": sweeps, "images": len(targets), "seed": seed, "chosen": best,
            "swapped": {n: int((tried[best][n] & ~m).sum()) for n, m in start.items()},
            "passes": asdict(passes), "log_prob": values,
        },
    }  # fmt: skip
    return Decision(kept_of(tried[best]), settings=settings)


def _alone(model: SwitchedNetwork, site: str) -> bool:
    """Is no unit of the site part of another or made of others?"""
    nesting, start = model.costs.nesting, model.graph.offsets[site]
    units = range(start, start + model.sites[site].size)
    return not any(nesting.is_part[unit] or unit in nesting.parts for unit in units)


class _Reselection:
    """A copy of the network in which nobody reads removed units, and fits make up for it."""

    def __init__(
        self,
        model: SwitchedNetwork,
        inputs: Any,
        targets: Tensor,
        positions: int,
        ridge: float,
        seed: int,
    ) -> None:
        self._model, self._inputs, self._images = model, inputs, len(targets)
        self._positions, self._ridge, self._seed = positions, ridge, seed
        self._readers = reading_layers(model, "reselect")
        self._curvature = curvature(model, self._readers, inputs, targets, "reselect")
        self._network = copy.deepcopy(model.network).eval()
        self._kinds = equal_in_cost(model.costs)
        self._fits = 0
        self._fitted: dict[str, int] = {}  # layer -> which of the fits was its last
        self.passes = Passes(len(targets), len(targets))

    @property
    def order(self) -> list[str]:
        """The sites, by where they are read first."""
        graph = self._model.graph
        at = {node: i for i, node in enumerate(graph.module.graph.nodes)}
        first = dict.fromkeys(self._model.sites, len(at))
        for consumer in graph.consumers:
            for name in first:
                if bool((of_site(self._model, name, consumer.units) >= 0).any()):
                    first[name] = min(first[name], at[consumer.node])
        return sorted(first, key=lambda name: first[name])

    @torch.no_grad()
    def visit(self, site: str, masks: Masks, choose: bool) -> Masks:
        """Choose the site's units, if so, and fit the layers that read them."""
        graph = self._model.graph
        readers = {
            name: own
            for name, kinds in self._readers.items()
            for own in (of_site(self._model, site, units) for units in kinds)
            if bool((own >= 0).any())
        }
        # Every unit of the site is there to be chosen; of the other sites, those that stay.
        whole = graph.keep_vector(kept_of({**masks, site: torch.ones_like(masks[site])}))
        fits = self._fit(readers, whole)
        if choose:
            keep = graph.keep_vector(kept_of(masks))
            regressions = [
                fit.regression(self._curvature[name] * self._writes(name, keep))
                for name, fit in fits.items()
            ]
            kinds = self._kinds[site]
            numbers = kinds[masks[site]].bincount(minlength=int(kinds.max()) + 1)
            left = Elimination(len(kinds), regressions).down_to(numbers, kinds)
            masks = {**masks, site: left}
        for fit in fits.values():
            fit.write(masks[site])
        return masks

    @torch.no_grad()
    def settle(self, masks: Masks) -> None:
        """Fit again, in the order of the graph, what reads something that has changed since."""
        keep, last = self._model.graph.keep_vector(kept_of(masks)), 0
        for name in self._readers:
            reads = self._reads(name, keep)
            if bool(reads.all()):
                continue
            # What was fitted together with an earlier layer has read what that one computed before.
            if self._fitted.get(name, 0) <= last:
                own = torch.full(reads.shape, -1)  # whoever owns them: the units are chosen
                self._fit({name: own}, keep)[name].write(torch.ones(1, dtype=torch.bool))
            last = max(last, self._fitted[name])

    def _fit(self, readers: Mapping[str, Tensor], keep: Tensor) -> dict[str, _Fit]:
        """The regressions of these layers, as the network is now, with the units that ``keep`` has.

        Args:
            readers: layer -> [F], the unit of the site that owns each input; -1 for the others.
            keep: over all units.
        """
        self._fits += 1
        self._fitted |= dict.fromkeys(readers, self._fits)
        pair = PairedLayers(
            "reselect", self._model, self._network, readers, positions=self._positions,
            seed=seed_of([self._seed, self._fits]),
        )  # fmt: skip
        found = pair.run(take(self._inputs, rows) for rows in self._rows())
        self.passes += Passes(2 * self._images)
        return {
            name: _Fit(
                self._model.network.get_submodule(name), self._network.get_submodule(name),
                found[name], own, self._reads(name, keep), self._ridge,
            )
            for name, own in readers.items()
        }  # fmt: skip

    @torch.no_grad()
    def log_prob(self, inputs: Any, targets: Tensor) -> float:
        """Mean log likelihood of images, under the network as it is now."""
        model, total = self._model, 0.0
        with eval_mode(self._network):
            for index in torch.arange(len(targets), device=model.device).split(usual_batch(inputs)):
                args, kwargs = model.arguments(take(inputs, index))
                outputs = model.picked(self._network(*args, **kwargs))
                total += float(model.likelihood(outputs).log_prob(targets[index]).sum())
        return total / len(targets)

    def _reads(self, name: str, keep: Tensor) -> Tensor:
        """[F]: which of a layer's inputs are there."""
        return torch.stack([keep[units] for units in self._readers[name]]).all(0)

    def _writes(self, name: str, keep: Tensor) -> Tensor:
        """[O]: which of a layer's outputs stay."""
        layer: Any = self._network.get_submodule(name)
        units = self._model.graph.axes.get((f"{name}.weight", out_axis(layer)))
        here = self._curvature[name]
        return torch.ones_like(here) if units is None else keep[units].to(here)

    def _rows(self) -> Iterator[Tensor]:
        images = torch.arange(self._images, device=self._model.device)
        yield from images.split(usual_batch(self._inputs))


class _Fit:
    """What a layer of the original computes, as a regression on what the pruned one reads.

    Args:
        original: the layer as it was, to whose weights the penalty pulls.
        layer: the same of the pruned network.
        equations: of the original's outputs less those of ``layer``, in its inputs.
        own: [F], the unit of the site that owns each input; -1 for the others.
        there: [F], which inputs are there where the site is whole.
        ridge: of the penalty, relative to the mean square of an input.
    """

    def __init__(
        self,
        original: Any,
        layer: Any,
        equations: NormalEquations,
        own: Tensor,
        there: Tensor,
        ridge: float,
    ) -> None:
        self._layer: Layer = layer
        self._there = there.to(layer.weight.device)
        self._own = own.to(layer.weight.device)
        moments, on = equations.moments(), self._there
        now = as_rows(layer).double()
        # Of the outputs themselves, where the equations have them less what the layer computes now.
        second, cross = moments.xx[on][:, on], (moments.xr + moments.xx @ now)[on]
        self._x, self._y = moments.x[on], moments.r + moments.x @ now
        if layer.bias is not None:
            self._y = self._y + layer.bias.double()
        self._second = ridged(second, ridge)
        # The penalty pulls to the original weights, and is measured on the inputs of the whole
        # site, so that it is the same for all of its choices.
        penalty = self._second.diagonal() - second.diagonal()
        self._cross = cross + penalty[:, None] * as_rows(original).double()[on]

    def regression(self, slopes: Tensor) -> Regression:
        """The fit of the whole site, whose units may be eliminated."""
        weight = torch.linalg.solve(self._second, self._cross)
        on = self._there
        return Regression(
            self._own[on].cpu(), self._second.cpu(), weight.cpu(), slopes.double().cpu()
        )

    def write(self, mask: Tensor) -> None:
        """Give the layer the weights that fit best where these units of the site stay."""
        own = self._own[self._there]
        left = (own < 0) | mask.to(own.device)[own.clamp(min=0)]
        weight = torch.zeros_like(as_rows(self._layer), dtype=torch.float64)
        fitted = torch.linalg.solve(self._second[left][:, left], self._cross[left])
        weight[self._there.nonzero()[:, 0][left]] = fitted
        self._layer.weight.copy_(as_weight(self._layer, weight).to(self._layer.weight.dtype))
        if self._layer.bias is not None:
            self._layer.bias.copy_((self._y - self._x[left] @ fitted).to(self._layer.bias.dtype))
