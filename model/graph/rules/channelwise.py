"""Operations on each channel by itself: labels pass if they lie along other axes."""

from __future__ import annotations

from torch import fx

from ..labels import Labels
from ..propagation import Propagation, Result, Rule, op_name
from ..trace import shape_of
from .registry import register_rule


@register_rule("_native_batch_norm_legit_no_training", "batch_norm")
def _batch_norm(prop: Propagation, node: fx.Node) -> Result:
    labels = prop.labels(node.args[0])
    if labels is not None and labels.dims != (1,):
        prop.refuse(node, "its units do not lie along the channel axis")
        return [None]
    if labels is None:
        return [None]
    for arg in node.args[1:5]:
        if arg is None:
            continue
        name = prop.parameter(arg)
        if name is None:
            prop.refuse(node, "its statistics are computed, not buffers")
            return [None]
        prop.bind(name, 0, labels.ids)
    return [labels] if op_name(node) != "batch_norm" else labels


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
register_rule("upsample_bilinear2d", "upsample_bicubic2d")(_keeps_channels(2))
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


@register_rule("mean", "sum", "amax", "amin")
def _reduce(prop: Propagation, node: fx.Node) -> Result:
    labels = prop.labels(node.args[0])
    if labels is None:
        return None
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    axes = list(range(rank)) if axes in (None, []) else axes
    axes = [axes] if isinstance(axes, int) else axes
    gone = {int(d) % rank for d in axes}  # type: ignore[union-attr,arg-type]
    if gone & set(labels.dims):
        prop.refuse(node, "it sums over units")
        return None
    keep_dim = len(node.args) > 2 and bool(node.args[2])
    if keep_dim or node.kwargs.get("keepdim"):
        return labels
    return Labels(tuple(d - sum(g < d for g in gone) for d in labels.dims), labels.ids)
