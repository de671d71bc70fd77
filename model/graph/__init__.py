"""The channel graph: which layers share units, who reads them, and what they cost.

``trace`` turns a network into a flat functional graph, ``propagation`` walks it with one small
``rule`` per operation, and ``channels`` gathers what the rules said into prunable sites.
"""

from __future__ import annotations

from .channels import ChannelGraph, build_channel_graph
from .labels import Labels
from .propagation import Propagation
from .rules import register_rule

__all__ = ["ChannelGraph", "Labels", "Propagation", "build_channel_graph", "register_rule"]
