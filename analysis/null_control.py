"""The null control: learned from permuted labels, the posterior must predict nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy.stats import kendalltau
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ..inference.fit import Fit, GuideSpec, fit
from ..inference.loop import Loader, seed_of
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .diagnostics.elpd import chance, log_predictive, mean_and_error
from .diagnostics.findings import Finding, Floats, finding, not_computed
from .evidence import COST_DRAWS, COST_IMAGES, removal_cost
from .evidence.switches import draw_switches, each_restart, fixed_images
from .held_out import held_out
from .tree import evidence_draws

NAME = "null_control"
LEAST_IMAGES = 20  # of fewer even a leak of every label is hard to tell from chance


class Relabelled:
    """The batches of a loader with other labels, one and the same for an image each time.

    Args:
        loader: batches of (inputs, targets), without augmentation.
        labels: what :func:`permuted_labels` made.
    """

    def __init__(self, loader: Loader, labels: Mapping[bytes, int]) -> None:
        self.loader, self.labels = loader, labels

    @property
    def generator(self) -> Any:
        """The loader's own, where it has one: whoever seeds this seeds that."""
        return getattr(self.loader, "generator", None)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        for inputs, targets in self.loader:
            try:
                new = [self.labels[key] for key in _keys(inputs, len(targets))]
            except KeyError:
                raise DirpruneError(
                    "null control: the loader gave an image that it did not give before; expected "
                    "the same images in every pass, without augmentation"
                ) from None
            yield inputs, torch.tensor(new, dtype=targets.dtype, device=targets.device)


def permuted_labels(loaders: list[Loader], seed: int) -> dict[bytes, int]:
    """Image -> label, the labels of all images of all loaders permuted among them.

    An image is known by a hash of its numbers. One that occurs twice, in one loader or in two,
    keeps one label: so what leaks from the validation images into the fit leaks here too.
    """
    labels: dict[bytes, int] = {}
    for loader in loaders:
        for inputs, targets in loader:
            if targets.dim() != 1 or targets.is_floating_point():
                raise DirpruneError("the null control is for classification: labels to permute")
            labels.update(zip(_keys(inputs, len(targets)), targets.tolist(), strict=True))
    keys = sorted(labels)  # a shuffling loader gives them in another order each time
    order = np.random.default_rng(seed).permutation(len(keys))
    return {key: labels[keys[i]] for key, i in zip(keys, order, strict=True)}


def null_control(
    model: SwitchedNetwork,
    guide: GuideSpec,
    train: Loader,
    validation: Loader,
    *,
    tree: xr.DataTree | None = None,
    seed: int = 0,
    draws: int = 100,
    images: int = 500,
    **options: Any,
) -> Finding:
    r"""Learn a posterior from permuted labels and let it predict permuted validation labels.

    .. math:: \text{elpd} \le -H(f) = \sum_c f_c \log f_c

    in the mean over permutations, whatever is predicted, f being the classes' frequencies in the
    validation images (chance). And over all permutations of those labels, with the predictions as
    they are, elpd has a known mean and variance (Hoeffding 1951); z is its distance from that mean
    in standard deviations. The labels of all images are permuted together, and an image keeps its
    new label wherever it occurs. Signal: elpd above chance by more than 2 standard errors, or z >
    3, which also finds a leak into predictions that are confident and mostly wrong.

    It can tell that labels of validation images reach the fit: images that are in both sets, the
    wrong loader, a figure computed on what was fitted. It cannot tell whether the network's weights
    have seen validation images (they were trained before, on true labels), whether the true
    posterior is right, or that anything at all was learned from true labels. Few images or a stiff
    model hide a leak: a fit that cannot memorise labels has nothing to show.

    For information, Kendall's tau per site between the removal costs learned from true labels (of
    ``tree``) and from permuted ones, each at its own labels: how much of the ranking comes from the
    network and its activations alone. A high tau is no fault; it says that labels add little.

    Args:
        model: the switched network.
        guide: as in :func:`~dirprune.inference.fit.fit`.
        train: training images, without augmentation.
        validation: validation images.
        tree: the posterior learned from true labels, for the rankings.
        seed: of the permutation, the fit and the draws.
        draws, images: as in :func:`~.held_out.held_out`.
        options: those of ``fit`` (epochs, particles, lr, checkpoint, resume ...); one restart.

    Returns:
        The finding "null_control". Not computed where the likelihood is not categorical, or of
        fewer than 20 validation images.
    """
    try:
        labels = permuted_labels([train, validation], seed_of([seed, 0]))
    except DirpruneError as error:
        return not_computed(NAME, error)
    null_train, null_validation = Relabelled(train, labels), Relabelled(validation, labels)
    learned = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    try:
        fitted = fit(model, guide, null_train, restarts=1, seed=seed_of([seed, 1]), **options)
        found = held_out(model, fitted, null_validation, draws=draws, images=images, seed=seed)
        if "probabilities" not in found:
            return not_computed(NAME, "the null control is for classification: labels to permute")
        taus = {} if tree is None else ranking_agreement(model, fitted, null_train, tree, seed)
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in learned:
                    parameter.copy_(learned[name])
    return judge(found, taus)


def judge(found: xr.Dataset, taus: Mapping[str, float | None]) -> Finding:
    """The finding, from what :func:`~.held_out.held_out` made under permuted labels."""
    targets = found["targets"].values.astype(int)
    if len(targets) < LEAST_IMAGES:
        return not_computed(
            NAME, f"expected at least {LEAST_IMAGES} validation images, got {len(targets)}"
        )
    each = log_predictive(found["log_likelihood"].stack(s=("chain", "draw")).values.T)
    value, se = mean_and_error(each)
    blind = chance(targets)
    z = permutation_z(np.log(np.maximum(found["probabilities"].values, 1e-300)), targets)
    # Rounding: equal predictions for all images, and classes of equal size, have se = 0.
    beats_chance = value - blind > 2 * se + 1e-6
    good = not beats_chance and z < 3
    known = {site: tau for site, tau in taus.items() if tau is not None}
    text = (
        f"Learned from permuted labels, the posterior predicts permuted validation labels at "
        f"{value:.3f} nats per image (standard error {se:.3f}), where chance is {blind:.3f}. Among "
        f"all permutations of these labels that is {z:+.1f} standard deviations from the mean: "
        + (
            "no signal, as it should be."
            if good
            else "there is signal where none can be. Labels of validation images reach the fit; "
            "are some images in both sets?"
        )
    )
    if known:
        low, high = (pick(known, key=known.__getitem__) for pick in (min, max))
        upper = "" if low == high else f" to {known[high]:.2f} ({high})"
        text += (
            f" Kendall's tau between its ranking of units and the real one is {known[low]:.2f} "
            f"({low}){upper}: near 1 the ranking needs no labels, at 0 or below it comes from them."
        )
    content = {
        "elpd": value,
        "se": se if math.isfinite(se) else None,
        "chance": blind,
        "z": z,
        "images": len(each),
        "tau": dict(taus),
    }
    return finding(NAME, content, text, good)


def permutation_z(log_probability: Floats, targets: np.ndarray[Any, Any]) -> float:
    r"""How unusual the predictions' fit to these labels is among all permutations of the labels.

    .. math:: T = \sum_i a_{i, y_i}, \quad E\,T = n \bar a, \quad
              Var\,T = \frac{1}{n-1} \sum_{ij} (a_{ij} - \bar a_{i.} - \bar a_{.j} + \bar a)^2

    with :math:`a_{ij}` the log probability [n, C] that image i is given for the label of image j;
    sums over j are sums over classes, weighted by their frequency. 0 where T cannot vary.
    """
    classes, inverse, counts = np.unique(targets, return_inverse=True, return_counts=True)
    a, n = log_probability[:, classes], len(targets)
    weight = counts / n
    centred = a - (a @ weight)[:, None]
    centred = centred - centred.mean(0)
    sd = math.sqrt(float((centred**2 @ counts).sum()) / max(n - 1, 1))
    total = float(centred[np.arange(n), inverse].sum())
    return total / sd if sd > 1e-9 * (1 + float(np.abs(a).max())) else 0.0


def ranking_agreement(
    model: SwitchedNetwork, fitted: Fit, train: Loader, tree: xr.DataTree, seed: int
) -> dict[str, float | None]:
    """Kendall's tau between the removal costs of a tree and of another fit, site by site."""
    real = evidence_draws(tree, "removal-cost")
    if real is None:
        return {}
    inputs, targets = fixed_images(model, train, COST_IMAGES, seed)
    switches = draw_switches(model, fitted, COST_DRAWS, seed).switches
    (null,) = each_restart(
        model, fitted, switches, lambda s: removal_cost(model, s, inputs, targets)
    )
    taus: dict[str, float | None] = {}
    for site, costs in real.items():
        if costs.shape[-1] > 1:
            tau = float(kendalltau(costs.mean(0), null[site].mean(0)).statistic)
            taus[site] = tau if math.isfinite(tau) else None
    return taus


def _keys(inputs: Any, count: int) -> Iterator[bytes]:
    """A hash of each example of a batch, whatever tree of tensors its inputs are."""
    leaves = tree_leaves(tree_map(lambda x: x.detach().cpu(), inputs))
    arrays = [np.ascontiguousarray(leaf.numpy()) for leaf in leaves if isinstance(leaf, Tensor)]
    for i in range(count):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array[i].tobytes())
        yield digest.digest()
