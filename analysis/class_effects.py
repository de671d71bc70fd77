"""What each removal does to each class."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical

from ..inference.classes import check_classes
from ..inference.loop import Loader
from ..model.decision import Decision
from ..model.errors import DirpruneError
from ..model.switched import SwitchedNetwork
from .evidence.switches import fixed_images, predictions, take
from .masked import masked_gains

IMAGES = 500


@dataclass(frozen=True)
class ClassEffects:
    """What removals do per class, on held-out images.

    Attributes:
        units: site -> [U], the units whose removal was looked at.
        loss: site -> [U, C], how much a class's mean loss rises when one unit's gain is 0 alone, in
            nats; below zero where its removal helps.
        accuracy: site -> [U, C], how much a class's accuracy falls then, in points.
        joint_loss: [C], the same for all units that the decision removes, together; None without a
            decision.
        joint_accuracy: [C], likewise.
        images: [C], how many of each class were looked at; where there are none, figures are NaN.
        class_names: of the C classes.
    """

    units: Mapping[str, Tensor]
    loss: Mapping[str, Tensor]
    accuracy: Mapping[str, Tensor]
    joint_loss: Tensor | None
    joint_accuracy: Tensor | None
    images: Tensor
    class_names: tuple[str, ...]


def class_effects(
    model: SwitchedNetwork,
    loader: Loader,
    decision: Decision | None = None,
    *,
    images: int = IMAGES,
    sites: Collection[str] | None = None,
    units: Mapping[str, Sequence[int]] | None = None,
    class_names: Collection[str] | None = None,
) -> ClassEffects:
    r"""Remove every unit alone, and what a decision removes together, and see which classes pay.

    .. math:: \Delta_{kc} = E_{i: y_i = c}\left[\ell_i(g_k = 0) - \ell_i(1)\right]

    with :math:`\ell_i` the negative log likelihood of example i. It takes (1 + units + 1) x images
    forward passes, of the units that are looked at.

    Args:
        model: the switched network, of a classifier.
        loader: held-out images.
        decision: adds the joint removal.
        images: at most so many, the first ones of the loader under a fixed seed.
        sites: those whose units are removed; None takes all, or those of ``units``.
        units: site -> the units of it that are removed; of other sites all are.
        class_names: by default the classes' numbers.

    Raises:
        DirpruneError: an unknown site or unit, too few names, an empty loader, no classifier, or
            targets that are none of its classes.
    """
    if images < 1:
        raise DirpruneError(f"images: expected at least 1, got {images}")
    some = units or {}
    chosen = {
        name: _units(model, name, some.get(name))
        for name in (sites if sites is not None else some or model.sites)
    }
    if decision is not None:
        decision.check(model.sites)
    inputs, targets = fixed_images(model, loader, images)
    ones = model.unit_gains()
    _check_targets(model, inputs, targets)
    base = _by_class(model, ones, inputs, targets, "trained network")
    classes = base.loss.shape[1]
    names = tuple(map(str, range(classes)) if class_names is None else class_names)
    if len(names) != classes:
        raise DirpruneError(f"class_names: expected {classes}, got {len(names)}")
    loss, accuracy = {}, {}
    for name, index in chosen.items():
        size = model.sites[name].size
        alone = 1 - torch.eye(size, dtype=ones[name].dtype, device=model.device)[index]
        gains = {n: alone if n == name else one.expand(len(index), -1) for n, one in ones.items()}
        found = _by_class(model, gains, inputs, targets, f"removals from {name}")
        loss[name] = found.loss - base.loss
        accuracy[name] = base.accuracy - found.accuracy
    joint = None
    if decision is not None:
        gone = masked_gains(model, decision.kept)
        joint = _by_class(model, gone, inputs, targets, "the decision")
    return ClassEffects(
        chosen,
        loss,
        accuracy,
        None if joint is None else (joint.loss - base.loss)[0],
        None if joint is None else (base.accuracy - joint.accuracy)[0],
        torch.bincount(targets.cpu(), minlength=classes),
        names,
    )


def _units(model: SwitchedNetwork, site: str, wanted: Sequence[int] | None) -> Tensor:
    """The units of a site that are asked for."""
    if site not in model.sites:
        raise DirpruneError(
            f"class effects: no site {site!r}; this network has {', '.join(model.sites)}"
        )
    size = model.sites[site].size
    units = torch.tensor(range(size) if wanted is None else list(wanted))
    if not len(units) or int(units.min()) < 0 or int(units.max()) >= size:
        raise DirpruneError(
            f"class effects: units {units.tolist()} of site {site!r}: expected some of 0 to "
            f"{size - 1}"
        )
    return units


@torch.no_grad()
def _check_targets(model: SwitchedNetwork, inputs: Any, targets: Tensor) -> None:
    """By the outputs for one image: the likelihood says only that something is out of range."""
    one = take(inputs, torch.zeros(1, dtype=torch.long, device=model.device))
    outputs = model.outputs_at_gains(one, model.unit_gains())
    predicted = model.likelihood(outputs)
    if not isinstance(predicted, Categorical) or len(predicted.batch_shape) != 1:
        raise DirpruneError("class effects are for classifiers, with one class for each image")
    check_classes(outputs.expand(len(targets), -1), targets)


@dataclass(frozen=True)
class _ByClass:
    """Mean loss in nats and accuracy in percent of each class, [S, C], under S rows of gains."""

    loss: Tensor
    accuracy: Tensor


def _by_class(
    model: SwitchedNetwork, gains: Mapping[str, Tensor], inputs: Any, targets: Tensor, label: str
) -> _ByClass:
    number, count = len(next(iter(gains.values()))), len(targets)
    labels = targets.cpu()
    sums: Tensor | None = None  # [S * C, 2]
    classes = 0
    for rows, log_prob, probabilities in predictions(model, gains, inputs, targets, label=label):
        assert probabilities is not None  # the likelihood is of one class for each image
        label_of = labels[rows % count]
        if sums is None:
            classes = probabilities.shape[1]
            sums = torch.zeros(number * classes, 2, dtype=torch.float64)
        right = (probabilities.argmax(1) == label_of).double()
        sums.index_add_(0, rows // count * classes + label_of, torch.stack([-log_prob, right], 1))
    assert sums is not None  # there is an image
    each = torch.bincount(labels, minlength=classes).double()
    means = sums.view(number, classes, 2) / each[:, None]
    return _ByClass(means[..., 0], 100 * means[..., 1])
