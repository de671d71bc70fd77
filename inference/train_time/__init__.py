"""Methods that prune a network while they train it: rivals of deciding from a posterior.

Each trains a :class:`~.masked.MaskedNetwork`, whose forward pass draws a mask of the weights, by
the usual :func:`~dirprune.inference.training.train`, and gives a :class:`~.result.Pruned`.
"""

from .gibbs import gibbs_layers, gibbs_pruning
from .gibbs_structures import STRUCTURES
from .layers import weight_layers
from .result import Pruned
from .spp import structured_probabilistic_pruning

__all__ = [
    "STRUCTURES",
    "Pruned",
    "gibbs_layers",
    "gibbs_pruning",
    "structured_probabilistic_pruning",
    "weight_layers",
]
