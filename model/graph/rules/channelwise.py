"""Operations on each channel by itself: labels pass if they lie along other axes."""

from __future__ import annotations

import torch
from torch import fx

from ..labels import Labels
from ..propagation import Propagation, Result, Rule
from ..schema import arguments
from ..trace import shape_of
from .elementwise import pointwise
from .registry import register_rule


def _keeps_channels(spatial: int) -> Rule:
    """A rule for pooling over the last ``spatial`` axes."""

    def rule(prop: Propagation, node: fx.Node) -> Result:
        labels = prop.labels(node.args[0])
        rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
        if labels is not None and any(d >= rank - spatial for d in labels.dims):
            prop.refuse(node, "it pools over units")
            return None
        return labels

    return rule


for _rank in (1, 2, 3):
    register_rule(
        f"max_pool{_rank}d", f"avg_pool{_rank}d", f"adaptive_avg_pool{_rank}d", f"lp_pool{_rank}d"
    )(_keeps_channels(_rank))


for _mode in ("nearest1d", "nearest2d", "nearest3d"):
    register_rule(f"upsample_{_mode}")(_keeps_channels(int(_mode[-2])))
register_rule("upsample_linear1d")(_keeps_channels(1))
register_rule(
    *"upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa".split()
)(_keeps_channels(2))
register_rule("upsample_trilinear3d")(_keeps_channels(3))


def _with_indices(rule: Rule) -> Rule:
    """The same for an operation that returns (values, indices)."""

    def wrapped(prop: Propagation, node: fx.Node) -> Result:
        labels = rule(prop, node)
        assert not isinstance(labels, list)
        return [labels, labels]

    return wrapped


for _rank in (1, 2, 3):
    register_rule(f"max_pool{_rank}d_with_indices", f"adaptive_max_pool{_rank}d")(
        _with_indices(_keeps_channels(_rank))
    )


@register_rule("grid_sampler")
def _grid_sampler(prop: Propagation, node: fx.Node) -> Result:
    grid = node.args[1]
    assert isinstance(grid, fx.Node)
    prop.freeze_node(grid, "its values are places in an image")
    return _keeps_channels(len(shape_of(node)) - 2)(prop, node)


@register_rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def _softmax(prop: Propagation, node: fx.Node) -> Result:
    labels = prop.labels(node.args[0])
    rank, dim = len(shape_of(node)), node.args[1]
    assert isinstance(dim, int)
    if labels is not None and dim % rank in labels.dims:
        # At the end of a classifier: its outputs, which are protected anyway.
        prop.refuse(node, "its units are normalised together, as the network's outputs are")
        return None
    return labels


@register_rule(
    *"mean sum prod amax amin max min median std var std_mean var_mean aminmax logsumexp "
    "linalg_vector_norm norm argmax argmin any all count_nonzero".split()
)
def _reduce(prop: Propagation, node: fx.Node) -> Result:
    """A statistic over some axes, of which there may be several (values and indices)."""
    if torch.Tag.pointwise in node.target.tags:  # type: ignore[union-attr]
        return pointwise(prop, node)  # max(a, b)
    result = _kept_axes(prop, node)
    values = node.meta["val"]
    return [result] * len(values) if isinstance(values, tuple | list) else result


def _kept_axes(prop: Propagation, node: fx.Node) -> Labels | None:
    labels = prop.labels(node.args[0])
    if labels is None:
        return None
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    given = arguments(node)
    axes = given.get("dim")
    axes = list(range(rank)) if axes in (None, []) else axes
    gone = {int(d) % rank for d in ([axes] if isinstance(axes, int) else axes)}
    inside = gone & set(labels.dims)
    if inside == set(labels.dims) or (inside and prop.attention == "head-dims"):
        prop.refuse(node, "it sums over units")
        return None
    for dim in sorted(inside, reverse=True):
        # A statistic of each head over its features, or of each group: these go as a whole.
        ids = prop.unite(labels.ids, labels.dims.index(dim))
        labels = Labels(tuple(d for d in labels.dims if d != dim), ids)
    if given.get("keepdim"):
        return labels
    return Labels(tuple(d - sum(g < d for g in gone) for d in labels.dims), labels.ids)
