"""Networks by name, dirprune's, torchvision's and one's own, and the reading of trained weights."""

from .digits import DigitsCNN
from .lenet import LeNet5
from .mlp import MLP
from .own import is_own
from .registry import NETWORKS, build_known, build_network, network_names, usual_arguments
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
    "build_known",
    "build_network",
    "is_own",
    "load_weights",
    "network_names",
    "usual_arguments",
]
