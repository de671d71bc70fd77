"""One rule per operation: what it does to channel labels.

A rule takes the :class:`~..propagation.Propagation` and the node, and returns the labels of the
node's value (None: no element has a label; a list for an operation with several results). Its four
kinds, a file each:

- *layers* (convolution, linear): labels go in, fresh labels come out;
- *element-wise* operations of any number of operands: labels meet and are coupled;
- *channel-wise* operations (pooling, batch norm): labels pass if they lie along other axes;
- *movements* (view, permute, cat, pad, slice ...): the very operation, applied to the labels.

To add one, for an operation of your own or one that is missing::

    @register_rule("my_scale")
    def _my_scale(prop, node):
        return pointwise(prop, node)
"""

from __future__ import annotations

from . import channelwise, layers
from .elementwise import pointwise
from .movement import movement
from .registry import RULES, register_rule

__all__ = ["RULES", "channelwise", "layers", "movement", "pointwise", "register_rule"]
