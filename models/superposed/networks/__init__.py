"""The networks that a store can hold."""

from superposed.networks.mlp import ACTIVATIONS, LAYER_NORM_EPSILON, MLP

__all__ = ["ACTIVATIONS", "LAYER_NORM_EPSILON", "MLP"]
