"""The networks that a store can hold."""

from superposed.networks.mlp import LAYER_NORM_EPSILON, MLP, activate, plain_forward
from superposed.networks.prepared import PreparedMLP

__all__ = ["LAYER_NORM_EPSILON", "MLP", "PreparedMLP", "activate", "plain_forward"]
