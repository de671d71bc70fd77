"""The networks that dirprune brings, by name, and the reading of trained weights."""

from .digits import DigitsCNN
from .lenet import LeNet5
from .mlp import MLP
from .registry import NETWORKS, build_network, network_names
from .resnet_cifar import CifarResNet, PadShortcut
from .vgg import VGG16
from .weights import load_weights
from .wrn import WideResNet

__all__ = [
    "MLP",
    "NETWORKS",
    "VGG16",
    "CifarResNet",
    "DigitsCNN",
    "LeNet5",
    "PadShortcut",
    "WideResNet",
    "build_network",
    "load_weights",
    "network_names",
]
