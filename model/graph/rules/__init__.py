"""One rule per operation: what it does to channel labels.

A rule takes the :class:`~..propagation.Propagation` and the node, and returns the labels of the
node's value (None: no element has a label; a list for an operation with several results). They are
of four kinds, in files by family:

- *layers* (convolution, linear, embedding): labels go in, fresh labels come out;
- *element-wise* operations of any number of operands: labels meet and are coupled;
- *channel-wise* operations (pooling, norms): labels pass if they lie along other axes;
- *movements* (view, permute, cat, pad, slice ...): the very operation, applied to the labels; in
  ``parts`` those that take an axis of units apart, whose parts then shrink alike.

What torch itself tags as element-wise needs no rule. For an operation of your own, or one that is
missing, register one of these, or a function::

    @torch.library.custom_op("mylib::soft_clip", mutates_args=())
    def soft_clip(x: Tensor) -> Tensor: ...


    dirprune.register_rule("mylib::soft_clip")(pointwise)


    @dirprune.register_rule("mylib::scale_channels")  # of (x, scales): one scale for each channel
    def _scale_channels(prop, node):
        labels, scales = prop.labels(node.args[0]), prop.parameter(node.args[1])
        if labels is None:
            return None
        if labels.dims != (1,) or scales is None:
            prop.refuse(node, "its units do not lie along the channels, or its scales are computed")
            return None
        prop.bind(scales, 0, labels.ids)  # the scales shrink with the channels
        return labels

An operation of aten goes by its bare name ("cumsum"), one of another library with its namespace.
"""

from __future__ import annotations

from . import channelwise, contraction, embedding, layers, norms, parts, recurrent, transposed
from .elementwise import pointwise
from .movement import movement
from .registry import RULES, register_rule

# Imported so that their rules are registered.
_FAMILIES = (channelwise, contraction, embedding, layers, norms, parts, recurrent, transposed)

__all__ = ["RULES", "movement", "pointwise", "register_rule"]
