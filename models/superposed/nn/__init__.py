"""Networks that a store can hold."""

from superposed.nn.build import Network, build
from superposed.nn.convnet import convnet, resnet18
from superposed.nn.cpu_runtime import PreparedMLP, prepared
from superposed.nn.cuda_graph_runtime import SIZES, RecordedMLP
from superposed.nn.mlp import LAYER_NORM_EPSILON, MLP, Observer, activate, plain_forward

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
