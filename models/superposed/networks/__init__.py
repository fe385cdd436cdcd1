"""Networks that a store can hold."""

from superposed.networks.build import Network, build
from superposed.networks.mlp import LAYER_NORM_EPSILON, MLP, Observer, activate, plain_forward
from superposed.networks.prepared import PreparedMLP, prepared

__all__ = [
    "LAYER_NORM_EPSILON",
    "MLP",
    "Network",
    "Observer",
    "PreparedMLP",
    "activate",
    "build",
    "plain_forward",
    "prepared",
]
