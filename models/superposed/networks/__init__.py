"""Networks that a store can hold."""

from superposed.networks.build import Network, build
from superposed.networks.convnet import convnet, resnet18
from superposed.networks.mlp import LAYER_NORM_EPSILON, MLP, Observer, activate, plain_forward
from superposed.networks.prepared import PreparedMLP, prepared
from superposed.networks.recorded import SIZES, RecordedMLP

__all__ = [
    "LAYER_NORM_EPSILON",
    "MLP",
    "SIZES",
    "Network",
    "Observer",
    "PreparedMLP",
    "RecordedMLP",
    "activate",
    "build",
    "convnet",
    "plain_forward",
    "prepared",
    "resnet18",
]
