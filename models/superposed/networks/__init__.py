"""The networks that a store can hold."""

from superposed.networks.mlp import LAYER_NORM_EPSILON, MLP, activate, plain_forward

__all__ = ["LAYER_NORM_EPSILON", "MLP", "activate", "plain_forward"]
