"""Networks that a store can hold."""

from superposed.nn.build import Network, build, convnet, plain_network, resnet18
from superposed.nn.mlp import LAYER_NORM_EPSILON, MLP, activate, plain_forward

__all__ = ["LAYER_NORM_EPSILON", "MLP", "Network", "activate", "build", "convnet", "plain_forward", "plain_network"]
__all__ += ["resnet18"]
